"""Results: read off artifacts, by content, written without secrets, read back."""
