"""Identity decides whose interaction it is, and which two clients are one."""
