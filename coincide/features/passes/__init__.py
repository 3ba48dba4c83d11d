"""One file for each model that signals come from: what its signals share, and its pass."""
