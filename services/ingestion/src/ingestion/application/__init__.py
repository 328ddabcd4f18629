"""What ingestion does with its decisions: loads what they need, appends what they say, answers what is asked."""
