"""LeRobot data sets: read in versions 2 and 3, written in version 3.0."""
