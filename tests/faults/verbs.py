"""What is disturbed: one small call of each verb, and how its result is compared with an undisturbed one's."""

import csv
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

SMALL = "--set data.train=120 --set width=4 --set model.features=8 --set warm_start.epochs=1 --quiet"
# What differs between two undisturbed calls: times, and ids of evaluations, which are made from them.
VARYING = re.compile(r".*seconds|created|since|evaluations?|digest|.*sha256")


@dataclass(frozen=True)
class Verb:
    """A call that ends with the same files however often it was ended before.

    Attributes:
        name: of the verb.
        line: its command line, in a folder that holds the finished runs `base` and `certified`.
        compared: the files of its result, as patterns; what a fault must not change.
        again: its command line after a fault, where that is another.
        exact: whether its numbers do not depend on the time that it took.
    """

    name: str
    line: str
    compared: tuple[str, ...]
    again: str | None = None
    exact: bool = True


VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "train",
            f"train corral --data digits --out made --epochs 2 {SMALL} --auto-resume",
            ("made/recipe.toml", "made/metrics.jsonl", "made/model.safetensors"),
        ),
        Verb("evaluate", "evaluate base --n 30 --batch-size 10 --quiet", ("base/records/*",)),
        Verb(
            "certify",
            "certify certified --n 20 --batch-size 10 --quiet --radius 0.1",
            ("certified/certificates/*.json", "certified/certificates/*.npz"),
        ),
        Verb(
            "analyze",
            "analyze base --n 30 --quiet --only norms --only cosine --only silhouettes",
            ("base/analyses/*.json",),
        ),
        Verb("audit", "audit base --n 2 --minutes 0.6 --out audit.html --quiet", ("audit.*",), exact=False),
        Verb("report", "report base --out page.html", ("page.html",)),
        Verb("export", "export base --out base.pt2", ("base.pt2",), exact=False),
        Verb(
            "reproduce",
            "reproduce clustr-figure3 --runs runs --results results --data toy-moons --set training.epochs=1 --quiet",
            ("results/*.csv", "runs/*/*/model.safetensors"),
        ),
        Verb(
            "reproduce-workers",
            "reproduce clustr-figure3 --runs runs --results results --data toy-moons --set training.epochs=1 --quiet "
            "--workers 2",
            ("results/*.csv", "runs/*/*/model.safetensors"),
        ),
        Verb("demo", "demo --out demo --workers 2 --quiet", ("demo/*/model.safetensors", "demo/*/records/*")),
    )
}
# Calls that begin processes of their own: of an interpreter that was started, not of a forked one.
POOLS = ("reproduce-workers", "demo")
# Made once, before anything is disturbed: the first two for all, the last for `certify`.
BASE = (
    f"train corral --data digits --out base --epochs 1 {SMALL}",
    "evaluate base --n 20 --attack pgd_ce --quiet",
    f"train certified --data digits --out certified --epochs 1 {SMALL.replace('width=4', 'width=8')}",
)


def result(verb: Verb, folder: Path) -> dict[str, str]:
    """The files of a verb's result and what is in them, but for times."""
    paths = sorted(path for pattern in verb.compared for path in folder.glob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): _content(path) if verb.exact else "there" for path in paths}


def _content(path: Path) -> str:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="numpy") as archive:
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
            facts = json.loads(archive.metadata()["corral"])
        words = json.dumps(_lasting(facts), sort_keys=True)
        return _digest(words.encode(), *(name.encode() + value.tobytes() for name, value in sorted(tensors.items())))
    if path.suffix in (".json", ".jsonl"):
        lines = [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines()
        return _digest(*(json.dumps(_lasting(json.loads(line)), sort_keys=True).encode() for line in lines))
    if path.suffix == ".csv":
        rows = list(csv.reader(path.read_text().splitlines()))
        kept = [place for place, name in enumerate(rows[0]) if not VARYING.fullmatch(name)]
        return _digest(*(",".join(row[place] for place in kept if place < len(row)).encode() for row in rows))
    return _digest(path.read_bytes())


def _lasting(value: object) -> object:
    if isinstance(value, dict):
        return {key: _lasting(inner) for key, inner in value.items() if not VARYING.fullmatch(key)}
    return [_lasting(inner) for inner in value] if isinstance(value, list) else value


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
