"""Robot demonstrations: read, write, standardise, load."""
