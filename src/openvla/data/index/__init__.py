"""Where everything lies: the index of a data set, for frames in any order."""
