"""What a run costs, and whether this machine bears it."""
