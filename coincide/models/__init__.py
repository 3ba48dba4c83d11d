"""Checkpoints, conversation templates, and examples as tensors."""
