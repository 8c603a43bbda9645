"""What a table of a paper is: its rows, its columns, the numbers printed there, and how far each scale goes."""

import hashlib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from corral.analysis import ANALYSES
from corral.attacks.protocols import PROTOCOLS
from corral.errors import CorralError, UsageError
from corral.strict import Frozen
from corral.training import Recipe


def _known_protocol(name: str) -> str:
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS.names())}")
    return name


ProtocolName = Annotated[str, AfterValidator(_known_protocol)]
ScaleName = Literal["smoke", "small", "short", "full"]
Unit = Literal["%", "l2", "cosine", "width", "clusters"]
CLEAN = "clean"
# Images that an analysis looks at, at most.
MOST_ANALYSED = 1000


StrictModel = TypeVar("StrictModel", bound=Frozen)


class Column(Frozen):
    """One measurement of the table.

    Attributes:
        name: the column's title, as printed.
        attack: "clean", the name in our records of the attack that the paper's protocol means, or ANALYSIS.NUMBER for
            a number of an analysis of the row.
        eps: radius as a multiple of the run's own: the paper's 8/255 is another on other data.
        unit: of the number: percent of the test images, a mean l2 norm in pixels of [0, 1], a cosine, a silhouette
            width, or a number of clusters.
    """

    name: str
    attack: str
    eps: Annotated[float, Field(gt=0)] = 1.0
    unit: Unit = "%"

    @property
    def attacked(self) -> bool:
        """Whether it is an accuracy under an attack."""
        return self.attack != CLEAN and "." not in self.attack

    @property
    def analysis(self) -> str | None:
        """The analysis that it is a number of; None for an accuracy."""
        name, dot, _ = self.attack.partition(".")
        return name if dot and name in ANALYSES else None

    @property
    def number(self) -> str:
        """Which number of the analysis."""
        return self.attack.partition(".")[2]


class Stage(Frozen):
    """A training whose run another begins from; a file may give the recipe's name alone.

    Attributes:
        recipe: the shipped recipe that trains it.
        set: recipe keys on top, for every scale.
        takes: the recipe key that names the run of the stage before, where there is one.
    """

    recipe: str
    set: dict[str, Any] = Field(default_factory=dict)
    takes: Literal["training.start", "method.labeller"] = "training.start"

    @model_validator(mode="before")
    @classmethod
    def _from_recipe(cls, values: Any) -> Any:
        return {"recipe": values} if isinstance(values, str) else values


class Row(Frozen):
    """One method of the table.

    Attributes:
        name: as printed.
        recipe: the shipped recipe that trains it.
        set: recipe keys on top, for every scale.
        published: printed percent, by the paper's data set, then by column.
        minutes: printed training time, by the paper's data set.
        pretrain: by our data set, the other data set whose run of the same recipe gives the starting weights; parts on
            data sets that are not in it leave the row out. Empty: the row starts from random weights everywhere.
        stages: what is trained before it, in order; the row's own recipe begins from the last of them.
        rule: the decision rule that the trained cluster head is given before it is measured; None keeps its own.
        only: our data sets that the row is made on; empty for all.
        analyses: what is measured of its runs beside the attacks.
        remark: what a reader must know of this row.
    """

    name: str
    recipe: str
    set: dict[str, Any] = Field(default_factory=dict)
    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    minutes: dict[str, float] = Field(default_factory=dict)
    pretrain: dict[str, str] = Field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    rule: Literal["soft", "nearest", "fuzzy"] | Annotated[int, Field(ge=1)] | None = None
    only: tuple[str, ...] = ()
    analyses: tuple[str, ...] = ()
    remark: str = ""

    def has(self, data: str) -> bool:
        """Whether the row can be trained on one of our data sets."""
        return (not self.pretrain or data in self.pretrain) and (not self.only or data in self.only)


# What a scale may change of a recipe: the size of data and network, the radius that goes with other data, epochs and
# optimisation, and how much of a budget an adversary, a batch or an average has. Everything else is what makes a row
# the method that its name says: a warm start or none, weights to begin from, the kind and direction of the adversary,
# the decision rule, the source of centroids, the losses and their weights.
SCALED = frozenset(
    {
        *(f"data.{key}" for key in ("train", "validation", "crop", "flip", "unlabeled")),
        *(f"model.{key}" for key in ("backbone", "width", "depth", "features", "hidden")),
        "threat.eps",
        *(f"training.{key}" for key in ("epochs", "batch_size", "optimiser", "learning_rate", "momentum")),
        *(f"training.{key}" for key in ("weight_decay", "schedule", "milestones", "warm_up", "trust")),
        *("training.precision", "training.select"),
        # Steps of a many-step adversary, images of a cluster, pseudo-classes that so few images hold, and the clocks of
        # DynACL's views and target network, which count epochs and steps.
        *(f"method.{key}" for key in ("inner.steps", "samples_per_cluster", "clusterings", "decay_every", "target")),
    }
)


class WarmStartSetting(Frozen):
    """What a scale changes of a warm start, in the recipes that have one; a recipe without one gets none."""

    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    milestones: tuple[int, ...] | None = None
    stop_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None


class Setting(Frozen):
    """What a scale changes of the recipes, for every table alike, so that tables share runs.

    It may change size, epochs and budget, `SCALED`, and never what makes a row its method: such a key is refused when
    the setting is read.

    Attributes:
        set: recipe keys on top.
        unset: recipe keys that are taken away, where a recipe has them.
        methods: `set` for the recipes of one method alone, by its name.
        warm_start: of recipes that have a warm start.
        why: what was chosen and on what grounds.
    """

    set: dict[str, Any] = Field(default_factory=dict)
    unset: tuple[str, ...] = ()
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)
    warm_start: WarmStartSetting | None = None
    why: str

    @model_validator(mode="after")
    def _only_scales(self) -> "Setting":
        for values in (self.set, dict.fromkeys(self.unset), *self.methods.values()):
            for key, value in values.items():
                if key not in SCALED:
                    raise ValueError(f"{key} makes a row what its name says, and a scale may not change it")
                if key == "method.inner.steps" and value is not None and value < 2:
                    raise ValueError(f"{key} below 2 would make another adversary of one with many steps")
        return self

    def overrides(self, recipe: Recipe, row: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe keys on top of a recipe as it is shipped for the data set, and of what a row sets of it."""
        values = {**dict.fromkeys(self.unset), **self.set, **self.methods.get(recipe.method.name, {})}
        warm = row.get("training.warm_start.epochs", recipe.training.warm_start.epochs)
        if self.warm_start is not None and warm:
            scaled = self.warm_start.model_dump(exclude_none=True, mode="json")
            values |= {f"training.warm_start.{key}": value for key, value in scaled.items()}
        return {**values, **row}


class Part(Frozen):
    """One data set at one scale.

    Attributes:
        data: what is trained and attacked here.
        beside: the paper's data set, whose numbers stand beside ours; a file leaves it out where it is the same.
        setting: name of the `Setting` that the recipes are changed by; None leaves them as they are.
        protocols: our protocols; what they share of images and eps is merged image by image.
        at_training_eps: protocols at the training radius alone, beside those that are run at every one.
        seeds: training seeds.
        n: test images, class-balanced; None for the whole test set.
        images: how many of them an analysis looks at, by its name, where those are fewer.
    """

    data: str
    beside: str
    setting: str | None = None
    protocols: Annotated[tuple[ProtocolName, ...], Field(min_length=1)]
    at_training_eps: tuple[ProtocolName, ...] = ()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    n: Annotated[int, Field(ge=1)] | None = None
    images: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _beside_itself(cls, values: Any) -> Any:
        return {"beside": values.get("data"), **values} if isinstance(values, dict) else values

    def protocols_at(self, factor: float) -> tuple[ProtocolName, ...]:
        """The protocols at a multiple of the training radius."""
        return (*self.protocols, *(self.at_training_eps if factor == 1 else ()))

    def analysed(self, name: str) -> int:
        """How many test images an analysis looks at."""
        return min(self.images.get(name, MOST_ANALYSED), self.n or MOST_ANALYSED)


class Table(Frozen):
    """A table or figure of a paper; a file's `each_row` has what its rows share, where they do not say otherwise.

    Attributes:
        name: what `corral reproduce` calls it.
        title: what it compares.
        source: paper and number.
        note: what of the paper's setting is meant where text and code differ.
        columns: what is measured.
        rows: the methods.
        against: the name of the row that the others are compared with, image by image; None for no such comparison.
        scales: the parts of each scale.
        estimate: of the full scale: hours and memory on one GPU.
    """

    name: str
    title: str
    source: str
    note: str = ""
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    against: str | None = None
    scales: dict[ScaleName, tuple[Part, ...]]
    estimate: str

    @model_validator(mode="before")
    @classmethod
    def _rows_inherit(cls, values: dict[str, Any]) -> dict[str, Any]:
        if "each_row" not in values:
            return values
        rows = [{**values["each_row"], **row} for row in values["rows"]]
        return {**{key: value for key, value in values.items() if key != "each_row"}, "rows": rows}

    @model_validator(mode="after")
    def _consistent(self) -> "Table":
        columns = {column.name for column in self.columns}
        needed = {column.attack.split(".")[0] for column in self.columns if "." in column.attack}
        if foreign := sorted(name for name in needed if name not in ANALYSES):
            raise ValueError(f"a column of no analysis: {foreign[0]!r}")
        for row in self.rows:
            for data, values in row.published.items():
                if unknown := sorted(values.keys() - columns):
                    raise ValueError(f"row {row.name!r} has a number on {data} for no column: {unknown[0]!r}")
            if foreign := [name for name in row.analyses if name not in ANALYSES]:
                raise ValueError(f"row {row.name!r}: unknown analysis {foreign[0]!r}")
            if missing := sorted(needed - set(row.analyses)):
                raise ValueError(f"row {row.name!r} lacks the analysis of a column: {missing[0]!r}")
        for group, names in (("rows", [r.name for r in self.rows]), ("columns", [c.name for c in self.columns])):
            if len(set(names)) < len(names):
                raise ValueError(f"{group} of one name: {', '.join(names)}")
        if self.against is not None and self.against not in {row.name for row in self.rows}:
            raise ValueError(f"against names no row: {self.against!r}")
        return self


@cache
def load_setting(name: str | None) -> Setting:
    """A setting of settings.toml by its name; None is the one that changes nothing.

    Raises:
        CorralError: no such setting, or it is not one.
    """
    if name is None:
        return Setting(why="as the recipes have it.")
    known = tomllib.loads(files("corral.papers").joinpath("settings.toml").read_text(encoding="utf-8"))
    if name not in known:
        raise CorralError(f"settings.toml: no setting {name!r}; known: {', '.join(known)}")
    values = known[name]
    if "like" in values:
        other = known[values.pop("like")]
        methods = dict(other.get("methods", {}))
        for method, changes in values.get("methods", {}).items():
            methods[method] = {**methods.get(method, {}), **changes}
        values = {**other, **values, "set": {**other["set"], **values.get("set", {})}, "methods": methods}
    return _validated(Setting, values, f"settings.toml: {name}")


def shipped_tables() -> list[str]:
    """Names of the tables that can be made."""
    folder = files("corral.papers").joinpath("tables")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_table(name: str) -> Table:
    """A table by its name.

    Raises:
        UsageError: no such table.
        CorralError: its file is not a table.
    """
    if name not in shipped_tables():
        raise UsageError(f"unknown table {name!r}; known: {', '.join(shipped_tables())}")
    text = files("corral.papers").joinpath("tables", f"{name}.toml").read_text(encoding="utf-8")
    return _validated(Table, {"name": name, **tomllib.loads(text)}, f"{name}.toml")


def meant_columns(table: Table) -> dict[str, str]:
    """What every column means: its attack or analysis, and the radius."""
    return {column.name: f"{column.attack} at {column.eps:g} eps" for column in table.columns}


def columns_digest(table: Table) -> str:
    """Eight hexadecimal digits that change where a column is given another meaning.

    An analysis counts by the first name that it had, so that results of earlier versions keep their digest.
    """
    first = {column.name: ANALYSES[column.analysis].earlier[:1] for column in table.columns if column.analysis}
    words = "|".join(
        f"{name}: {'.'.join([*first[name], meaning.partition('.')[2]]) if first.get(name) else meaning}"
        for name, meaning in meant_columns(table).items()
    )
    return hashlib.sha256(words.encode()).hexdigest()[:8]


def _validated(kind: type[StrictModel], values: dict[str, Any], where: str) -> StrictModel:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or kind.__name__.lower()
        raise CorralError(f"{where}: {place}: {first['msg'].removeprefix('Value error, ')}") from error
