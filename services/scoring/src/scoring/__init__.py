"""What it is worth, how sure we are, and which events say so."""
