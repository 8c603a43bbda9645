"""What is compared: the tasks, methods, ingredients and the search of `arena.toml`, and the recipe of an entry."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from corral.errors import CorralError, UsageError
from corral.strict import AtLeastOne, Frozen
from corral.training import Recipe, chosen_sets, load_recipe

FILE = Path(__file__).with_name("arena.toml")
# What an entry's recipe has whatever the shipped one says: the whole of the epochs' budget, and the last weights.
ALWAYS: dict[str, Any] = {
    "training.milestones": None,
    "training.points": None,
    "training.warm_up": None,
    "training.select": "last",
    "training.converged": None,
}
# AutoAttack's first two members with fewer steps: gradients that cross-entropy masks show in the targeted loss.
SCREENING = ("apgd-ce:steps=40", "apgd-t:steps=20")

# Epochs of a recipe whose number is not known yet: no warm-up is longer.
MANY = 1000


class Candidate(Frozen):
    """Settings that a method is tried with: recipe keys, and a factor of the learning rate."""

    rate: Annotated[float, Field(gt=0)] = 1.0
    set: dict[str, Any] = Field(default_factory=dict)

    @property
    def words(self) -> str:
        """The settings as a table shows them."""
        found = [] if self.rate == 1 else [f"{self.rate:g} × the learning rate"]
        found += [f"{key.split('.', 1)[-1]} {value}" for key, value in self.set.items()]
        return ", ".join(found) or "as the file has it"


class Method(Frozen):
    """A recipe with changes.

    Attributes:
        recipe: a shipped recipe, or what `load_recipe` takes.
        set: recipe keys on top.
        candidates: of the search.
        tasks: that it is run on; empty for all.
    """

    recipe: str
    set: dict[str, Any] = Field(default_factory=dict)
    candidates: tuple[Candidate, ...]
    tasks: tuple[str, ...] = ()


class Ingredient(Frozen):
    """Recipe keys that join methods.

    Attributes:
        title: what tables call it.
        set: the keys.
        methods: that it joins; empty for all.
    """

    title: str
    set: dict[str, Any]
    methods: tuple[str, ...] = ()


class Screen(Frozen):
    """How candidates are told apart: on held-out training images, which no run of the screening trains on.

    Attributes:
        budget: epochs of the baseline.
        images: training images, for estimates.
        n: held-out training images.
        set: recipe keys on top of the task's.
        attacks: as `corral.evaluate` takes them.
    """

    budget: AtLeastOne
    images: AtLeastOne
    n: AtLeastOne
    set: dict[str, Any] = Field(default_factory=dict)
    attacks: Annotated[tuple[str, ...], Field(min_length=1)] = SCREENING
    minutes: Annotated[float, Field(gt=0)] = 1.0


class Task(Frozen):
    """A data set and a threat, with a network and a budget; `arena.toml` says what the fields are."""

    data: str
    budget: AtLeastOne
    n: AtLeastOne | None = None
    images: AtLeastOne
    inner: dict[str, Any]
    passes_per_second: Annotated[float, Field(gt=0)]
    attack_minutes: Annotated[float, Field(gt=0)]
    protocol: str = "standard"
    set: dict[str, Any]
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)
    entries: tuple[str, ...] = ()
    screen: Screen


class Arena(Frozen):
    """The whole file."""

    baseline: str
    searched: AtLeastOne
    finalists: AtLeastOne
    finalist_seeds: AtLeastOne
    seeds: AtLeastOne
    method: dict[str, Method]
    ingredient: dict[str, Ingredient] = Field(default_factory=dict)
    task: dict[str, Task]

    @model_validator(mode="after")
    def _fair(self) -> "Arena":
        if self.baseline not in self.method or self.method[self.baseline].tasks:
            raise ValueError(f"baseline {self.baseline!r} must be a method of every task")
        for name, method in self.method.items():
            if len(method.candidates) != self.searched:
                raise ValueError(
                    f"method {name!r} has {len(method.candidates)} candidates, and every method is searched over "
                    f"{self.searched}"
                )
            if method.candidates[0] != Candidate():
                raise ValueError(f"method {name!r}: the first candidate must be {{}}, the method as the file has it")
            if unknown := sorted(set(method.tasks) - set(self.task)):
                raise ValueError(f"method {name!r} names no task: {unknown[0]!r}")
        for name in (*self.method, *self.ingredient):
            if "+" in name or " " in name:
                raise ValueError(f"{name!r}: a name has neither + nor spaces, which entries are made with")
        for name, task in self.task.items():
            possible = self.model_copy(update={"task": {name: task.model_copy(update={"entries": ()})}}).entries(name)
            if unknown := [entry for entry in task.entries if entry not in possible]:
                raise ValueError(f"task {name!r} names no entry: {unknown[0]!r}")
            if task.entries and self.baseline not in task.entries:
                raise ValueError(f"task {name!r} leaves the baseline {self.baseline!r} out of its entries")
        for kind, named in (("task", self.task), ("ingredient", self.ingredient)):
            for name, one in named.items():
                if unknown := sorted(set(one.methods) - set(self.method)):
                    raise ValueError(f"{kind} {name!r} names no method: {unknown[0]!r}")
        return self

    def of_task(self, name: str) -> Task:
        """A task by its name.

        Raises:
            UsageError: no such task.
        """
        if name not in self.task:
            raise UsageError(f"no task {name!r}; known: {', '.join(self.task)}")
        return self.task[name]

    def methods(self, task: str) -> list[str]:
        """The methods of a task's entries, the baseline first."""
        return list(dict.fromkeys(entry.split("+")[0] for entry in self.entries(task)))

    def entries(self, task: str) -> list[str]:
        """The entries of a task: every method alone, then with each of its ingredients; the baseline's first.

        Where the task names its entries, those of them.
        """
        named = self.of_task(task).entries
        found = []
        for method in sorted(self.method, key=lambda name: name != self.baseline):
            if self.method[method].tasks and task not in self.method[method].tasks:
                continue
            joins = [name for name, one in self.ingredient.items() if not one.methods or method in one.methods]
            found += [method, *(f"{method}+{name}" for name in joins)]
        return [entry for entry in found if not named or entry in named]

    def split(self, task: str, entry: str) -> tuple[str, str | None]:
        """The method of an entry and its ingredient.

        Raises:
            UsageError: no entry of the task.
        """
        if entry not in self.entries(task):
            raise UsageError(f"no entry {entry!r} of task {task}; known: {', '.join(self.entries(task))}")
        method, _, ingredient = entry.partition("+")
        return method, ingredient or None

    def recipe(
        self,
        task: str,
        entry: str,
        candidate: Candidate,
        *,
        screen: bool,
        epochs: int = MANY,
        seed: int = 0,
    ) -> Recipe:
        """The recipe of an entry with a candidate's settings.

        Raises:
            UsageError: the recipe does not take a key or a value.
        """
        of, (name, ingredient) = self.of_task(task), self.split(task, entry)
        method = self.method[name]
        held_out = {"data.validation": of.screen.n, **of.screen.set} if screen else {"data.validation": 0}
        values = {**ALWAYS, **of.set, **held_out, **_inner(method.recipe, of), **method.set, **of.methods.get(name, {})}
        values |= candidate.set | ({} if ingredient is None else self.ingredient[ingredient].set)
        values |= {"training.epochs": epochs, "training.seed": seed}
        found = load_recipe(method.recipe, data=of.data, overrides=values)
        if candidate.rate == 1:
            return found
        values["training.learning_rate"] = candidate.rate * found.training.learning_rate
        return load_recipe(method.recipe, data=of.data, overrides=values)


def _inner(recipe: str, task: Task) -> dict[str, Any]:
    """The task's adversary, for recipes that have one of more than one step; one step is what its method is."""
    return {f"method.inner.{key}": value for key, value in task.inner.items()} if _steps(recipe, task.data) > 1 else {}


@cache
def _steps(recipe: str, data: str) -> int:
    """The steps of a shipped recipe's adversary; 1 of one without."""
    # On its own data where it has no settings for these: it says what its method is there.
    shipped = load_recipe(recipe, data=data if data in chosen_sets(recipe) else None)
    return int(getattr(getattr(shipped.method, "inner", None), "steps", 1))


@cache
def load_arena(path: Path = FILE) -> Arena:
    """Read and check the file.

    Raises:
        CorralError: it is not an arena; the message names what is wrong.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        tasks = values.get("task", {})
        values["task"] = {name: _like(task, tasks) for name, task in tasks.items()}
        return Arena.model_validate(values)
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise CorralError(f"{path}: not an arena ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise CorralError(f"{path}: {f'{where}: ' if where else ''}{message}") from error


def _like(task: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A task on top of the one that it is `like`; `set` joins, all else replaces."""
    if "like" not in task:
        return dict(task)
    other = tasks[task["like"]]
    own = {key: value for key, value in task.items() if key != "like"}
    return {**other, **own, "set": {**other["set"], **own.get("set", {})}}
