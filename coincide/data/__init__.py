"""Datasets: files on disk in, examples out."""
