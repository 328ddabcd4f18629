"""What meets the world: definitions that come with the package, tokens, and the contract's messages."""
