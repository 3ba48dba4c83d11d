"""The core of the laboratory and the COINCIDE method (EMNLP 2024, arXiv 2406.10995)."""
