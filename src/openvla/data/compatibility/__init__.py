"""Do the actions of two data sets mean the same? In words."""
