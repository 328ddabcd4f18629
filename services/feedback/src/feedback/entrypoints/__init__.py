"""How the world reaches feedback: gRPC, the bus and the clock."""
