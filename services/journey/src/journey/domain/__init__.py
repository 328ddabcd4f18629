"""What a client's history means: pure, no I/O, no clock, no randomness."""
