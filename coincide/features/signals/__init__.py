"""One file for each signal: its name, storage, width, and how it is read off a pass."""
