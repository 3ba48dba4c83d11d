"""Errors that a user can correct."""

from __future__ import annotations

from collections.abc import Mapping


class UserError(Exception):
    """A mistake that the user can correct.

    The message says what was found, expected, and the remedy. ``run.py`` and the module command
    lines print it without a traceback and exit with status 2.
    """


class PartlyFailed(UserError):
    """Some of several items failed; the results of the others are kept."""

    def __init__(self, message: str, failures: Mapping[str, str]) -> None:
        super().__init__(message)
        self.failures = dict(failures)
        """Name of each that failed -> why, in one line."""


class HealthError(UserError):
    """A health limit was exceeded: going on would spend hours on a broken selection."""
