"""Damaged files by the thousand: each is read or refused in one line, in bounded time and memory, or it is a fault.

usage: python -m tests.fuzz.driver [KIND ...] [--n 10000] [--seed 0] [--results FILE] [--keep FOLDER]   (`make fuzz`)

A call that was cut short goes on where it stopped, by the notes that it kept beside FILE (FILE.KIND-SEED.part).

Reads run in forked processes with a limit on memory and on time, so that a parser that dies or hangs is a row of the
table and not the end of it. A case is its kind, seed and number: the same three give the same bytes.
"""

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.forked import forked
from tests.fuzz.kinds import KINDS, Kind
from tests.fuzz.mutations import mutated

from corral.errors import CorralError

# What one read may take beyond what the process holds, and how long: each far above what a whole file needs.
MEMORY, SECONDS = 3 << 30, 60
# Cases of a forked process.
BATCH = 200
READ, REFUSED = "read", "refused"
# Makes the file of a number at a path.
Make = Callable[[int, Path], object]


@dataclass
class Outcome:
    """What became of the cases of one kind."""

    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0

    def line(self, n: int, seed: int) -> dict[str, object]:
        """The row of the table."""
        deaths = sum(fate.startswith("died") for _, fate in self.faults)
        hangs = sum(fate.startswith("hung") for _, fate in self.faults)
        return {
            "kind": self.kind, "n": n, "seed": seed, "refused": self.counts[REFUSED], "read": self.counts[READ],
            "escaped": len(self.faults) - deaths - hangs, "deaths": deaths, "hangs": hangs,
            "seconds": round(self.seconds, 1),
        }  # fmt: skip


def case(kind: Kind, whole: list[bytes], seed: int, number: int) -> bytes:
    """The damaged file of a number."""
    rng = random.Random(f"{kind.name} {seed} {number}")
    return mutated(rng.choice(whole), rng)


def _fate(kind: Kind, path: Path) -> str:
    try:
        kind.read(path)
    except CorralError as error:
        text = str(error)
        return REFUSED if text and len(text.splitlines()) == 1 and len(text) < 4100 else f"not one line: {text[:200]!r}"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in last if "/corral/" in frame.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        return f"escaped: {type(error).__name__} from {where}: {' '.join(str(error).split())[:120]}"
    return READ


def _child(kind: Kind, make: Make, numbers: Iterable[int], folder: Path, pipe: int) -> None:
    """Read cases; a line before each read and one after it."""
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process whatever C code it is in
    for number in numbers:
        path = kind.place(folder)
        path.unlink(missing_ok=True)
        make(number, path)
        os.write(pipe, f"{number} begun\n".encode())
        signal.alarm(SECONDS)
        fate = _fate(kind, path)
        signal.alarm(0)
        os.write(pipe, f"{number} {fate}\n".encode(errors="replace"))


def fuzz(kind: Kind, *, n: int, seed: int = 0, notes: Path | None = None) -> Outcome:
    """Read `n` damaged files of a kind, but for those of an earlier call whose `notes` are there."""
    outcome, started = Outcome(kind.name), time.monotonic()
    known = json.loads(notes.read_text()) if notes and notes.exists() else {"fates": {}, "seconds": 0.0}
    found = {int(number): fate for number, fate in known["fates"].items()}
    with tempfile.TemporaryDirectory() as made:
        whole = kind.whole(Path(made))

    def make(number: int, path: Path) -> None:
        path.write_bytes(case(kind, whole, seed, number))

    def seconds() -> float:
        return known["seconds"] + time.monotonic() - started

    while left := [number for number in range(n) if number not in found]:
        found |= fates(kind, make, left[:BATCH], whole)
        if notes:
            notes.with_suffix(".new").write_text(json.dumps({"fates": found, "seconds": seconds()}))
            notes.with_suffix(".new").replace(notes)
    for number, fate in sorted(found.items()):
        outcome.counts[fate.split(" from ")[0] if fate.startswith("escaped") else fate.split(": ")[0]] += 1
        if fate not in (READ, REFUSED):
            outcome.faults.append((number, fate))
    outcome.seconds = seconds()
    return outcome


def fates(kind: Kind, make: Make, numbers: Iterable[int], whole: Iterable[bytes] = ()) -> dict[int, str]:
    """What becomes of each of some files of a kind, which `make` makes, after the `whole` ones were read."""
    found: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        kind.prepare(Path(folder))
        for one in whole:
            kind.place(Path(folder)).write_bytes(one)
            kind.read(kind.place(Path(folder)))  # one that is not read would make every case a refusal
        left = list(numbers)
        while left:
            found |= _some(kind, make, left[:BATCH], Path(folder))
            left = [number for number in left if number not in found]
    return found


def _some(kind: Kind, make: Make, numbers: list[int], folder: Path) -> dict[int, str]:
    """Fork, and read the first of some files, until one ends the process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            _child(kind, make, numbers, folder, writer)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, errors="replace") as lines:
        said = [line.rstrip("\n").partition(" ") for line in lines]
    status = os.waitpid(child, 0)[1]
    found = {int(number): fate for number, _, fate in said if fate != "begun"}
    begun = [int(number) for number, _, fate in said if fate == "begun"]
    if os.WIFSIGNALED(status) and begun:
        name = signal.Signals(os.WTERMSIG(status)).name
        found[begun[-1]] = f"hung {SECONDS} s" if name == "SIGALRM" else f"died: {name}"
    if not found:
        raise RuntimeError(f"{kind.name}: the reading process ended with {status} before its first case")
    return found


def main() -> None:
    """Read files of every kind, but for those that the results hold already; one JSON line a kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help=", ".join(KINDS))
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="append each kind's line to this file; skip kinds in it")
    parser.add_argument("--forked", action="store_true", help="fork the processes that read programs: much faster")
    parser.add_argument("--keep", type=Path, help="write the files of the first faults here")
    given = parser.parse_args()
    lines = given.results.read_text().splitlines() if given.results and given.results.exists() else []
    done = {(line["kind"], line["n"], line["seed"]): line for line in map(json.loads, lines)}
    faults = 0
    for name in given.kinds or KINDS:
        line = done.get((name, given.n, given.seed))
        if line is None:
            notes = given.results and Path(f"{given.results}.{name.replace(' ', '-')}-{given.seed}.part")
            with forked() if given.forked else nullcontext():
                outcome = fuzz(KINDS[name], n=given.n, seed=given.seed, notes=notes)
            line = outcome.line(given.n, given.seed)
            _show(outcome, given.seed, given.keep)
            if given.results:
                with given.results.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
                notes.unlink(missing_ok=True)
        print(json.dumps(line), flush=True)
        faults += line["escaped"] + line["deaths"] + line["hangs"]
    sys.exit(bool(faults))


def _show(outcome: Outcome, seed: int, keep: Path | None) -> None:
    """Say the first fault of each sort on stderr, and keep its file."""
    kind, shown = KINDS[outcome.kind], set()
    for number, fate in outcome.faults:
        if (words := fate[:90]) in shown:
            continue
        shown.add(words)
        print(f"  {kind.name} case {number}: {fate}", file=sys.stderr, flush=True)
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as made:
                content = case(kind, kind.whole(Path(made)), seed, number)
            (keep / f"{kind.name}-{number}{kind.suffix}").write_bytes(content)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted: what was read is kept beside --results, and the same command goes on")
