"""The data sets that are known by name, one declarative record each, and what a record is made of."""
