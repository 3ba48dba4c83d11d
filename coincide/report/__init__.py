"""Results -> tables, plots, HTML."""
