"""Which runs a row means: the recipe of each, and the folder whose name has a digest of the recipe's identity."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from corral.papers.definition import Part, Row, Stage, load_setting
from corral.report.words import slug
from corral.training import Recipe, Run, chosen_sets, load_recipe

# What gives a row its weights where it starts from other data's.
BEFORE = "at"


class RunPlan:
    """The runs of rows below one folder; nothing is read or written.

    Args:
        runs: the folder.
        changed: recipe keys on top of what the table and its scale say; "RECIPE:key" for the stages of one recipe.
    """

    def __init__(self, runs: Path, changed: Mapping[str, Any] | None = None) -> None:
        self.runs, self.changed = runs, dict(changed or {})

    def planned(self, part: Part, row: Row, seed: int) -> tuple[Recipe, Run]:
        """The recipe of a row's run, and its folder, whose name has the recipe's digest."""
        if row.pretrain:
            before = self.planned(*self.before(part, row), seed)[1]
            words = " ".join([*(_words(stage.recipe, stage.set) for stage in row.stages), _words(row.recipe, row.set)])
            return self.stage(part, Stage(recipe=row.recipe, set=row.set), seed, before, words)
        return self.chain(part, row, seed)[-1]

    def needed(self, part: Part, row: Row, seed: int) -> list[tuple[Recipe, Run]]:
        """The recipes and folders of all runs that a row needs, each after the one it begins from, its own the last."""
        if row.pretrain:
            return [*self.needed(*self.before(part, row), seed), self.planned(part, row, seed)]
        return self.chain(part, row, seed)

    def chain(self, part: Part, row: Row, seed: int) -> list[tuple[Recipe, Run]]:
        """The recipes and folders of a row's stages and of its own run, in order."""
        found: list[tuple[Recipe, Run]] = []
        shown = ""
        for stage in (*row.stages, Stage(recipe=row.recipe, set=row.set)):
            shown = f"{shown} {_words(stage.recipe, stage.set)}".strip()
            found.append(self.stage(part, stage, seed, found[-1][1] if found else None, shown))
        return found

    def stage(self, part: Part, stage: Stage, seed: int, before: Run | None, shown: str) -> tuple[Recipe, Run]:
        """A stage's recipe, and its folder, whose digest knows the run before by its name, not by where it lies."""
        shipped = _shipped(stage.recipe, part.data)
        overrides = {**load_setting(part.setting).overrides(shipped, stage.set), **self.on_top(stage.recipe)}
        overrides["training.seed"] = seed

        def of(place: str | None) -> Recipe:
            taken: dict[str, Any] = {} if place is None else {stage.takes: place}
            return load_recipe(stage.recipe, data=part.data, overrides={**overrides, **taken})

        named = of(None if before is None else before.path.name)
        digest = hashlib.sha256(named.identity().encode()).hexdigest()[:8]
        name = f"{slug(part.data)}-{slug(shown)}-{seed}-{digest}"
        return named if before is None else of(str(before.path)), Run(self.runs / name)

    def on_top(self, recipe: str) -> dict[str, Any]:
        """What the caller changes of a recipe."""
        found = {}
        for key, value in self.changed.items():
            only, colon, rest = key.partition(":")
            if not colon or only == recipe:
                found[rest if colon else key] = value
        return found

    def before(self, part: Part, row: Row) -> tuple[Part, Row]:
        """What a row that starts from other data's weights starts from."""
        other = part.model_copy(update={"data": row.pretrain[part.data]})
        return other, row.model_copy(update={"recipe": BEFORE, "pretrain": {}})


@cache
def _shipped(recipe: str, data: str) -> Recipe:
    """A recipe as it is shipped, read once: a table asks for it once a seed."""
    # A setting may be what makes a recipe one for the data set: it looks at the recipe on its own.
    return load_recipe(recipe, data=data if data in chosen_sets(recipe) else None)


def _words(recipe: str, settings: dict[str, Any]) -> str:
    return " ".join([recipe, *(f"{key} {value}" for key, value in sorted(settings.items()))])
