"""What people see: the live page, and the simulator that is driven from it."""
