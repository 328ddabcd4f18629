"""Identity's ports, on real things."""
