"""What was found out about large data, kept in the per-user cache so that it need not be found out again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corral.distributed import ranks
from corral.errors import CorralError
from corral.files import write_atomically

FOLDER = "streamed"


def known(what: str, key: str, find: Callable[[], Any], *, valid: Callable[[Any], bool]) -> Any:
    """What `find` returns, or returned when it was last asked with this key.

    Of several processes on a machine the first one asks; all of them call this alike.

    Args:
        what: the kind of what is found.
        key: hexadecimal digits of all that it follows from.
        find: makes it, of what JSON has.
        valid: whether something read from the cache can be it; what cannot is found anew.
    """
    return ranks.once_a_machine(lambda: _known(f"{what}-{key}.json", find, valid))


def _known(name: str, find: Callable[[], Any], valid: Callable[[Any], bool]) -> Any:
    """The same, of this process alone."""
    path = _place(name)
    if path is not None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or damaged
            found = None
        if found is not None and valid(found):
            return found
    made = find()
    if path is not None:
        try:
            write_atomically(path, json.dumps(made).encode())
        except CorralError:  # no room or no right to write: the next process finds it anew
            return made
    return made


def _place(name: str) -> Path | None:
    """A file's path in the per-user cache; None for a user without a home."""
    import pooch

    try:
        return Path(pooch.os_cache("corral")) / FOLDER / name
    except RuntimeError:
        return None
