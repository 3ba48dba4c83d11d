"""The errors that a user can mend."""


class UserError(Exception):
    """A mistake the user can mend: the message says what was got, expected, and the remedy.

    ``run.py`` and the module command lines print it without a traceback and exit with status 2.
    """


class HealthError(UserError):
    """A health gate closed: going on would spend hours on a broken selection."""
