"""Recipes on disk and their overrides: read, laid over one another, checked."""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from corral.data import is_known, known_names, resolved_name
from corral.errors import CorralError, UsageError
from corral.training.methods import METHODS, MethodOptions
from corral.training.recipe import DataConfig, ModelConfig, Recipe, TrainingConfig
from corral.training.recipe_base import Config, ThreatConfig


def shipped_recipes() -> dict[str, Path]:
    """The recipes inside the package, by name."""
    folder = Path(__file__).parents[1] / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"), key=lambda path: path.stem)}


def load_recipe(
    recipe: str | Path | Recipe, *, data: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Read a recipe, lay its values for the data set over it, then the overrides.

    Args:
        recipe: a shipped recipe's name, a TOML file, a run folder (its resolved recipe), or a Recipe. A `Path` is never
            a name: a run folder may be called as a recipe is.
        data: data-set name, or a function of the user's as `corral.data.load` takes it; default the recipe's own.
        overrides: dotted keys ("training.epochs") or, where only one table has it at the least depth, the last part;
            None takes the recipe's value out, so that the default stands.

    Raises:
        UsageError: an unknown recipe, key or value; one line with file, key and what is allowed.
    """
    where, table = _read(recipe)
    variants = table.pop("for", {})
    if not isinstance(variants, dict) or not all(isinstance(variant, dict) for variant in variants.values()):
        raise UsageError(f"{where}: 'for' must hold one table per data set, such as [for.mnist.threat]")
    for name, variant in variants.items():
        if not is_known(name):
            raise UsageError(f"{where}: for.{name}: unknown data set{_near(name, known_names())}")
        _validate(_lay_over(table, variant), f"{where}: [for.{name}]")  # a slip in a variant is found before its day
    chosen = data or _part(table, "data").get("name", DataConfig().name)
    if isinstance(chosen, str) and chosen in variants:
        table = _lay_over(table, variants[chosen])
    if data is not None:
        table = _merge(table, {"data": {"name": data}})
    given = {_full_key(key, table): value for key, value in (overrides or {}).items()}
    if given.get("model.backbone", _part(table, "model").get("backbone")) != _part(table, "model").get("backbone"):
        table = {**table, "model": {}}
    for key, value in given.items():
        table = _merge(table, _nested(key, value)) if value is not None else _without(table, key.split("."))
    resolved = _validate(table, f"{where}, with the values given" if given else where)
    asked = data is not None or given.get("data.name") is not None
    # A run folder's own words import no code.
    name = resolved_name(resolved.data.name, code=asked or isinstance(recipe, Recipe) or not os.path.isdir(recipe))
    if name == resolved.data.name:
        return resolved
    return resolved.model_copy(update={"data": resolved.data.model_copy(update={"name": name})})


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
    path = Path(recipe) if isinstance(recipe, Path) else shipped.get(recipe, Path(recipe))
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


def _without(table: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    first, *rest = path
    if rest and isinstance(table.get(first), dict):
        return {**table, first: _without(table[first], rest)}
    return {name: value for name, value in table.items() if rest or name != first}


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _known_keys(table: Mapping[str, Any]) -> list[str]:
    """Every dotted key that the recipe of this table's method can set."""
    try:
        method: type[MethodOptions] = METHODS.find(str(_part(table, "method").get("name")), code=False).Options
    except UsageError:  # which is said when the whole is checked
        method = MethodOptions
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
            inner = _table(field.annotation)
            if inner is None or inner is not field.annotation:  # an optional table is taken out as a whole
                keys.append(f"{section}.{name}")
            if inner is not None:
                keys += [f"{section}.{name}.{leaf}" for leaf in inner.model_fields]
    return keys


def _table(annotation: Any) -> type[Config] | None:
    """The table that a field holds, or may hold; None for a plain value."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Config)), None)


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
    except UsageError as error:
        raise UsageError(f"{where}: method.name: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        # pydantic's path also names the place in a list and the kind of a value; only keys of the recipe stay.
        names = {part for full in _known_keys(table) for part in full.split(".")}
        *before, last = first["loc"] or ("recipe",)
        shown = [str(part) for part in before if part in names]
        shown += [str(last)] if last in names or first["type"] == "extra_forbidden" else []
        key = ".".join(shown) or "recipe"
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            allowed = [full for full in _known_keys(table) if full.rpartition(".")[0] == key.rpartition(".")[0]]
            allowed += [] if "." in key else [*(n for n in Recipe.model_fields if n not in allowed), "for"]
            close = difflib.get_close_matches(key, allowed, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(allowed)}"
            message = f"unknown key{hint}"
        elif first["type"] == "method_missing":
            key = f"{key}.name"
        elif first["type"] in ("model_type", "model_attributes_type"):
            message = f"must be a table, found {first['input']!r}"
        else:
            found = first["input"]
            message += "" if isinstance(found, dict) or "found" in message else f", found {found!r}"
        raise UsageError(f"{where}: {key}: {message}") from error
