"""From an index to batches: which frame comes when, read, decoded and put together."""
