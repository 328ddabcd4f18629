"""How scoring's records lie in the store."""
