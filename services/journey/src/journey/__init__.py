"""Where each client is in which journey, and what the next channel must know."""
