"""`corral recipes` on the command line: list the recipes, or show one."""

import shutil
from collections.abc import Collection
from importlib.resources import files
from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.names import known
from corral.cli.options import Json, print_json
from corral.errors import UsageError
from corral.reading import parse_toml

EPILOG = "Example: corral recipes corral --data mnist"
# The papers of the tables, by a word of a recipe's source; a baseline is of the paper that compares with it, or of
# others where its source names none of them.
PAPERS = ("corral", "ClusTR", "critique", "MAT", "NCP-ACL", "others")
# Variants share the line of the recipe that they vary: the mark, the end of their names, and what differs.
VARIANTS = {
    "*": ("-published", "released"),
    "~": ("-mse", "squared"),
    "^": ("-air", "AIR"),
    "+": ("++", "stage 2"),
}
# Recipes that are parts or special cases of one stand behind its name, by the ends of theirs.
PARTS = {"at": ("-pretrained",), "corral": ("-toward",), "mat": ("-bibo", "-ftc", "-so")}
WIDTH, LEAST_WIDTH = 100, 60


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Tell all about this recipe, resolved, as TOML with comments.", autocompletion=complete.recipe_or_run
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="With the recipe's values for this data set.", autocompletion=complete.names("data set")),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the shipped recipes by paper, or tell all about one: summary, source, data sets, every value."""
    if name is None and data is not None:
        raise UsageError("--data goes with a recipe's name")
    if name is None and not as_json:
        for line in listing():
            typer.echo(line)
        return
    from corral.training import chosen_sets, load_recipe, shipped_recipes

    if name is None:
        rows = [load_recipe(recipe) for recipe in shipped_recipes()]
        print_json(
            [{"name": r.name, "summary": r.summary, "source": r.source, "sets": chosen_sets(r.name)} for r in rows]
        )
        return
    resolved = load_recipe(name, data=data)
    if as_json:
        print_json(resolved.model_dump(mode="json"))
        return
    sets = ", ".join(chosen_sets(name))
    comments = [f"{resolved.name}: {resolved.summary}", f"Source: {resolved.source}"]
    comments += [f"Data sets that it has settings for: {sets}; here are those for {resolved.data.name}."]
    typer.echo("".join(f"# {' '.join(line.split())}\n" for line in comments if not line.endswith(": ")), nl=False)
    typer.echo(resolved.to_toml(), nl=False)


def listing() -> list[str]:
    """The shipped recipes, a line each with its variants, by paper, as wide as the terminal; read without torch."""
    width = max(shutil.get_terminal_size((WIDTH, 24)).columns, LEAST_WIDTH)
    said = {}
    for name in known("recipe"):
        table = parse_toml((files("corral") / "recipes" / f"{name}.toml").read_text(encoding="utf-8"))
        said[name] = (_paper(table["source"]), table["summary"])
    marks: dict[str, str] = {}
    parts = {name + end for name, ends in PARTS.items() for end in ends}
    for name in (name for name in said if name not in parts):
        base, found = _varied(name, said)
        marks[base] = "".join(mark for mark in VARIANTS if mark in marks.get(base, "") + found)
    shown = {name: " ".join([name + found, *PARTS.get(name, ())]) for name, found in marks.items()}
    column = max(map(len, shown.values()))
    lines = []
    for name in sorted(marks, key=lambda name: (PAPERS.index(said[name][0]), name)):
        paper, summary = said[name]
        line = f"{shown[name]:<{column}}  {paper:<{max(map(len, PAPERS))}}  {summary}"
        lines.append(line if len(line) <= width else f"{line[: width - 3].rstrip()}...")
    legend = "  ".join(f"{mark} {end} ({words})" for mark, (end, words) in VARIANTS.items())
    return [*lines, f"also: {legend}", "all about one, such as at or mat-so: corral recipes NAME"]


def _paper(source: str) -> str:
    """The paper that a recipe is of, by its source, where a later one quotes an earlier."""
    if source.startswith("corral"):
        return "corral"
    return next((paper for paper in reversed(PAPERS) if paper in source), "others")


def _varied(name: str, names: Collection[str]) -> tuple[str, str]:
    """The recipe that one is a variant of, itself if of none, and the marks of how it varies it."""
    for mark, (end, _) in VARIANTS.items():
        if name.endswith(end) and (base := name.removesuffix(end)) in names:
            first, marks = _varied(base, names)
            return first, marks + mark
    return name, ""
