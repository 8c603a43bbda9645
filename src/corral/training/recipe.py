"""Recipes: strict, typed, frozen descriptions of a run, read from TOML."""

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from corral.data import DATA_SETS, PATH_DATA_SETS
from corral.errors import CorralError, UsageError

# Generators take more, but the noise's seed is offset from this one.
MOST_SEED = 2**32 - 1

FRACTION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*")


def parse_eps(value: object, norm: str = "Linf") -> float:
    """An eps in pixel units from a number or a fraction such as "8/255".

    Args:
        value: a number or its text.
        norm: of the ball; an Linf eps is at most 1, an L2 eps may be more.

    Raises:
        ValueError: not a number, negative, or above the pixel range (the message says what was likely meant).
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"eps must be a number such as 0.1 or a fraction such as '8/255', found {value!r}")
    if isinstance(value, str):
        fraction = FRACTION.fullmatch(value)
        try:
            number = float(fraction[1]) / float(fraction[2]) if fraction else float(value)
        except (ValueError, ZeroDivisionError):
            message = f"eps must be a number such as 0.1 or a fraction such as '8/255', found {value!r}"
            raise ValueError(message) from None
    else:
        number = float(value)
    if not 0 <= number < math.inf or (norm == "Linf" and number > 1):
        hint = f"; did you mean {value}/255?" if 1 < number <= 255 else ""
        raise ValueError(f"eps is in pixel units of images in [0, 1], found {value}{hint}")
    return number


Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Config(BaseModel):
    """A strict and frozen table of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class DataConfig(Config):
    """The images: which set, how many of its training images, what is held out, how they are augmented."""

    name: str = "digits"
    train: Count | None = None
    validation: Annotated[int, Field(ge=0)] = 0
    crop: Annotated[int, Field(ge=0)] = 0
    flip: bool = False


class ModelConfig(Config):
    """The backbone and its size; options that a backbone does not have are refused when it is built."""

    backbone: str = "convnet"
    width: Count | None = None
    features: Count | None = None
    depth: Count | None = None


class ThreatConfig(Config):
    """Norm and radius, in pixel units."""

    norm: Literal["Linf", "L2"] = "Linf"
    eps: float = 0.1

    @field_validator("eps", mode="before")
    @classmethod
    def _parse(cls, value: object, info: ValidationInfo) -> float:
        return parse_eps(value, info.data.get("norm", "Linf"))


class InnerAttack(Config):
    """The adversary inside training: `steps` of `step_ratio` × eps, the model in `mode`."""

    steps: Count = 5
    step_ratio: Positive = 0.25
    mode: Literal["eval", "train"] = "eval"


class NominalConfig(Config):
    """Cross-entropy on clean images, linear head."""

    name: Literal["nominal"]


class AtConfig(Config):
    """PGD adversarial training (Madry et al. 2018), linear head."""

    name: Literal["at"]
    inner: InnerAttack = InnerAttack()


class MagnetConfig(Config):
    """Magnet loss (ClusTR Eq. 3) from the current weights; with a warm start it is ClusTR.

    `numerics` "published" is the released code's epsilon-saturated loss and, in the consistency term, exponentiated
    scores of the `nearest` nearest clusters used as logits; "log" is the same mathematics in log space.
    """

    name: Literal["magnet", "clustr"]
    clusters: Count = 2
    rule: Literal["soft", "nearest"] | Count = "soft"
    alpha: float = 12.5
    numerics: Literal["log", "published"] = "log"
    clusters_per_batch: Annotated[int, Field(ge=2)] = 12
    samples_per_cluster: Annotated[int, Field(ge=2)] = 20
    consistency: Literal["none", "qtrades"] = "none"
    consistency_weight: Annotated[float, Field(ge=0)] = 0.0
    nearest: Count = 10
    inner: InnerAttack = InnerAttack(steps=1, step_ratio=1.25)

    @model_validator(mode="after")
    def _consistent(self) -> "MagnetConfig":
        if (self.consistency == "none") != (self.consistency_weight == 0):
            raise ValueError("consistency_weight goes with consistency: 'none' and 0, or 'qtrades' and more than 0")
        return self


class CorralConfig(Config):
    """Adversarial clustering: the loss of adversarial features against centroids.

    The rows of the lab notes: A = magnet loss on centroids "adversarial_batch"; B = magnet on "clean_batch";
    C = cross_entropy on "clean_batch" with the adversary on the "head"; C' = the same with the adversary on the
    "batch" (default); D = cross_entropy on "learned" centroids; E = D with pull 0.1.
    """

    name: Literal["corral"]
    clusters: Count = 2
    rule: Literal["soft", "nearest"] = "soft"
    loss: Literal["cross_entropy", "magnet"] = "cross_entropy"
    centroids: Literal["clean_batch", "adversarial_batch", "learned"] = "clean_batch"
    adversary: Literal["batch", "head"] = "batch"
    alpha: float = 4.0
    pull: Annotated[float, Field(ge=0)] = 0.0
    temperature: Positive = 1.0
    temperature_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    batches: Literal["uniform", "neighbourhood"] = "uniform"
    clusters_per_batch: Annotated[int, Field(ge=2)] = 12
    samples_per_cluster: Annotated[int, Field(ge=2)] = 20
    inner: InnerAttack = InnerAttack()

    @model_validator(mode="after")
    def _consistent(self) -> "CorralConfig":
        if self.centroids != "clean_batch" and self.adversary == "batch":
            raise ValueError(f"centroids '{self.centroids}' need adversary 'head': there are no clean batch centroids")
        if self.loss == "magnet" and (self.centroids == "learned" or self.temperature_learning_rate > 0):
            raise ValueError("loss 'magnet' has neither learned centroids nor a temperature; use 'cross_entropy'")
        if self.centroids == "learned" and self.temperature_learning_rate > 0:
            raise ValueError("learned centroids learn their variance; temperature_learning_rate must be 0")
        if self.centroids == "learned" and (self.batches == "neighbourhood" or self.temperature != 1):
            raise ValueError("learned centroids go with batches 'uniform' and temperature 1")
        return self


MethodConfig = Annotated[NominalConfig | AtConfig | MagnetConfig | CorralConfig, Field(discriminator="name")]


class WarmStart(Config):
    """Nominal epochs with a linear head before the method begins (ClusTR Sec. 4.1).

    `stop_accuracy` ends the warm start early at that *validation* accuracy; 0 never does.
    """

    epochs: Annotated[int, Field(ge=0)] = 0
    learning_rate: Positive = 1e-3
    milestones: list[Count] = []
    stop_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.0


class TrainingConfig(Config):
    """Optimisation: the same for every method."""

    epochs: Count = 10
    batch_size: Annotated[int, Field(ge=2)] = 240
    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: Positive = 5e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    milestones: list[Count] = []
    precision: Literal["float32", "bfloat16"] = "float32"
    select: Literal["last", "best"] = "last"
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 0
    warm_start: WarmStart = WarmStart()

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingConfig":
        if (self.schedule == "steps") != bool(self.milestones):
            raise ValueError("milestones go with schedule 'steps', and 'steps' needs them")
        return self


class Recipe(Config):
    """A run, with every default spelled out."""

    name: str
    summary: str = ""
    source: str = ""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    threat: ThreatConfig = ThreatConfig()
    method: MethodConfig
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.training.select == "best" and self.data.validation == 0:
            raise ValueError("training.select 'best' needs held-out images: set data.validation above 0")
        if self.training.warm_start.stop_accuracy > 0 and self.data.validation == 0:
            raise ValueError("warm_start.stop_accuracy needs held-out images: set data.validation above 0")
        return self

    def to_toml(self) -> str:
        """The recipe as TOML, all defaults spelled out; reading it gives an equal recipe."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def shipped_recipes() -> dict[str, Path]:
    """The recipes inside the package, by name."""
    folder = Path(__file__).parents[1] / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(
    recipe: str | Path | Recipe, *, data: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Read a recipe, lay its values for the data set over it, then the overrides.

    Args:
        recipe: a shipped recipe's name, a TOML file, a run folder (its resolved recipe), or a Recipe.
        data: data-set name; default the recipe's own.
        overrides: dotted keys ("training.epochs") or, where only one table has it at the least depth, the last part.

    Raises:
        UsageError: an unknown recipe, key or value; one line with file, key and what is allowed.
    """
    where, table = _read(recipe)
    variants = table.pop("for", {})
    if not isinstance(variants, dict) or not all(isinstance(variant, dict) for variant in variants.values()):
        raise UsageError(f"{where}: 'for' must hold one table per data set, such as [for.mnist.threat]")
    for name, variant in variants.items():
        if not _is_data_set(name):
            raise UsageError(f"{where}: for.{name}: unknown data set{_near(name, DATA_SETS)}")
        _validate(_lay_over(table, variant), f"{where}: [for.{name}]")  # a slip in a variant is found before its day
    chosen = data or _part(table, "data").get("name", "digits")
    if isinstance(chosen, str) and chosen in variants:
        table = _lay_over(table, variants[chosen])
    if data is not None:
        table = _merge(table, {"data": {"name": data}})
    for key, value in (overrides or {}).items():
        table = _merge(table, _nested(_full_key(key, table), value))
    resolved = _validate(table, where)
    if not _is_data_set(resolved.data.name):
        known = ", ".join([*DATA_SETS, *(f"{kind}:PATH" for kind in PATH_DATA_SETS)])
        raise UsageError(
            f"unknown data set {resolved.data.name!r}{_near(resolved.data.name, DATA_SETS)}; known: {known}"
        )
    return resolved


def _is_data_set(name: str) -> bool:
    kind, colon, path = name.partition(":")
    return name in DATA_SETS or bool(colon and path and kind in PATH_DATA_SETS)


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _part(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table of a recipe that is not checked yet; whatever stands there that is no table counts as empty."""
    part = table.get(name)
    return part if isinstance(part, dict) else {}


def _read(recipe: str | Path | Recipe) -> tuple[str, dict[str, Any]]:
    if isinstance(recipe, Recipe):
        return recipe.name, recipe.model_dump(exclude_none=True)
    shipped = shipped_recipes()
    path = shipped.get(str(recipe), Path(recipe))
    if os.path.isdir(path):
        path = path / "recipe.toml"
        if not os.path.isfile(path):
            raise UsageError(f"{recipe}: a folder without recipe.toml, so not a run; give a recipe or a run folder")
    if not os.path.isfile(path):
        hint = _near(str(recipe), shipped)
        raise UsageError(f"unknown recipe {str(recipe)!r}{hint}; shipped: {', '.join(shipped)}; or give a .toml file")
    try:
        return str(path), tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML ({error})") from error
    except OSError as error:
        raise CorralError(f"{path}: cannot be read ({error.strerror})") from error


def _lay_over(table: Mapping[str, Any], variant: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with its values for a data set; another backbone brings its own options, the old one's are dropped."""
    model = variant.get("model")
    if isinstance(model, dict) and "backbone" in model:
        table = {**table, "model": {}}
    return _merge(table, variant)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        merged[key] = (
            _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
        )
    return merged


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _known_keys(table: Mapping[str, Any]) -> list[str]:
    """Every dotted key that the recipe of this table's method can set."""
    methods: dict[str, type[Config]] = {
        "nominal": NominalConfig,
        "at": AtConfig,
        "magnet": MagnetConfig,
        "clustr": MagnetConfig,
    }
    method = methods.get(str(_part(table, "method").get("name")), CorralConfig)
    sections: dict[str, type[Config]] = {
        "data": DataConfig,
        "model": ModelConfig,
        "threat": ThreatConfig,
        "method": method,
        "training": TrainingConfig,
    }
    keys = ["name", "summary", "source"]
    for section, config in sections.items():
        for name, field in config.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, Config):
                keys += [f"{section}.{name}.{leaf}" for leaf in inner.model_fields]
            else:
                keys.append(f"{section}.{name}")
    return keys


def _full_key(key: str, table: Mapping[str, Any]) -> str:
    known = _known_keys(table)
    if key in known:
        return key
    matches = [full for full in known if full.endswith(f".{key}")]
    least = min((full.count(".") for full in matches), default=0)
    matches = [full for full in matches if full.count(".") == least]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(f"recipe key {key!r} is ambiguous: {', '.join(matches)}")
    leaves: dict[str, str] = {}
    for full in sorted(known, key=lambda full: full.count(".")):
        leaves.setdefault(full.rsplit(".", 1)[-1], full)
    close = difflib.get_close_matches(key, [*known, *leaves], n=1)
    hint = (
        f"did you mean {leaves.get(close[0], close[0])!r}?" if close else "`corral recipes NAME` shows a recipe's keys"
    )
    raise UsageError(f"unknown recipe key {key!r}; {hint}")


def _validate(table: Mapping[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(dict(table))
    except ValidationError as error:
        first = error.errors()[0]
        # pydantic's path also names the chosen member of a union; only parts that are keys of the recipe stay.
        names = {part for full in _known_keys(table) for part in full.split(".")}
        parts = [str(part) for part in first["loc"]]
        shown = [part for i, part in enumerate(parts) if part in names and not (i == 1 and parts[0] == "method")]
        if first["type"] == "extra_forbidden":
            shown.append(parts[-1])
        key = ".".join(shown) or "recipe"
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            allowed = [full for full in _known_keys(table) if full.rpartition(".")[0] == key.rpartition(".")[0]]
            allowed += [] if "." in key else [*(n for n in Recipe.model_fields if n not in allowed), "for"]
            close = difflib.get_close_matches(key, allowed, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(allowed)}"
            message = f"unknown key{hint}"
        elif first["type"] == "union_tag_invalid":
            message = f"unknown method {first['ctx']['tag']!r}; known: {first['ctx']['expected_tags']}"
        elif first["type"] in ("model_type", "model_attributes_type"):
            message = f"must be a table, found {first['input']!r}"
        else:
            found = first["input"]
            message += "" if isinstance(found, dict) or "found" in message else f", found {found!r}"
        raise UsageError(f"{where}: {key}: {message}") from error
