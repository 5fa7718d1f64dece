"""Encoded camera images to pixels, and their augmentation."""
