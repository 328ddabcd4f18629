"""How scoring is reached."""
