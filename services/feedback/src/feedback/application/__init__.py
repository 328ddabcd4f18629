"""What feedback does with what arrives and what is asked, over the log and its tables."""
