"""A recipe's identity names its run among a table's: it has what decides the weights, and nothing else."""

import json
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from corral.training import load_recipe, shipped_recipes
from corral.training.methods.base import METHODS
from corral.training.recipes.recipe import WORDS, Recipe

DEFAULTS = Path(__file__).with_name("recipe_defaults.json")


def defaults(model: type[BaseModel], place: str = "") -> dict[str, object]:
    """Every default of a configuration, by its key, as JSON; of nested tables the defaults in them."""
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        key = f"{place}{name}"
        if field.is_required():
            continue
        value = field.get_default(call_default_factory=True)
        found |= defaults(type(value), f"{key}.") if isinstance(value, BaseModel) else {key: value}
        if isinstance(value, BaseModel):
            found[key] = value.model_dump(mode="json")
    return json.loads(json.dumps(found))


def all_defaults() -> dict[str, dict[str, object]]:
    shipped = [name for name in METHODS if METHODS[name].__module__.startswith("corral.")]
    return {"recipe": defaults(Recipe)} | {name: defaults(METHODS[name].Options) for name in shipped}


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_identity_reads_back_as_the_recipe_without_its_words(name: str) -> None:
    recipe = load_recipe(name)
    read = Recipe.model_validate(tomllib.loads(recipe.identity()))
    words = {word: getattr(recipe, word) for word in WORDS}
    assert read.model_copy(update=words) == recipe


def test_words_leave_the_identity_and_numbers_change_it() -> None:
    recipe = load_recipe("corral")
    said = recipe.model_copy(update={"summary": "in other words", "source": "elsewhere"})
    assert said.identity() == recipe.identity()
    for key, value in (("training.learning_rate", 0.123), ("training.seed", 7), ("threat.eps", 0.01)):
        assert load_recipe("corral", overrides={key: value}).identity() != recipe.identity()


def test_no_default_changes_what_an_earlier_identity_means() -> None:
    """A default is left out of the identity: one that changes gives two trainings one name. Spell the new value out in
    the recipes instead; options that are added go into the file by `python tests/training/test_identity.py`."""
    pinned = json.loads(DEFAULTS.read_text())
    today = all_defaults()
    changed = {
        f"{table}: {key}": (value, today[table][key])
        for table, values in pinned.items()
        for key, value in values.items()
        if table in today and key in today[table] and not _grown(value, today[table][key])
    }
    assert changed == {}
    missing = [
        f"{table}: {key}" for table, values in today.items() for key in values if key not in pinned.get(table, {})
    ]
    assert missing == [], "new options: run python tests/training/test_identity.py"


def _grown(before: object, now: object) -> bool:
    """Whether a default is the same, or a table of the same with new keys."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(key not in now or _grown(value, now[key]) for key, value in before.items())
    return before == now


if __name__ == "__main__":
    DEFAULTS.write_text(json.dumps(all_defaults(), indent=1) + "\n")
