"""Simulators and closed-loop evaluation; runs without torch."""
