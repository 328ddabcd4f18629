"""Where calls and messages come in."""
