"""What scoring does with what it hears and what it is asked."""
