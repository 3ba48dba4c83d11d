"""The engine of a pass: shards, claims, workers, devices. It knows no model and no signal."""
