"""Earlier names on the command line: read, with one line that says the name of today."""

import sys
import warnings
from collections.abc import Sequence

RENAMED = {"--fresh": "--overwrite", "--linear": "--fit-heads"}


def with_new_names(arguments: Sequence[str]) -> list[str]:
    """A command's arguments with the options' names of today; every earlier name is told on stderr.

    Args:
        arguments: as `sys.argv[1:]`; an option may hold its value after an equals sign.
    """
    found = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in RENAMED:
            sys.stderr.write(f"corral: {name} is called {RENAMED[name]} now\n")
            argument = RENAMED[name] + equals + value
        found.append(argument)
    return found


def tell_in_one_line() -> None:
    """Let the library's warnings of earlier names be one line on stderr, each said once."""
    trace, said = warnings.formatwarning, set[str]()

    def line(message: Warning | str, category: type[Warning], *where: object, **more: object) -> str:
        text = str(message)
        if not (issubclass(category, FutureWarning) and " is called " in text and text.endswith(" now")):
            return trace(message, category, *where, **more)  # type: ignore[arg-type]
        words = "" if text in said else f"corral: {text}\n"
        said.add(text)
        return words

    warnings.formatwarning = line
