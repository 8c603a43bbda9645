import io
import time
from pathlib import Path

import pytest

from corral.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (3600, "1 h 00 min")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    moments = [0.0]
    monkeypatch.setattr("corral.progress.time.monotonic", lambda: moments[0])
    return moments


def test_the_line_has_the_rate_and_the_time_left(clock):
    bar = Progress("task", 1000, "images", stream=io.StringIO())
    clock[0] = 10.0
    bar.done = 250
    assert bar.line() == "task  250/1000 images  25/s  30 s left"


def test_a_log_gets_plain_lines_fifteen_seconds_apart(clock):
    stream = io.StringIO()
    with Progress("task", 100, "images", stream=stream) as bar:
        for second in range(1, 41):
            clock[0] = float(second)
            bar.advance(1, "note")
        bar.say("done")
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["15/100", "30/100"]
    assert lines[0].endswith("note")
    assert lines[-1] == "done"
    assert "\r" not in stream.getvalue()


def test_a_terminal_redraws_one_line_and_clears_it(clock):
    stream = Terminal()
    with Progress("task", 100, "images", stream=stream) as bar:
        clock[0] = 0.1
        bar.advance(1)
        assert stream.getvalue() == ""
        clock[0] = 0.3
        bar.advance(1)
        assert stream.getvalue() == f"\r{bar.line()}\x1b[K"
    assert stream.getvalue().endswith("\r\x1b[K")


Kernel = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})


def shown(text):
    """What a notebook shows of a stream: a line that begins with \\r stands in the place of the one before."""
    return [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]


def test_a_notebook_shows_one_line_rewritten_each_second_without_codes(clock):
    stream = Kernel()
    with Progress("task", 1000, "images", stream=stream) as bar:
        clock[0] = 0.9
        bar.advance(1)
        assert stream.getvalue() == ""
        clock[0] = 1.0
        bar.advance(1, "a long note")
        assert shown(stream.getvalue()) == ["task  2/1000 images  2/s  8 min 19 s left  a long note"]
        clock[0] = 2.0
        bar.note = ""
        bar.advance(998)
        assert shown(stream.getvalue()) == ["task  1000/1000 images  500/s  0 s left"]
        bar.say("epoch 1")
    assert shown(stream.getvalue()) == ["epoch 1", ""]
    assert "\x1b" not in stream.getvalue()
    written = stream.getvalue()
    with Progress("short", 2, "images", stream=stream) as bar:
        bar.advance(2)
    assert stream.getvalue() == written


def test_a_quiet_one_writes_nothing(clock):
    stream = Terminal()
    with Progress("task", 100, "images", enabled=False, stream=stream) as bar:
        clock[0] = 100.0
        bar.advance(50)
        bar.say("hello")
    assert stream.getvalue() == ""


def test_slow_units_are_told_in_seconds_each(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    bar = Progress("demo", 4, "classifiers", enabled=False)
    bar.done = 2
    monkeypatch.setattr(time, "monotonic", lambda: 25.0)
    assert bar.line() == "demo  2/4 classifiers  12.5 s each  25 s left"


def test_bytes_are_shown_in_megabytes_and_an_unknown_total_as_such(clock):
    bar = Progress("file", 0, "MB", scale=1e6, stream=io.StringIO())
    clock[0] = 2.0
    bar.update(3_000_000)
    assert bar.line() == "file  3.0/? MB  1.5 MB/s  ? left"
    bar.total = 6_000_000
    assert bar.line() == "file  3.0/6.0 MB  1.5 MB/s  2 s left"
    bar.reset()
    assert bar.done == 0


def test_an_interrupted_live_line_is_cleared(clock):
    stream = Terminal()

    def interrupted():
        with Progress("task", 2, "images", stream=stream) as bar:
            clock[0] = 1.0
            bar.advance(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_there_is_one_progress():
    import corral

    root = Path(corral.__file__).parent
    owners = [path for path in root.rglob("*.py") if "class Progress" in path.read_text()]
    assert owners == [root / "progress.py"]


def test_names_in_a_line_move_no_cursor(clock):
    stream = Terminal()
    with Progress("run \x1b[2J\u202e", 10, "images", stream=stream) as bar:
        clock[0] = 1.0
        bar.advance(1)
        bar.say("class \x07\x9b2J")
    assert not any(letter in stream.getvalue().replace("\x1b[K", "") for letter in "\x1b\x07\x9b\u202e")
    assert "run \\x1b[2J\\u202e" in stream.getvalue()
    assert "class \\x07\\x9b2J\n" in stream.getvalue()


def test_a_process_without_standard_error_shows_nothing(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    with Progress("task", 10, "images") as bar:
        bar.say("said")
