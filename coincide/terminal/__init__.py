"""The terminal: progress, outside text made inert and free of secrets."""
