"""What an item is about, who owns it, and whether the loop is closed: pure, time and ids arrive on the command."""
