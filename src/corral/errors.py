"""The errors a user can cause: one clear line each, and the exit code that goes with it."""


class CorralError(Exception):
    """Something failed for a reason that the message names, with the remedy; the command line exits with 1."""

    exit_code = 1


class UsageError(CorralError):
    """The request itself is wrong (an unknown key, an impossible value); the command line exits with 2."""

    exit_code = 2
