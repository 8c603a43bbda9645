"""`corral recipes` on the command line: list the recipes, or show one."""

from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.options import Json, print_json, print_named
from corral.errors import UsageError

EPILOG = "Example: corral recipes corral --data mnist"


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Show this recipe, resolved, as TOML.", autocompletion=complete.recipe_or_run)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="With the recipe's values for this data set.", autocompletion=complete.names("data set")),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the shipped recipes with their sources, or show one in full."""
    from corral.training import chosen_sets, load_recipe, shipped_recipes

    if name is not None:
        resolved = load_recipe(name, data=data)
        if as_json:
            print_json(resolved.model_dump(mode="json"))
        else:
            typer.echo(resolved.to_toml(), nl=False)
        return
    if data is not None:
        raise UsageError("--data goes with a recipe's name")
    rows = [load_recipe(recipe) for recipe in shipped_recipes()]
    if as_json:
        facts = [{"name": r.name, "summary": r.summary, "source": r.source, "sets": chosen_sets(r.name)} for r in rows]
        print_json(facts)
        return
    print_named([(r.name, r.summary, r.source) for r in rows])
