"""Arrays in, arrays out: clustering, neighbours, kernels, allocation and token scores.

This package imports numpy and torch alone. Bad input raises ``ValueError`` with what was got,
what was expected and the remedy.
"""
