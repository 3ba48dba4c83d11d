"""Whether an error means that memory ran out."""

from __future__ import annotations

SAID = ("out of memory", "status_alloc_failed", "not enough memory")
"""Messages of CUDA, cuBLAS and torch's CPU allocator."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that memory ran out: torch's and Python's own errors, or their
    messages.
    """
    import torch

    said = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in said for words in SAID)
    )
