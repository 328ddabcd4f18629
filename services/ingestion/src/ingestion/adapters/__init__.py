"""Between ingestion and the world: contracts, JSON, keys and tables."""
