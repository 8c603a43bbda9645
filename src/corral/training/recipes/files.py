"""Recipes on disk and their overrides: read, laid over one another, checked."""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from corral.checksums import checksum, edited
from corral.data import is_known, known_names, resolved_name
from corral.errors import UsageError, closest
from corral.files import AnyPath
from corral.models.backbones import BACKBONES, backbone_options, takes_any
from corral.models.heads import HEADS
from corral.reading import check_values, parse_toml, read_bytes
from corral.registry import Registry, is_target
from corral.training.methods import METHODS, MethodOptions
from corral.training.recipes.base import Config, ThreatConfig
from corral.training.recipes.layers import (
    BESIDE,
    BY_NAME,
    GENERIC,
    Layers,
    based,
    colourful,
    kinds,
    merge,
    part,
    presets,
    read_toml,
    shipped_recipes,
)
from corral.training.recipes.recipe import DataConfig, Recipe, TrainingConfig
from corral.training.run import Run, written_digest
from corral.zoo import located

# The comment at the head of a run's recipe.
SAVED_CHECKSUM = re.compile(r"^# sha256: ([0-9a-f]{64}) ", re.MULTILINE)
# What another data set needs at least, where nobody chose settings for it.
NEEDED = ("model.backbone", "threat.eps")


def load_recipe(
    recipe: AnyPath | Recipe, *, data: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Read a recipe, lay its values for the data set over it, then the overrides.

    Args:
        recipe: a shipped recipe's name, a method's name or "file.py:Class", which gives the data set's preset and the
            method's defaults, a TOML file, a run folder (its resolved recipe), or a Recipe. A `Path` is never a name: a
            run folder may be called as a recipe is.
        data: data-set name, or a function of the user's as `corral.data.load` takes it; default the recipe's own.
        overrides: dotted keys ("training.epochs") or, where only one table has it at the least depth, the last part;
            None takes the recipe's value out, so that the default stands.

    Raises:
        UsageError: an unknown recipe, key or value, or a data set that the recipe has no settings for; one line with
            file, key and what is allowed.
    """
    if not isinstance(recipe, str | PathLike | Recipe):
        raise UsageError(f"a recipe is a name, a path or a corral Recipe, found {type(recipe).__name__}")
    if not isinstance(data, str | None):
        raise UsageError(f"a recipe's data is a name, found {type(data).__name__}: give the data themselves to train")
    source = _of_shipped(recipe) if isinstance(recipe, str) and recipe in shipped_recipes() else _checked(_read(recipe))
    overrides = {k: fspath(v) if isinstance(v, PathLike) else v for k, v in (overrides or {}).items()}
    for key, value in overrides.items():
        try:
            check_values(value)
        except ValueError as error:
            raise UsageError(f"recipe key {key!r}: {error}") from error
        _import_model(_nested(key if "." in key else f"model.{key}", value))
    own = source.laid(())
    for key, value in overrides.items():  # another backbone brings its own keys
        if key in ("model.backbone", "backbone") and isinstance(value, str) and _found(value):
            own = merge(own, {"model": {"backbone": value}})
    known = _known_keys(own) if overrides else ()
    given = {_full_key(key, own, known): value for key, value in overrides.items()}
    table = _laid_for(source, data, given)
    if isinstance(head := part(table, "model").get("head"), str):  # as a table, which options may be laid over
        table = merge(table, {"model": {"head": {"name": head}}})
    if given.get("model.backbone", part(table, "model").get("backbone")) != part(table, "model").get("backbone"):
        table = {**table, "model": {}}
    for key, value in given.items():
        table = merge(table, _nested(key, value)) if value is not None else _without(table, key.split("."))
    # A run folder's own words import no code.
    trusted = not source.saved
    if trusted or given.get("method.name") is not None:
        _import(METHODS, part(table, "method").get("name"))
    resolved = _validate(table, f"{source.where}, with the values given" if given else source.where)
    asked = data is not None or given.get("data.name") is not None
    name = resolved_name(resolved.data.name, code=asked or trusted)
    if name == resolved.data.name:
        return resolved
    return resolved.model_copy(update={"data": resolved.data.model_copy(update={"name": name})})


def chosen_sets(recipe: AnyPath) -> tuple[str, ...]:
    """The data sets that a recipe has settings for, its own first."""
    source = _read(recipe)
    own = source.own or DataConfig().name
    return tuple(dict.fromkeys([own, *(name for name in source.sets if is_known(name))]))


@cache
def _of_shipped(recipe: str) -> Layers:
    """A shipped recipe, read and checked once."""
    return _checked(_read(recipe))


def _checked(source: Layers) -> Layers:
    """The recipe, if there is no slip in a variant either, which would be found on its day alone."""
    if not source.saved:  # what a run folder names must have been imported by whoever reads it
        for names in ((), *((name,) for name in source.variants())):
            _import_model(source.laid(names))
    for name in source.variants():
        if not is_known(name) and name not in presets():
            near = closest(name.lower(), [*presets(), *known_names()])
            raise UsageError(f"{source.where}: for.{name}: unknown data set{near}")
    for name in source.sets:
        _validate(source.laid(kinds(name) or (name,)), f"{source.where}: [for.{name}]")
    return source


def _laid_for(source: Layers, data: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's table for a data set, of settings that somebody chose.

    Raises:
        UsageError: nobody did, neither the recipe nor the values given.
    """
    own = source.own or DataConfig().name
    chosen = given.get("data.name") or data or own
    if not isinstance(chosen, str):
        return source.laid((own,))
    if source.saved and chosen == own:
        return source.laid(())
    names = kinds(chosen) or (chosen,)
    generic = GENERIC in source.sets and colourful(chosen)
    preset = given.get("preset")
    named = isinstance(preset, str) and preset in BY_NAME and source.preset(preset) is not None
    if preset is not None and not (named and generic):
        raise UsageError(f"preset {preset!r} is none for recipe {source.name} on {chosen}: leave it out")
    if preset is None and (chosen == own or chosen in source.sets):
        table = source.laid(names)
    elif preset is None and (source.says(NEEDED, given) or not is_known(chosen)):
        table = source.laid(kinds(own) or (own,))
    elif preset is not None or (generic and not kinds(chosen)):
        preset = preset or GENERIC
        table = {"preset": preset, **source.laid((*kinds(preset), chosen))}
    else:
        instead = ", or take those for colour images of any kind: --set preset=images" if generic else ""
        raise UsageError(
            f"recipe {source.name!r} has no settings for {chosen}: give them (--set model.backbone=... --set "
            "threat.eps=... and what else differs, or a recipe of your own with "
            f"base = {source.name!r} and [for.{chosen!r}]){instead}"
        )
    return table if data is None else merge(table, {"data": {"name": data}})


def _import(registry: Registry[Any], name: object) -> None:
    """Import the code of what a recipe names by a target."""
    if isinstance(name, str) and is_target(name):
        registry.find(name)


def _import_model(table: Mapping[str, Any]) -> None:
    """Import the code of a backbone and a head that a recipe's `model` table names by targets."""
    model = part(table, "model")
    _import(BACKBONES, model.get("backbone"))
    _import(HEADS, _head_name(model))


def _head_name(model: Mapping[str, Any]) -> object:
    """The name of a `model` table's head, which is a name or a table."""
    head = model.get("head")
    return head.get("name") if isinstance(head, dict) else head


def _read(recipe: AnyPath | Recipe) -> Layers:
    if isinstance(recipe, Recipe):
        return Layers(recipe.name, recipe.name, (recipe.model_dump(exclude_none=True),), kind="object")
    shipped = shipped_recipes()
    if isinstance(recipe, str) and recipe not in shipped and (recipe in METHODS or is_target(recipe)):
        return _of_method(recipe)
    path = shipped[recipe] if isinstance(recipe, str) and recipe in shipped else located(recipe)
    saved = os.path.isdir(path)
    if saved:
        path = path / "recipe.toml"
        if not os.path.isfile(path):
            raise UsageError(f"{recipe}: a folder without recipe.toml, so not a run; give a recipe or a run folder")
    if not os.path.isfile(path):
        hint = closest(str(recipe).lower(), [*shipped, *METHODS])
        raise UsageError(
            f"unknown recipe {str(recipe)!r}{hint}; shipped: {', '.join(shipped)}; or give a .toml file, or a method "
            "of your own as file.py:Class"
        )
    table = read_toml(path)
    if saved:
        _check_unedited(path, table)
    name = str(recipe) if saved else str(table.get("name", recipe))
    tables = based(str(path), table, beside=path.parent)
    return Layers(str(path), name, tables, kind="saved" if saved else "file")


def recipe_checksum(text: str) -> str:
    """The `checksum` of the content of a recipe's TOML text."""
    return checksum(parse_toml(text))


def with_checksum(text: str) -> str:
    """A resolved recipe's TOML text behind a comment with its `recipe_checksum`, as a run folder has it."""
    return f"# sha256: {recipe_checksum(text)} of the content, written by corral; edit a copy elsewhere\n{text}"


def _check_unedited(path: Path, table: Mapping[str, Any]) -> None:
    """Refuse a run's recipe with another content than its own comment or the run's model states; see `edited`."""
    stated = SAVED_CHECKSUM.search(read_bytes(path, remedy="restore it").decode())
    known = {written_digest(Run(path.parent), "recipe_sha256"), stated and stated[1]}
    if known - {None, checksum(dict(table))}:
        edited(path, remedy="restore it or train again in another folder")


def _of_method(name: str) -> Layers:
    """The recipe that a method's name stands for: all of its defaults, wherever there is a preset."""
    method = METHODS.find(name)
    summary = next(iter((method.__doc__ or "").strip().splitlines()), "")
    table = {"name": method.name, "summary": summary, "method": {"name": name}}
    alone = Layers(name, method.name, (table,), kind="method")
    sets = [data for data in presets() if alone.preset(data) is not None]
    return Layers(name, method.name, ({**table, "sets": sets},), kind="method")


def _without(table: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    first, *rest = path
    if rest and isinstance(table.get(first), dict):
        return {**table, first: _without(table[first], rest)}
    return {name: value for name, value in table.items() if rest or name != first}


def _nested(key: str, value: Any) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return dict(value)


def _known_keys(table: Mapping[str, Any]) -> list[str]:
    """Every dotted key that the recipe of this table's method can set."""
    try:
        method: type[MethodOptions] = METHODS.find(str(part(table, "method").get("name")), code=False).Options
    except UsageError:  # which is said when the whole is checked
        method = MethodOptions
    return [*_section_keys(method), *(f"model.{name}" for name in _model_keys(table))]


@cache
def _section_keys(method: type[MethodOptions]) -> tuple[str, ...]:
    """Every dotted key of a recipe with these options of its method, but those of its model."""
    sections: dict[str, type[Config]] = {"data": DataConfig, "threat": ThreatConfig}
    sections |= {"method": method, "training": TrainingConfig}
    keys = ["name", "summary", "source", "preset"]
    for section, config in sections.items():
        for name, field in config.model_fields.items():
            inner = _table(field.annotation)
            if inner is None or inner is not field.annotation:  # an optional table is taken out as a whole
                keys.append(f"{section}.{name}")
            if inner is not None:
                keys += [f"{section}.{name}.{leaf}" for leaf in inner.model_fields]
    return tuple(keys)


def _model_keys(table: Mapping[str, Any]) -> list[str]:
    """What a recipe's `model` table may set: the options of every backbone and of the table's own, and the head's."""
    model = part(table, "model")
    chosen = model.get("backbone")
    backbones = dict.fromkeys([*BACKBONES, *([chosen] if isinstance(chosen, str) and _found(chosen) else [])])
    options = dict.fromkeys(option for name in backbones for option in backbone_options(name))
    name = _head_name(model)
    known = isinstance(name, str) and (name in HEADS or is_target(name))
    of_head = HEADS.find(str(name), code=False).option_names() if known else ()
    return ["backbone", "normalise", *options, "head", "head.name", *(f"head.{option}" for option in of_head)]


def _found(backbone: str) -> bool:
    """Whether a backbone of a name, or an imported target, is there."""
    try:
        BACKBONES.find(backbone, code=False)
    except UsageError:
        return False
    return True


def _table(annotation: Any) -> type[Config] | None:
    """The table that a field holds, or may hold; None for a plain value."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Config)), None)


def _full_key(key: str, table: Mapping[str, Any], known: Sequence[str]) -> str:
    """The dotted key that a key of a recipe's table stands for: one of `known`, or an option that a backbone takes."""
    if key in known:
        return key
    backbone = part(table, "model").get("backbone")
    if key.startswith("model.") and isinstance(backbone, str) and _found(backbone) and takes_any(backbone):
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
    hint = f"did you mean {leaves.get(close[0], close[0])!r}?" if close else "`corral recipes NAME` shows all keys"
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
            allowed += [] if "." in key else [*(n for n in Recipe.model_fields if n not in allowed), *BESIDE]
            message = "unknown key" + (closest(key, allowed) or f"; allowed: {', '.join(allowed)}")
        elif first["type"] == "method_missing":
            key = f"{key}.name"
        elif first["type"] in ("model_type", "model_attributes_type"):
            message = f"must be a table, found {first['input']!r}"
        else:
            found = first["input"]
            message += "" if isinstance(found, dict) or "found" in message else f", found {found!r}"
        raise UsageError(f"{where}: {key}: {message}") from error
