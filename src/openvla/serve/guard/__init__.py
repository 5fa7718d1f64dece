"""What may come in, from whom and how much of it, and which actions may go out."""
