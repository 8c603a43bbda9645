"""What a run's files state: the header of its model, its recipe and its records; no weights are read."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from corral.checksums import checksum
from corral.cli.complete import has_records
from corral.cli.headers import REMEDY, read_header
from corral.cli.record_facts import RecordFacts, read_facts
from corral.errors import CorralError, UsageError
from corral.lock import SILENT_SECONDS
from corral.reading import MOST_RECIPE, MOST_TEXT, parse_json, parse_toml, read_bytes

State = Literal["finished", "in training", "unfinished", "measured", "damaged"]


@dataclass(frozen=True)
class RunFacts:
    """What a run's files state.

    Attributes:
        path: the folder.
        state: "in training" where a process trains in it now; "measured" of a model that is no run.
        info: `RunInfo` of the model, or of an unfinished run what its recipe says of it: recipe, method, data, norm,
            eps, seed, epochs; of a model that is no run what its records say: run (its name), data, norm, eps.
        spec: of the model; empty before there is one.
        progress: how far an unfinished run is, in words.
        records: its evaluations.
        problems: files that are damaged or were edited, one line each.
    """

    path: Path
    state: State
    info: dict[str, Any]
    spec: dict[str, Any]
    progress: str
    records: list[RecordFacts]
    problems: list[str]


def read_run(path: Path) -> RunFacts:
    """What the files of a run folder, or of one with another model's records, state; damages are its `problems`.

    Raises:
        UsageError: no folder, or one that holds no run.
    """
    model, recipe, last = path / "model.safetensors", path / "recipe.toml", path / "checkpoints" / "last.safetensors"
    records = [read_facts(file) for file in sorted((path / "records").glob("*.json"))]
    if not (model.exists() or recipe.exists()) and has_records(path):
        one = next((record for record in records if record.problem is None), None)
        info = {} if one is None else {key: getattr(one, key) for key in ("run", "data", "norm", "eps")}
        return RunFacts(path, "measured", info, {}, "", records, [])
    if not path.is_dir() or not (model.exists() or recipe.exists()):
        what = "no such run folder" if not path.exists() else "not a run folder"
        raise UsageError(f"{path}: {what}; `corral runs` lists those below the current folder")
    info = {}
    spec: dict[str, Any] = {}
    problems: list[str] = []
    state: State = "finished" if model.exists() else "unfinished"
    progress = ""
    try:
        if state == "finished":
            metadata = read_header(model)[0]
            info, spec = _checked(metadata.get("info"), model), _table(metadata.get("spec"), model)
            if not isinstance(spec.get("image_shape"), list):
                raise CorralError(f"{model}: its description is damaged (image_shape); {REMEDY}")
            problems += _edits(path, info)
        else:
            info = _of_recipe(recipe)
            progress = _progress(last, info)
            state = "in training" if _beats(path / ".train.lock") else state
    except CorralError as error:
        problems.append(str(error))
        state = "damaged"
    return RunFacts(path, state, info, spec, progress, records, problems)


def epochs_words(run: Path, total: int) -> str:
    """The epochs of a finished run, its warm start's apart.

    Args:
        run: the folder.
        total: what its model states, both together; it is all that is known where metrics.jsonl is damaged.
    """
    try:
        entries = _lines(read_bytes(run / "metrics.jsonl", remedy=REMEDY, most=MOST_TEXT))
        warm = sum(entry["phase"] == "warm start" for entry in entries)
    except (CorralError, ValueError, KeyError, TypeError):
        return f"{total} epochs"
    return f"{len(entries) - warm} epochs" + (f" after {warm} of warm start" if warm else "")


def _of_recipe(path: Path) -> dict[str, Any]:
    """What a run's recipe says of what `RunInfo` will."""
    try:
        table = parse_toml(read_bytes(path, remedy=REMEDY, most=MOST_RECIPE).decode())
        found = {
            "recipe": table["name"],
            "method": table["method"]["name"],
            "data": table["data"]["name"],
            "norm": table["threat"]["norm"],
            "eps": table["threat"]["eps"],
            "seed": table["training"]["seed"],
            "epochs": table["training"]["epochs"],
        }
    except (ValueError, KeyError, TypeError) as error:
        reason = f"without {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise CorralError(f"{path}: not a run's recipe ({reason}); {REMEDY}") from error
    return _checked(found, path)


def _checked(info: object, path: Path) -> dict[str, Any]:
    """The facts of a run, of the right types where they are shown."""
    kinds: dict[str, type | tuple[type, ...]] = dict.fromkeys(("recipe", "method", "data", "norm"), str)
    kinds |= {"eps": (int, float), "seed": int, "epochs": int}
    optional: dict[str, type | tuple[type, ...]] = {
        "train_images": int,
        "train_seconds": (int, float),
        "validation": dict,
    }
    facts = _table(info, path)
    kinds |= {name: kind for name, kind in optional.items() if name in facts}
    for name, kind in kinds.items():
        if not isinstance(facts.get(name), kind) or isinstance(facts.get(name), bool):
            raise CorralError(f"{path}: its description is damaged ({name}); {REMEDY}")
    if not all(isinstance(value, int | float) for value in facts.get("validation", {}).values()):
        raise CorralError(f"{path}: its description is damaged (validation); {REMEDY}")
    return facts


def _table(found: object, path: Path) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise CorralError(f"{path}: its description is damaged; {REMEDY}")
    return found


def _edits(path: Path, info: Mapping[str, Any]) -> list[str]:
    """The files of a finished run that its model knows by their content and that have another now."""
    found = []
    for name, key in (("recipe.toml", "recipe_sha256"), ("metrics.jsonl", "metrics_sha256")):
        file = path / name
        if info.get(key) is None or not file.exists():
            continue
        text = read_bytes(file, remedy=REMEDY, most=MOST_TEXT)
        try:
            content: Any = parse_toml(text.decode()) if name.endswith(".toml") else _lines(text)
        except ValueError as error:
            raise CorralError(f"{file}: damaged ({error}); {REMEDY}") from error
        if checksum(content) != info[key]:
            found.append(f"{file}: edited since it was written, or damaged")
    return found


def _lines(text: bytes) -> list[Any]:
    return [parse_json(line) for line in text.splitlines() if line]


def _progress(last: Path, info: Mapping[str, Any]) -> str:
    """How far an unfinished run is, by its checkpoint."""
    if not last.exists():
        return "no epoch finished"
    metadata = read_header(last)[0]
    try:
        epoch, warm = int(metadata["epoch"]), int(metadata["warm_epochs"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorralError(f"{last}: its description is damaged ({error}); {REMEDY}") from error
    return f"warm start {epoch}/{warm}" if epoch <= warm and warm else f"epoch {epoch - warm}/{info['epochs']}"


def _beats(lock: Path) -> bool:
    """Whether a process holds a lock: it touches the file every few seconds."""
    try:
        return time.time() - lock.stat().st_mtime < SILENT_SECONDS
    except OSError:
        return False
