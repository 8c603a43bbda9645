"""A recipe's layers: what a data set's preset says, what the recipe it is based on says, what it says itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from corral.data import DATA_SETS, is_known
from corral.errors import UsageError
from corral.reading import MOST_RECIPE, parse_toml, read_bytes
from corral.training.methods import METHODS

FOLDER = Path(__file__).parents[2] / "recipes"
# What a recipe's file says beside the recipe.
BESIDE = ("base", "sets", "for")
# The preset of colour images that no data set's own preset describes; those that are taken by name, with the least side
# that their networks are for.
GENERIC, LEAST_SIDE = "images", 32
BY_NAME = {GENERIC: LEAST_SIDE, "imagenet": 64}
Table = Mapping[str, Any]


def shipped_recipes() -> dict[str, Path]:
    """The recipes inside the package, by name."""
    return dict(_shipped())


@cache
def _shipped() -> tuple[tuple[str, Path], ...]:
    """Their names and files, listed once."""
    return tuple(sorted((path.stem, path) for path in FOLDER.glob("*.toml")))


@cache
def presets() -> dict[str, dict[str, Any]]:
    """What is shipped for data sets, and for kinds of them, by name."""
    return {path.stem: read_toml(path) for path in sorted((FOLDER / "data").glob("*.toml"))}


def kinds(data: str) -> tuple[str, ...]:
    """A data set's name after those of the presets that its own is based on; nothing where it has none."""
    found = presets().get(data)
    return () if found is None else (*kinds(found.get("base", "")), data)


@dataclass(frozen=True)
class Layers:
    """A recipe that is not laid together yet.

    Attributes:
        where: for messages.
        name: what messages call it.
        tables: the files' contents, the base's first.
        kind: a "file", a "saved" run's resolved recipe, an "object", or a "method" with nothing but its defaults.
    """

    where: str
    name: str
    tables: tuple[Table, ...]
    kind: Literal["file", "saved", "object", "method"]

    @property
    def saved(self) -> bool:
        """Whether it is of a run folder, which the user did not write."""
        return self.kind == "saved"

    @property
    def shipped(self) -> bool:
        """Whether the data sets' presets are below it: of a method, and of files that begin with a shipped one."""
        return self.kind == "method" or "sets" in self.tables[0]

    @property
    def encoder(self) -> bool:
        """Whether its method makes or takes an encoder: such have presets of their own."""
        names = [name for table in self.tables if (name := part(table, "method").get("name")) is not None]
        try:
            method = METHODS.find(str(names[-1] if names else ""), code=not self.saved)
        except UsageError:  # which is said when the whole is checked
            return False
        return method.trains == "encoder" or method.continues_from == "encoder"

    def says(self, keys: Sequence[str], given: Table) -> bool:
        """Whether the user said these keys: among the values given, in a file of the user's own or in a Recipe."""
        own = self.laid(()) if self.kind in ("file", "object") and not self.shipped else {}
        tables = {f"{name}.{key}" for name in own for key in part(own, name)}
        return all(given.get(key) is not None or key in tables for key in keys)

    @property
    def own(self) -> str | None:
        """The data set that the recipe itself names."""
        names = [part(table, "data").get("name") for table in self.tables]
        return next((name for name in reversed(names) if name is not None), None)

    @property
    def sets(self) -> tuple[str, ...]:
        """The data sets that somebody chose the recipe's settings for, its own aside; "images" for any colour images.

        Those of a file that lists none are those that it has a table for.
        """
        listed = next((table["sets"] for table in reversed(self.tables) if "sets" in table), ())
        return tuple(dict.fromkeys([*listed, *(name for name in part(self.tables[-1], "for") if is_known(name))]))

    def preset(self, name: str) -> Table | None:
        """A preset as it is for the recipe's method; None where it says nothing of such."""
        found = presets().get(name, {})
        if self.encoder:
            return found.get("encoder")
        return {key: value for key, value in found.items() if key not in ("base", "encoder")} or None

    def variants(self) -> Iterator[str]:
        """The names of the tables for data sets, checked.

        Raises:
            UsageError: something else than one table a data set.
        """
        for table in self.tables:
            variants = table.get("for", {})
            if not isinstance(variants, dict) or not all(isinstance(variant, dict) for variant in variants.values()):
                raise UsageError(f"{self.where}: 'for' must hold one table per data set, such as [for.mnist.threat]")
            yield from variants

    def laid(self, names: Sequence[str]) -> dict[str, Any]:
        """The recipe's table for a data set, named after the kinds that it is of."""
        table: dict[str, Any] = {}
        if self.shipped:
            for name in names:
                table = lay_over(table, self.preset(name) or {})
        for each in self.tables:
            table = lay_over(table, {key: value for key, value in each.items() if key not in BESIDE})
            for name in names:
                table = lay_over(table, part(each, "for").get(name, {}))
        return table


def based(where: str, table: Table, *, beside: Path | None, seen: tuple[str, ...] = ()) -> tuple[Table, ...]:
    """A recipe's table after those that it is based on; paths of bases are relative to the folder `beside`.

    Raises:
        UsageError: no such base, or one that is based on itself.
    """
    base = table.get("base")
    if base is None:
        return (table,)
    if not isinstance(base, str):
        raise UsageError(f"{where}: base: must be a recipe's name or a .toml file, found {base!r}")
    path = shipped_recipes().get(base, (beside or Path()) / base)
    if str(path) in seen:
        raise UsageError(f"{where}: base: {base} is based on itself")
    if not path.is_file():
        raise UsageError(f"{where}: base: no recipe {base!r}; shipped: {', '.join(shipped_recipes())}")
    found = read_toml(path)
    return (*based(str(path), found, beside=path.parent, seen=(*seen, str(path))), table)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's content.

    Raises:
        UsageError: it is not TOML.
        CorralError: it cannot be read.
    """
    try:
        return parse_toml(read_bytes(path, remedy="name a recipe or a TOML file", most=MOST_RECIPE).decode())
    except ValueError as error:  # of the bytes, of the syntax, or of a value
        raise UsageError(f"{path}: not valid TOML ({error})") from error


def part(table: Table, name: str) -> Table:
    """A table of a recipe that is not checked yet; whatever stands there that is no table counts as empty."""
    found = table.get(name)
    return found if isinstance(found, dict) else {}


def lay_over(table: Table, variant: Table) -> dict[str, Any]:
    """A recipe with other values; another backbone brings its own options, the old one's are dropped."""
    if "backbone" in part(variant, "model"):
        table = {**table, "model": {}}
    return merge(table, variant)


def merge(base: Table, over: Table) -> dict[str, Any]:
    """A table with the values of another on top, table by table."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def colourful(data: str) -> bool:
    """Whether images of a data set without a preset may be colour images of some size; the images themselves say."""
    shape = DATA_SETS[data].shape if data in DATA_SETS else None
    return is_known(data) and (shape is None or (shape[0] == 3 and min(shape[1:]) >= LEAST_SIDE))
