"""What ingestion decides: pure functions over what was offered, what is registered and what was recorded before."""
