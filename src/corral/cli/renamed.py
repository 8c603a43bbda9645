"""Options by their earlier names: read, with one line that says the name of today."""

import sys
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
