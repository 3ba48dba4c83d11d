"""Models run over rows: batches, hooks, towers. Imports torch; loaded when a pass begins."""
