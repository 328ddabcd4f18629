"""What meets the world: definitions that come with the package."""
