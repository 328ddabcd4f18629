"""Ingestion: what channel systems report, taken once for ever, with an account of every event offered."""
