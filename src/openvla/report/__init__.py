"""The look and the parts of self-contained HTML reports, shared by all that write one."""
