"""Policies over the network; runs without torch."""
