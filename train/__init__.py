"""Finetuning: a subset and a recipe become a LoRA adapter, one process per rank."""
