"""Facts in, figures out: pure."""
