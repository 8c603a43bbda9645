"""Earlier names on the command line: read, with one line that gives the present name."""

import warnings
from collections.abc import Sequence
from typing import Any

from corral.cli.streams import say

RENAMED = {"--fresh": "--overwrite", "--linear": "--fit-heads"}


def with_new_names(arguments: Sequence[str]) -> list[str]:
    """The `arguments` of a command with the present names of options; each earlier name is a line on stderr."""
    found = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in RENAMED:
            say("corral: ", f"{name} is called {RENAMED[name]} now", "yellow", err=True)
            argument = RENAMED[name] + equals + value
        found.append(argument)
    return found


def tell_in_one_line() -> None:
    """Show the library's warnings of earlier names as one line on stderr, each once."""
    trace, said = warnings.formatwarning, set[str]()

    def line(message: Warning | str, category: type[Warning], *where: object, **more: object) -> str:
        text = str(message)
        if not (issubclass(category, FutureWarning) and text.endswith(" now")):
            return trace(message, category, *where, **more)  # type: ignore[arg-type]
        words = "" if text in said else f"corral: {text}\n"
        said.add(text)
        return words

    def shown(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        word, colon, rest = warnings.formatwarning(message, category, *where[:2]).partition(": ")
        if word:
            say(word + colon, rest.removesuffix("\n"), "yellow", err=True)

    warnings.formatwarning, warnings.showwarning = line, shown
