"""Inference: a checkpoint that acts."""
