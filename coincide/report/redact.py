"""Texts from outside as the report shows them: without credentials, and inert."""

from coincide.terminal.inert import printable
from coincide.terminal.redact import is_secret, redact

__all__ = ["is_secret", "printable", "redact"]
