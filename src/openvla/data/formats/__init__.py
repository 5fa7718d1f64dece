"""Data sets of every format, behind one door: told apart by content, read as episodes."""
