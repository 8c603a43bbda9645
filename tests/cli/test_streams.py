import io
import sys
import warnings

import pytest

from corral.cli.renamed import tell_in_one_line
from corral.cli.streams import Terminal, complain, say


class Screen(io.TextIOWrapper):
    def isatty(self):
        return True


@pytest.fixture
def written(monkeypatch):
    """Makes standard output and error a terminal, or a file, and gives what was written there."""

    def to(terminal, **environment):
        for name in ("NO_COLOR", "TERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        held = io.BytesIO()
        stream = Terminal((Screen if terminal else io.TextIOWrapper)(held, encoding="utf-8"))
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        return held

    return to


def test_a_terminal_shows_the_first_word_in_colour(written):
    held = written(True)
    say("Pass: ", "no sign", "green")
    complain("corral: no such run")
    assert held.getvalue().decode() == "\x1b[32mPass: \x1b[0mno sign\n\x1b[31mcorral: \x1b[0mno such run\n"


@pytest.mark.parametrize(
    ("terminal", "environment"), [(False, {}), (True, {"NO_COLOR": "1"}), (True, {"TERM": "dumb"})], ids=str
)
def test_without_colour_a_line_is_plain(written, terminal, environment):
    held = written(terminal, **environment)
    say("Masked: ", "gradients", "red")
    say("note: ", "x", None)
    assert held.getvalue().decode() == "Masked: gradients\nnote: x\n"


def test_an_empty_no_color_asks_for_nothing(written):
    held = written(True, NO_COLOR="")
    say("a", "b", "yellow")
    assert held.getvalue() == b"\x1b[33ma\x1b[0mb\n"


def test_colours_of_what_is_quoted_stay_escaped(written):
    held = written(True)
    say("note: ", "\x1b[31mred\x1b[0m", "yellow")
    assert held.getvalue().decode() == "\x1b[33mnote: \x1b[0m\\x1b[31mred\\x1b[0m\n"


def test_warnings_are_lines_whose_first_word_has_a_colour(written, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    held = written(True)
    tell_in_one_line()
    for _ in range(2):
        warnings.showwarning(FutureWarning("x is called y now"), FutureWarning, "file.py", 3)
    warnings.showwarning(UserWarning("odd"), UserWarning, "file.py", 3)
    assert held.getvalue().decode() == (
        "\x1b[33mcorral: \x1b[0mx is called y now\n\x1b[33mfile.py:3: \x1b[0mUserWarning: odd\n"
    )
