"""The errors a user can cause: one clear line each, and the exit code that goes with it."""

import difflib
from collections.abc import Iterable

# Of a message; what a damaged file holds, and a message quotes, may be endless.
MOST_LETTERS = 1200


class CorralError(Exception):
    """Something failed for a reason that the message names, with the remedy; the command line exits with 1."""

    exit_code = 1

    def __str__(self) -> str:
        text, half = super().__str__(), MOST_LETTERS // 2
        return text if len(text) <= MOST_LETTERS else f"{text[:half]} ... {text[-half:]}"


class UsageError(CorralError):
    """The request itself is wrong (an unknown key, an impossible value); the command line exits with 2."""

    exit_code = 2


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that is the closest to a wrong one, as the end of a message; empty where none is close."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
