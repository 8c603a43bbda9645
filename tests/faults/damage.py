"""Every file that a command believes, cut at each 1% and with bits flipped one at a time: refused, or of one content.

usage: python -m tests.faults.damage [KIND ...] [--flips 200] [--seed 0]     (`make faults` does it first)

Prints a JSON line a kind of file and damage: tries; refused, in one line; lost, where something else was read than was
written; bad, with another exception.
"""

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fuzz.kinds import RESULTS, _made

from corral.analysis.document import read_analysis
from corral.checkpoints import read_checkpoint
from corral.errors import CorralError
from corral.evaluation.certificate import read_certificate
from corral.papers.store import read_store
from corral.report.runs.collect import collect
from corral.training import load_recipe, read_metrics


def _tensors(path: Path, kind: str) -> object:
    tensors, metadata = read_checkpoint(path, kind=kind)
    return {name: (str(tensor.dtype), tensor.tolist()) for name, tensor in tensors.items()}, metadata


def _evidence(run: Path) -> object:
    """All that a page shows of a run."""
    return [
        (
            one.record,
            {k: v.tolist() for k, v in vars(one.arrays).items()},
            {k: v.tolist() for k, v in one.outcomes.items()},
        )
        for one in collect([run])
    ]


# By name: the file below the folder, and what a command believes of it.
KINDS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "model.safetensors": ("run/model.safetensors", lambda path: _tensors(path, "model")),
    "checkpoint": ("run/checkpoints/last.safetensors", lambda path: _tensors(path, "training")),
    "recipe.toml": ("run/recipe.toml", lambda path: load_recipe(path.parent)),
    "metrics.jsonl": ("run/metrics.jsonl", read_metrics),
    "record": ("run/records/quick-n20.json", lambda path: _evidence(path.parents[1])),
    "arrays of a record": ("run/records/quick-n20.npz", lambda path: _evidence(path.parents[1])),
    "certificate": ("run/certificates/l2-n10.json", read_certificate),
    "analysis": ("run/analyses/silhouettes-n20.json", read_analysis),
    **{f"results/{name}": (f"results/{name}", lambda path: read_store(path.parent)) for name in (
        "runs.csv", "attacks.csv", "analyses.csv", "rows.csv",
    )},
}  # fmt: skip


def prepare(folder: Path) -> None:
    """A small run and the committed results of one table, below a folder."""
    shutil.copytree(Path(_made().name) / "run", folder / "run")
    (folder / "results").mkdir()
    for name in ("runs.csv", "attacks.csv", "analyses.csv", "rows.csv"):
        shutil.copy(RESULTS / name, folder / "results")
    from corral.papers.store import changing

    with changing(folder / "results") as store:
        store.rows = {key: lines for key, lines in store.rows.items() if key.table == "mat-table5"}


def cuts(content: bytes, rng: random.Random) -> Iterator[bytes]:
    """The file without its end, at each 1%."""
    for percent in range(100):
        yield content[: len(content) * percent // 100]


def flips(count: int) -> Callable[[bytes, random.Random], Iterator[bytes]]:
    """The file with one bit flipped, `count` times."""

    def flipped(content: bytes, rng: random.Random) -> Iterator[bytes]:
        for _ in range(count):
            changed = bytearray(content)
            changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            yield bytes(changed)

    return flipped


def row(
    name: str, damage: str, ways: Callable[[bytes, random.Random], Iterator[bytes]], folder: Path, seed: int
) -> dict:
    """Try one damage on one kind of file."""
    place, read = KINDS[name]
    path = folder / place
    whole = path.read_bytes()
    written = read(path)
    found = {"fault": damage, "file": name, "tries": 0, "refused": 0, "lost": 0, "bad": 0, "first": []}
    try:
        for content in ways(whole, random.Random(f"{name} {damage} {seed}")):
            path.write_bytes(content)
            found["tries"] += 1
            try:
                if read(path) != written:
                    found["lost"] += 1
                    found["first"].append(f"try {found['tries']}: another content was read")
            except CorralError as error:
                found["refused"] += 1
                if "\n" in str(error):
                    found["bad"] += 1
            except Exception as error:
                found["bad"] += 1
                found["first"].append(f"try {found['tries']}: {type(error).__name__}: {error}"[:300])
    finally:
        path.write_bytes(whole)
    return found | {"first": found["first"][:5]}


def main() -> None:
    """One line a kind and damage; exit 1 where something was lost or bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help=", ".join(KINDS))
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as made:
        prepare(Path(made))
        for name in given.kinds or KINDS:
            for damage, ways in (("cut at each 1%", cuts), ("a flipped bit", flips(given.flips))):
                line = row(name, damage, ways, Path(made), given.seed)
                print(json.dumps(line), flush=True)
                wrong += line["lost"] + line["bad"]
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
