"""What the shell completes at a TAB, in a fraction of a second: names from an index, runs from their folders."""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import typer

from corral import zoo
from corral.cli.names import known

# What a TAB looks at: folders this deep, and so many of their files, for a data set may have millions.
DEPTH, MOST_ENTRIES = 4, 20_000
RUN_FILES = ("recipe.toml", "model.safetensors")
Completer = Callable[[typer.Context, str], list[str]]


def names(noun: str) -> Completer:
    """Completes what is registered of a noun; see `known`."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        plugins = context.find_root().params.get("plugin") or ()
        return [name for name in known(noun, plugins) if name.startswith(incomplete)]

    return complete


def one_of(*words: str) -> Completer:
    """Completes one of a few words."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def shipped(context: typer.Context, incomplete: str) -> list[str]:
    """Completes the name of a model that comes with corral."""
    return [name for name in zoo.names() if name.startswith(incomplete)]


def run(context: typer.Context, incomplete: str) -> list[str]:
    """Completes a run's folder; those that the line names already are left out."""
    return _folders(context, incomplete, others=False)


def _folders(context: typer.Context, incomplete: str, *, others: bool) -> list[str]:
    given = context.params.get("run") or context.params.get("target") or ()
    before = {str(path) for path in (given if isinstance(given, list | tuple) else [given])}
    typed = Path(incomplete)
    folder = typed if incomplete.endswith(os.sep) else typed.parent
    here = f".{os.sep}" if incomplete.startswith(f".{os.sep}") else ""
    found = sorted(f"{here}{path}" for path in run_folders(folder, depth=DEPTH, most=MOST_ENTRIES, others=others))
    if incomplete.startswith(f"{zoo.PREFIX}/"):
        found += zoo.names()
    return [path for path in found if path.startswith(incomplete) and path not in before]


def measured(context: typer.Context, incomplete: str) -> list[str]:
    """Completes a folder that may have records: a run's, or that of another model."""
    return _folders(context, incomplete, others=True)


def recipe_or_run(context: typer.Context, incomplete: str) -> list[str]:
    """Completes a recipe's name, or a run's folder."""
    return [*names("recipe")(context, incomplete), *run(context, incomplete)]


def run_folders(
    folder: Path, *, depth: int | None = None, most: int | None = None, others: bool = False
) -> Iterator[Path]:
    """The run folders at and below a folder, those nearest to it first; hidden folders and links are not entered.

    Args:
        folder: where to begin.
        depth: of folders below it; None for all.
        most: files and folders to look at; None for all.
        others: take the folders of records of other models too.
    """
    level, deep, seen = [folder], 0, 0
    while level and (depth is None or deep <= depth):
        below: list[Path] = []
        for one in level:
            if most is not None and seen >= most:
                return
            entries = _entries(one, None if most is None else most - seen)
            seen += len(entries)
            inside = {entry.name for entry in entries}
            is_run = any(name in inside for name in RUN_FILES) or (others and "records" in inside and has_records(one))
            if is_run:
                yield one
            # What lies in a run is its own, but for the heads that were fitted to it.
            below += [
                one / entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and (entry.name == "linear" or not is_run)
                and entry.is_dir(follow_symlinks=False)
            ]
        level, deep = below, deep + 1


def has_records(folder: Path) -> bool:
    """Whether a folder holds an evaluation: a JSON document and the arrays of its name."""
    return any(path.with_suffix(".npz").is_file() for path in (folder / "records").glob("*.json"))


def _entries(folder: Path, most: int | None) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(islice(found, most), key=lambda entry: entry.name)
    except OSError:  # absent, or another user's
        return []
