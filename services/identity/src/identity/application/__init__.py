"""What identity does with interactions, commands and questions."""
