"""What the service does: takes in facts, carries out commands, answers questions."""
