"""Whether an error means that memory ran out."""

from __future__ import annotations

SAID = ("out of memory", "status_alloc_failed", "not enough memory")
"""What CUDA, cuBLAS and torch's CPU allocator say."""


def is_out_of_memory(error: BaseException) -> bool:
    """True for torch's own error, for Python's, and for what libraries say in other words."""
    import torch

    said = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in said for words in SAID)
    )
