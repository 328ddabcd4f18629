"""What clients say, sorted to the department that owns it, and the loop closed."""
