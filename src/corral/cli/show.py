"""`corral show` on the command line: all that the files of one run state."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from corral.cli import complete
from corral.cli.headers import read_document, read_header, weights_fingerprint
from corral.cli.options import Json, print_json
from corral.cli.record_facts import RecordFacts
from corral.cli.run_facts import RunFacts, epochs_words, read_run
from corral.cli.runs import problems, run_json, state_words, threat_words
from corral.cli.streams import say
from corral.errors import CorralError
from corral.progress import duration
from corral.terminal import eps_words
from corral.zoo import located

EPILOG = "Example: corral show runs/mnist-corral"


def show(
    run: Annotated[
        Path,
        typer.Argument(help="Run folder, or one with the records of another model.", autocompletion=complete.measured),
    ],
    as_json: Json = False,
) -> None:
    """Tell all that a run's files state: how it was made, its model, records, certificates, analyses and pages."""
    facts = read_run(located(run))
    wrong = problems(facts)
    more = _documents(facts.path, wrong)
    model = _model(facts)
    if as_json:
        print_json({**run_json(facts), "problems": wrong, "model": model, **more})
        return
    rows = [("state", state_words(facts)), *_training(facts), *_network(facts, model)]
    rows += [("record", _record_words(record, model)) for record in facts.records if record.problem is None]
    rows += [("certificate", words) for words in map(_certificate_words, more["certificates"])]
    rows += [(noun, ", ".join(more[key])) for noun, key in _LISTED if more[key]]
    rows += [("damaged", problem) for problem in wrong]
    width = max(len(name) for name, _ in rows)
    typer.echo(f"{run}")
    for name, words in rows:
        say(f"  {name:<{width}}  ", words, "red" if name == "damaged" else None)


_LISTED = (("analyses", "analyses"), ("pages", "pages"), ("heads", "heads"))


def _documents(run: Path, wrong: list[str]) -> dict[str, Any]:
    """What lies beside the records; damaged documents are added to what is wrong."""
    found: dict[str, Any] = {"certificates": [], "analyses": []}
    for kind, folder in (("certificate", "certificates"), ("analysis", "analyses")):
        for path in sorted((run / folder).glob("*.json")):
            try:
                document = read_document(path, kind=kind)
                found[folder].append(path.stem if kind == "analysis" else _certificate(document, path))
            except CorralError as error:
                wrong.append(str(error))
    pages = [*run.glob("*.html"), *run.glob("certificates/*.html"), *run.glob("analyses/*.html")]
    found["pages"] = [str(path) for path in sorted(pages)]
    found["heads"] = [str(path.parent) for path in sorted(run.glob("linear/*/model.safetensors"))]
    return found


def _certificate(document: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        certified = {str(point["radius"]): float(point["certified"]) for point in document["at"]}
        numbers = {key: float(document[key]) for key in ("clean", "lipschitz", "median")}
        counts = {key: int(document[key]) for key in ("n", "n_test", "broken")}
    except (KeyError, TypeError, ValueError) as error:
        raise CorralError(f"{path}: not a corral certificate ({error})") from error
    return {"file": path.name, **counts, **numbers, "certified": certified}


def _model(facts: RunFacts) -> dict[str, Any] | None:
    """The finished model's size and fingerprint."""
    path = facts.path / "model.safetensors"
    if facts.state != "finished":
        return None
    shapes = read_header(path)[1]
    return {"values": sum(map(math.prod, shapes.values())), "fingerprint": weights_fingerprint(path)}


def _training(facts: RunFacts) -> list[tuple[str, str]]:
    """How the run was or is made."""
    info = facts.info
    if not info:
        return []
    if facts.state == "measured":
        return [("model", info["run"]), ("data", info["data"]), ("threat", f"{threat_words(info)}, in pixel units")]
    images = f", {info['train_images']:,} training images" if "train_images" in info else ""
    rows = [
        ("recipe", info["recipe"] + (f" (method {info['method']})" if info["method"] != info["recipe"] else "")),
        ("data", f"{info['data']}{images}"),
        ("threat", f"{threat_words(info)}, in pixel units"),
        ("seed", str(info["seed"])),
        ("training", epochs_words(facts.path, info["epochs"])),
    ]
    if "train_seconds" in info:
        rows.append(("trained", f"in {duration(info['train_seconds'])} on {info.get('device', '?')}"))
    if measured := info.get("validation"):
        shares = (f"{name.removeprefix('validation_')} {100 * value:.1f}" for name, value in measured.items())
        rows.append(("validation", ", ".join(shares)))
    if info.get("started_from") is not None:
        rows.append(("started from", f"weights of fingerprint {info['started_from']}"))
    if "corral" in info:
        rows.append(("made by", f"corral {info['corral']}, torch {info.get('torch', '?')}"))
    return rows


def _network(facts: RunFacts, model: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What the model is."""
    spec = facts.spec
    if model is None or not spec:
        return []
    parts = [_options(spec.get(part)) for part in ("backbone", "head")]
    shape = " × ".join(map(str, spec["image_shape"]))
    return [
        ("backbone", f"{parts[0]}, images {shape} (C, H, W)"),
        ("head", f"{parts[1]}, {spec.get('num_classes')} classes"),
        ("weights", f"{model['values']:,} numbers, fingerprint {model['fingerprint']}"),
    ]


def _options(part: Any) -> str:
    """A backbone or a head by its name and its options."""
    if not isinstance(part, dict):
        return str(part)
    options = ", ".join(f"{key} {value}" for key, value in part.items() if key != "name" and value is not None)
    return f"{part.get('name')}{f' ({options})' if options else ''}"


def _record_words(record: RecordFacts, model: dict[str, Any] | None) -> str:
    images = f"{record.n:,} of {record.n_test:,} images" if record.n < record.n_test else f"{record.n:,} images"
    shares = ", ".join(f"{name} {100 * accuracy:.1f}" for name, accuracy in record.attacks.items())
    other = model is not None and record.model_fingerprint != model["fingerprint"]
    return (
        f"{record.protocol} at {record.norm} {eps_words(record.eps)}, {images}, {record.created[:10]}: "
        f"clean {100 * record.clean:.1f}, {shares}{' (of other weights than the model)' if other else ''}"
    )


def _certificate_words(found: dict[str, Any]) -> str:
    at = ", ".join(f"{100 * share:.1f} at {eps_words(float(radius))}" for radius, share in found["certified"].items())
    broken = f"; {found['broken']} broken by an attack" if found["broken"] else ""
    return f"{found['file']}: {found['n']:,} images, clean {100 * found['clean']:.1f}, certified {at}{broken}"
