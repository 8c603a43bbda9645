import os
import signal
import subprocess
import sys

import pytest

from corral import files
from corral.errors import CorralError
from corral.files import write_atomically


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("failing", ["fsync", "replace", "chmod"])
def test_a_failure_midway_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, failing):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, failing, fail)
    with pytest.raises(CorralError, match=r"file: cannot be written \(No space left on device\); nothing was changed"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupt_midway_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CorralError, match="file/below: cannot be written"):
        write_atomically(tmp_path / "file" / "below", b"x")


def test_what_a_killed_write_left_goes_with_a_later_write_and_nothing_else_does(tmp_path):
    path = tmp_path / "a[1].json"
    code = (
        "import os, signal, sys; from pathlib import Path; from corral import files\n"
        "files.os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_atomically(Path(sys.argv[1]), b'part')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    others = {".a[1].json.original", ".b.json.corral-abcdefgh", left.name.replace("a[1]", "a1")}
    for name in others:
        (tmp_path / name).write_bytes(b"kept")
    write_atomically(path, b"whole")
    assert left.exists(), "it may be a write that is still going on"
    for old in tmp_path.iterdir():
        os.utime(old, (0, 0))
    write_atomically(path, b"whole")
    assert {found.name for found in tmp_path.iterdir()} == others | {path.name}
