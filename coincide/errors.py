"""The errors that a user can mend."""

from __future__ import annotations

from collections.abc import Mapping


class UserError(Exception):
    """A mistake the user can mend: the message says what was got, expected, and the remedy.

    ``run.py`` and the module command lines print it without a traceback and exit with status 2.
    """


class PartlyFailed(UserError):
    """Some of several things failed, and what the others gave is kept."""

    def __init__(self, message: str, failures: Mapping[str, str]) -> None:
        super().__init__(message)
        self.failures = dict(failures)
        """Name of each that failed -> why, in one line."""


class HealthError(UserError):
    """A health gate closed: going on would spend hours on a broken selection."""
