import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from corral import files
from corral.data.loading.fetch import data_folders
from corral.errors import CorralError, UsageError
from corral.files import check_recordable, check_writable, user_path, write_atomically


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


@pytest.mark.parametrize("write", [write_atomically, lambda path, content: check_writable(path)])
def test_what_is_no_regular_file_is_refused_and_stays(tmp_path, write):
    """As root, --out /dev/null replaced the device."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent" / "file")
    for name, what in (("folder", "a folder"), ("pipe", "no regular file"), ("link", "no regular file")):
        with pytest.raises(CorralError, match=f"{name}: is {what} and cannot be written"):
            write(tmp_path / name, b"x")
    with pytest.raises(CorralError, match=r"below: cannot be written \(.*pipe is no folder\)"):
        write(tmp_path / "pipe" / "below", b"x")
    for name in ("half \udc80", "null \0"):
        with pytest.raises(CorralError, match="no name for a file"):
            write(tmp_path / name, b"x")
    assert (tmp_path / "link").is_symlink()


def test_looking_whether_a_file_can_be_written_changes_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "folder" / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_user_without_a_home_is_told_so(monkeypatch):
    def unknown(*args):
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert user_path("plain/~/path") == Path("plain/~/path")
    with pytest.raises(CorralError, match="no home folder is known for ~; set HOME or give the whole path"):
        user_path("~/data")
    monkeypatch.setenv("CORRAL_DATA", "/data")
    assert data_folders(None) == [Path("/data")]
    monkeypatch.delenv("CORRAL_DATA")
    with pytest.raises(CorralError, match="no home folder for a cache of data sets: set CORRAL_DATA, or HOME"):
        data_folders(None)


def test_a_name_that_no_record_can_hold_is_refused():
    check_recordable("a", Path("b/ü"), "")
    with pytest.raises(
        UsageError, match="this name is not UTF-8 text in this locale, so that no record can hold it; rename it"
    ):
        check_recordable("a", Path(os.fsdecode(b"run\xff")))
