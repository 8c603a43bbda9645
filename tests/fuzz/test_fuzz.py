"""The short form of `make fuzz`: damaged files are read or refused in one line, as is what once was neither."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fuzz.driver import READ, REFUSED, fates, fuzz
from tests.fuzz.forked import forked
from tests.fuzz.kinds import KINDS

# Files, called by their kind, that once raised something else, killed the process or hung; `--keep` writes such.
FOUND = Path(__file__).parent / "found"
# Kinds whose reading starts processes or trains, and how many of them and of the others.
SLOW, FEW, MANY = (
    {"svhn", "torchscript", "torch.export", "record", "record arrays", "metrics", "state", "state metadata"},
    3,
    25,
)
NO_FILES = (
    os.mkfifo,
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to("/dev/full"),
    lambda path: path.symlink_to(path),
    lambda path: path.touch(),
    lambda path: (path.touch(), os.truncate(path, 12 << 30)),
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "torch.export" else name for name in KINDS]
)
def test_damaged_files_are_read_or_refused_in_one_line(name):
    n = FEW if name in SLOW else MANY
    outcome = fuzz(KINDS[name], n=n, seed=25)
    assert outcome.faults == []
    assert outcome.counts[READ] + outcome.counts[REFUSED] == n


@pytest.mark.parametrize("name", [name for name in KINDS if not name.endswith("metadata")])  # those lie in a file
def test_pipes_devices_loops_and_holes_end_at_once(name):
    found = fates(KINDS[name], lambda number, path: NO_FILES[number](path), range(len(NO_FILES)))
    # An image that is a pipe or a device is none, and is left out; a run may have no epoch behind it.
    allowed = {READ, REFUSED} if name.startswith(("photo", "metrics", "state")) else {REFUSED}
    assert {number: fate for number, fate in found.items() if fate not in allowed} == {}


@pytest.mark.parametrize("path", sorted(FOUND.iterdir()), ids=lambda path: path.name)
def test_what_once_failed_is_read_or_refused_in_one_line(path):
    kind = next(kind for kind in KINDS.values() if path.name.startswith(f"{kind.name}-"))
    found = fates(kind, lambda _, place: place.write_bytes(path.read_bytes()), [0])
    assert found[0] in (READ, REFUSED)


def test_the_driver_sees_what_escapes_dies_and_hangs(monkeypatch):
    monkeypatch.setattr("tests.fuzz.driver.SECONDS", 1)
    reads = (lambda _: 1 / 0, lambda _: os.kill(os.getpid(), 9), lambda _: os.read(os.pipe()[0], 1))
    begun = ("escaped: ZeroDivisionError", "died: SIGKILL", "hung 1 s")
    for read, words in zip(reads, begun, strict=True):
        kind = replace(KINDS["npz"], read=read)
        assert fates(kind, lambda _, place: place.touch(), [0])[0].startswith(words)


def test_a_call_that_was_cut_short_reads_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.fuzz.driver.BATCH", 20)
    undisturbed, notes, reads = fuzz(KINDS["idx labels"], n=60), tmp_path / "part", []

    def cut(kind, make, numbers, whole=()):
        reads.append(list(numbers))
        if len(reads) == 3:
            raise KeyboardInterrupt
        return fates(kind, make, numbers, whole)

    monkeypatch.setattr("tests.fuzz.driver.fates", cut)
    with pytest.raises(KeyboardInterrupt):
        fuzz(KINDS["idx labels"], n=60, notes=notes)
    again = fuzz(KINDS["idx labels"], n=60, notes=notes)
    assert [len(numbers) for numbers in reads] == [20, 20, 20, 20]
    assert reads[3] == list(range(40, 60))
    assert (again.counts, again.faults) == (undisturbed.counts, undisturbed.faults)


def test_forked_reading_processes_read_as_those_that_are_started():
    def found():
        outcome = fuzz(KINDS["torchscript"], n=3, seed=25)
        return outcome.counts, outcome.faults

    with forked():
        of_copies = found()
    assert of_copies == found() == ({READ: 1, REFUSED: 2}, [])
