"""Finished work, replayed into wandb. The ledger and the store are the truth."""
