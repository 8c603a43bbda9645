"""Work in a process of its own: what it prints comes back, and whatever ends it is one line."""

import os

import pytest

from corral.data import load
from corral.errors import CorralError
from corral.processes import ProcessDiedError, how_it_ended, output_of


def test_what_the_process_prints_comes_back():
    code = "import os\nsys.stdout.write(' '.join([*sys.argv[1:], str(os.getppid())]))"
    assert output_of(code, "a", "b c", most=100, seconds=60) == f"a b c {os.getpid()}".encode()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.kill(os.getpid(), 11)", "signal 11, SIGSEGV"),
        ("sys.exit(3)", "exit code 3"),
        ("1 / 0", "exit code 1"),
        ("bytearray(8 << 30)", "exit code 1"),
        ("print('x' * 2000)", "it gave more than 1,000 bytes"),
        ("print('x' * 2000)\nwhile True: pass", "it gave more than 1,000 bytes"),
        ("while True: pass", "no end after 2 s"),
        ("import time; sys.stdout.close(); time.sleep(60)", "no end after 2 s"),
    ],
)
def test_how_it_ended_is_said(code, words):
    with pytest.raises(ProcessDiedError, match=words):
        output_of(code, most=1000, seconds=2 if "no end" in words else 60)


def test_signals_and_exit_codes_have_words():
    assert [how_it_ended(code) for code in (0, 1, -9, -200)] == [
        "exit code 0", "exit code 1", "signal 9, SIGKILL", "signal 200",
    ]  # fmt: skip


@pytest.mark.parametrize(("code", "words"), [("import os; os.abort()", "SIGABRT"), ("", "says: nothing")])
def test_a_mat_reader_that_dies_is_one_line(tmp_path, monkeypatch, code, words):
    monkeypatch.setattr("corral.data.sets.svhn.READER", code)
    for part in ("train", "test"):
        (tmp_path / f"{part}_32x32.mat").write_bytes(b"whatever")
    with pytest.raises(CorralError, match=words) as caught:
        load("svhn", root=tmp_path, download=False)
    assert str(caught.value).startswith(f"{tmp_path / 'train_32x32.mat'}: truncated or not a .mat file: 8 bytes, of ")
    assert len(str(caught.value).splitlines()) == 1
