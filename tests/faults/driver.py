"""Every verb disturbed at random moments, then called again: the result must be that of an undisturbed call.

usage: python -m tests.faults.driver [--fault NAME ...] [--verb NAME ...] [--tries 50] [--seed 0] [--folder DIR]
                                     [--short]                                                        (`make faults`)

Prints a JSON line a fault and verb: tries; lost, after which the result was another than an undisturbed call's or the
call could not be made again; bad, with a wrong exit code, more than one line, a traceback, a process left over, or a
file left over by the next call; and what the first of these were.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import mounts
from tests.faults.process import Call, Ended, file_size
from tests.faults.verbs import BASE, POOLS, VERBS, Verb, result

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGKILL": -signal.SIGKILL}
QUICK = tuple(name for name in VERBS if name not in POOLS)


@dataclass
class Row:
    """What became of the tries of one fault of one verb."""

    fault: str
    verb: str
    tries: int = 0
    lost: int = 0
    bad: int = 0
    skipped: str = ""
    first: list[str] = field(default_factory=list)

    def note(self, kind: str, words: Iterable[str]) -> None:
        """Count a try that failed so, if it did."""
        if words := list(words):
            setattr(self, kind, getattr(self, kind) + 1)
            self.first = [*self.first, f"try {self.tries}, {kind}: {'; '.join(words)[:600]}"][:5]


@dataclass(frozen=True)
class Known:
    """An undisturbed call: its result, its seconds, the bytes of its largest file, and the disk before and after."""

    result: dict[str, str]
    seconds: float
    largest: int
    before: tuple[int, int]
    after: tuple[int, int]


@dataclass
class Ground:
    """Where calls are disturbed: the folder of finished runs, and what each verb makes of it undisturbed."""

    place: Path
    rng: random.Random
    known: dict[str, Known] = field(default_factory=dict)

    def fresh(self, name: str = "work") -> Path:
        """A copy of the finished runs."""
        folder = self.place / name
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(self.place / "finished", folder)

    def undisturbed(self, verb: Verb, *, fresh: bool = False) -> Known:
        """What an undisturbed call makes."""
        key = f"{verb.line} {fresh}"
        if key not in self.known:
            folder = self.fresh()
            before, ended = mounts.used(folder), Call(verb.line, folder, fresh=fresh).ended()
            found = result(verb, folder)
            if ended.code or not found:
                raise SystemExit(f"{verb.name}: the undisturbed call fails ({ended.code}): {ended.err}")
            largest = max((folder / name).stat().st_size for name in found)
            self.known[key] = Known(found, ended.seconds, largest, before, mounts.used(folder))
        return self.known[key]


def prepared(place: Path, seed: int, verbs: Iterable[str]) -> Ground:
    """The ground, the finished runs that the verbs need made."""
    folder = place / "finished"
    folder.mkdir(parents=True, exist_ok=True)
    for line in BASE if "certify" in verbs else BASE[:2]:
        if line.startswith("train"):
            line += " --auto-resume"
        ended = Call(line, folder).ended()
        if ended.code:
            raise SystemExit(f"{line}: {ended.err}")
    return Ground(place, random.Random(seed))


def one_line(ended: Ended, codes: Iterable[int], words: str = "corral: ") -> Iterator[str]:
    """What is wrong with how a disturbed call ended."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    if ended.code not in codes:
        yield f"exit code {ended.code}, expected {sorted(codes)}: {ended.err.strip()[-300:]}"
    elif ended.code > 0 and not (len(lines) == 1 and lines[0].startswith(words)):
        yield f"not one line of {words!r}: {ended.err.strip()[-300:]}"
    elif ended.code <= 0 and "Traceback" in ended.err:
        yield f"traceback: {ended.err.strip()[-300:]}"
    if ended.orphans:
        yield f"{len(ended.orphans)} processes left over"


def finished(ground: Ground, verb: Verb, folder: Path, row: Row, *, fresh: bool = False) -> None:
    """Call a verb again after a fault and compare."""
    if any(".corral-" in path.name for path in folder.rglob(".*")):
        time.sleep(2.1)  # as long as a temporary file that nobody writes to may be one that is being made
    ended = Call(verb.again or verb.line, folder, fresh=fresh).ended()
    expected, found = ground.undisturbed(verb).result, result(verb, folder)
    different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    row.note("lost", [f"exit code {ended.code}: {ended.err[-300:]}"] if ended.code else different)
    left = [path.name for path in folder.rglob(".*") if ".corral-" in path.name or path.name[1:6] == "train"]
    row.note("bad", [f"left over: {', '.join(left)}"] if left else [])


def killed(ground: Ground, verb: Verb, tries: int, name: str, *, fresh: bool = False) -> Row:
    """A signal at random moments; two in three calls are disturbed again before one may end."""
    row, number = Row(name if not fresh else f"{name}, from its start", verb.name), getattr(signal, name)
    fresh = fresh or verb.name in POOLS
    span = ground.undisturbed(verb, fresh=fresh).seconds if verb.name != "demo" else 40.0
    folder = ground.fresh()
    for _ in range(tries):
        row.tries += 1
        ended = Call(verb.line, folder, fresh=fresh).ended(number, ground.rng.uniform(0.0 if not fresh else 0.2, span))
        # An interpreter that is only being started has no handlers yet: the signal itself ends it, without a word.
        codes = {SIGNALS[name], 0, *([-number] if fresh else [])}
        row.note("bad", one_line(ended, codes, "corral: interrupted"))
        if verb.name != "demo" and (row.tries % 3 == 0 or ended.code == 0 or row.tries == tries):
            finished(ground, verb, folder, row, fresh=fresh)
            folder = ground.fresh()
    if verb.name == "demo":
        finished(ground, verb, folder, row, fresh=True)
    return row


def limited(ground: Ground, verb: Verb, tries: int, name: str = "file size limit") -> Row:
    """Files may not be larger than a random size."""
    row = Row(name, verb.name)
    largest = ground.undisturbed(verb).largest
    for _ in range(tries):
        row.tries += 1
        folder = ground.fresh()
        ended = Call(verb.line, folder, first=file_size(ground.rng.randrange(200, largest + 4096))).ended()
        row.note("bad", one_line(ended, {0, 1}))
        finished(ground, verb, folder, row)
    return row


# The option that limits it, its place in what `mounts.used` gives, and what a call may need beyond its result.
DISKS = {"disk full": ("size", 0, 16384), "inodes": ("nr_inodes", 1, 4)}


def disk_full(ground: Ground, verb: Verb, tries: int, name: str) -> Row:
    """A disk, or its inodes, ends at a random moment; then there is space again."""
    row = Row(name, verb.name)
    known, (kind, place_of, spare) = ground.undisturbed(verb), DISKS[name]
    for _ in range(tries):
        row.tries += 1
        place = ground.place / "disk"
        if not mounts.tmpfs(place):
            row.skipped = "a tmpfs cannot be mounted here"
            return row
        try:
            folder = shutil.copytree(ground.place / "finished", place / "work")
            root = int(kind == "nr_inodes")  # the disk's own folder is one of its inodes
            least, most = root + known.before[place_of], root + known.after[place_of] + spare
            mounts.limit(place, kind, ground.rng.randrange(least, most))
            ended = Call(verb.line, folder).ended()
            row.note("bad", one_line(ended, {0, 1}))
            mounts.limit(place, kind)
            finished(ground, verb, folder, row)
        finally:
            mounts.unmount(place)
    return row


def read_only(ground: Ground, verb: Verb, tries: int, name: str = "read-only folder") -> Row:
    """A folder that cannot be written, then can."""
    row = Row(name, verb.name)
    for _ in range(min(tries, 3)):
        row.tries += 1
        folder = ground.fresh()
        if not mounts.read_only(folder):
            row.skipped = "a folder cannot be bound read-only here"
            return row
        try:
            ended = Call(verb.line, folder).ended()
        finally:
            mounts.unmount(folder)
        row.note("bad", one_line(ended, {1, 2}))
        finished(ground, verb, folder, row)
    return row


def two_writers(ground: Ground, verb: Verb, tries: int, name: str = "two writers") -> Row:
    """The same call twice at once: one makes the result, the other ends with a line or finds it made."""
    row, span = Row(name, verb.name), ground.undisturbed(verb).seconds
    for _ in range(tries):
        row.tries += 1
        folder = ground.fresh()
        first = Call(verb.line, folder)
        time.sleep(ground.rng.uniform(0, span / 2))
        second = Call(verb.line, folder)
        ends = [first.ended(), second.ended()]
        row.note("bad", [words for ended in ends for words in one_line(ended, {0, 1})])
        row.note("bad", [] if any(ended.code == 0 for ended in ends) else ["both were refused"])
        finished(ground, verb, folder, row)
    return row


def two_recipes(ground: Ground, verb: Verb, tries: int, name: str = "two recipes, one folder") -> Row:
    """Two trainings of different eps: the folder is one of them as a whole."""
    row = Row(name, verb.name)
    plain = verb.line.replace(" --auto-resume", "")
    both = [Verb("train", f"{plain} --eps {eps}", verb.compared, f"{plain} --eps {eps} --resume") for eps in (0.1, 0.3)]
    expected = [ground.undisturbed(one).result for one in both]
    for _ in range(tries):
        row.tries += 1
        folder = ground.fresh()
        calls = []
        for one in ground.rng.sample(both, 2):
            calls.append(Call(one.line, folder))
            time.sleep(ground.rng.uniform(0, 0.3))
        ends = [call.ended() for call in calls]
        row.note("bad", [words for ended in ends for words in one_line(ended, {0, 1, 2})])
        row.note("bad", [] if sorted(ended.code == 0 for ended in ends) == [False, True] else ["not one of two ended"])
        row.note("lost", [] if result(verb, folder) in expected else ["a mixture"])
    return row


def device_out(ground: Ground, verb: Verb, tries: int, name: str = "--out on /dev/full") -> Row:
    """A link to a device in place of the file: it is refused, and stays."""
    row = Row(name, verb.name)
    out = verb.line.split("--out ")[1].split()[0]
    for _ in range(min(tries, 2)):
        row.tries += 1
        folder = ground.fresh()
        (folder / out).symlink_to("/dev/full")
        ended = Call(verb.line, folder).ended()
        row.note("bad", one_line(ended, {1, 2}))
        row.note("bad", [] if os.readlink(folder / out) == "/dev/full" else ["the link was replaced"])
        (folder / out).unlink()
        finished(ground, verb, folder, row)
    return row


FAULTS: dict[str, tuple[Callable[..., Row], tuple[str, ...]]] = {
    **{name: (killed, tuple(VERBS)) for name in SIGNALS},
    "start": (killed, QUICK),
    "file size limit": (limited, ("train", "evaluate", "certify", "analyze", "report", "export", "reproduce")),
    "disk full": (disk_full, ("train", "evaluate", "certify", "analyze", "report", "export", "reproduce")),
    "inodes": (disk_full, ("train", "evaluate", "certify", "analyze", "reproduce")),
    "read-only folder": (read_only, QUICK),
    "two writers": (two_writers, ("train", "evaluate", "certify", "analyze", "reproduce")),
    "two recipes": (two_recipes, ("train",)),
    "device": (device_out, ("train", "audit", "report", "export")),
}


SHORT = (("SIGTERM", "train"), ("SIGKILL", "evaluate"), ("two writers", "train"))


@contextmanager
def working_in(place: Path | None) -> Iterator[Path]:
    """The folder asked for, or one that goes."""
    if place is not None:
        yield place.resolve()
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def rows(ground: Ground, parts: Iterable[tuple[str, str]], tries: int) -> Iterator[Row]:
    """The rows of the table that were asked for, each of a fault and a verb, one after the other."""
    for fault, name in parts:
        if fault == "start":
            yield from (killed(ground, VERBS[name], tries, one, fresh=True) for one in ("SIGINT", "SIGTERM"))
        else:
            yield FAULTS[fault][0](ground, VERBS[name], tries, fault)


def warm() -> None:
    """Import what calls import, once, in the process that is forked."""
    import torch

    torch.set_num_threads(1)
    import torch._dynamo
    import torch.export
    import torch.utils.tensorboard

    from corral import audit, evaluate, report  # noqa: F401
    from corral.analysis.analyze import analyze  # noqa: F401
    from corral.cli import app  # noqa: F401
    from corral.report.runs import panels  # noqa: F401


def main(arguments: list[str]) -> None:
    """The table, a line a row as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fault", action="append", choices=FAULTS)
    parser.add_argument("--verb", action="append", choices=VERBS)
    parser.add_argument("--tries", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept, and its finished runs taken again")
    parser.add_argument(
        "--short", action="store_true", help="one try of kills and of two writers, of train and evaluate"
    )
    given = parser.parse_args(arguments)
    faults, verbs, tries = given.fault or list(FAULTS), given.verb or list(VERBS), given.tries
    parts = [(fault, verb) for fault in faults for verb in verbs if verb in FAULTS[fault][1]]
    if given.short:
        parts, verbs, tries = list(SHORT), [verb for _, verb in SHORT], 1
    for number in (signal.SIGINT, signal.SIGHUP):  # which `nohup` and a shell's background ignore, and calls inherit
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    warm()
    failed = False
    with working_in(given.folder) as place:
        for row in rows(prepared(place, given.seed, verbs), parts, tries):
            print(json.dumps({key: value for key, value in vars(row).items() if value or value == 0}), flush=True)
            failed = failed or bool(row.lost or row.bad)
    sys.exit(failed)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("interrupted: the rows above are whole; name what is left by --fault and --verb")
