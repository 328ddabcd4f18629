"""How the application's ports meet the key store, the directory and files."""
