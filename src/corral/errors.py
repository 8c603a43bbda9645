"""The errors a user can cause: one clear line each, and the exit code that goes with it."""

import difflib
from collections.abc import Iterable

# Of a message, and of a word in it; what a damaged file holds, and a message quotes, may be endless.
MOST_LETTERS, MOST_OF_A_WORD = 4000, 300


class CorralError(Exception):
    """Something failed for a reason that the message names, with the remedy; the command line exits with 1."""

    exit_code = 1

    def __str__(self) -> str:
        # One line, whatever it quotes: a key of a damaged file may hold a line break.
        text = "\\n".join(super().__str__().splitlines())
        if len(text) <= MOST_OF_A_WORD:
            return text
        return shortened(" ".join(shortened(word, MOST_OF_A_WORD) for word in text.split(" ")), MOST_LETTERS)


class UsageError(CorralError):
    """The request itself is wrong (an unknown key, an impossible value); the command line exits with 2."""

    exit_code = 2


def shortened(text: str, most: int) -> str:
    """A text without its middle where it has more letters than `most`."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that is the closest to a wrong one, as the end of a message; empty where none is close."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
