"""The client of each service: thin, typed, and every failure a RemoteRefusal."""
