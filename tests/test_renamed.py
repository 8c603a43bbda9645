"""Earlier names of options, keywords and protocols: read, and told."""

import pytest

from corral.attacks.protocols import PROTOCOLS
from corral.cli.renamed import with_new_names
from corral.renamed import renamed


def test_earlier_options_are_read_and_told(capsys):
    given = ["evaluate", "run", "--fresh", "--linear", "slf,alf", "--linear=slf", "--n", "5"]
    read = ["evaluate", "run", "--overwrite", "--fit-heads", "slf,alf", "--fit-heads=slf", "--n", "5"]
    assert with_new_names(given) == read
    told = capsys.readouterr().err.splitlines()
    assert told == ["corral: --fresh is called --overwrite now"] + ["corral: --linear is called --fit-heads now"] * 2


def test_options_of_today_are_left_alone(capsys):
    given = ["evaluate", "fresh", "--overwrite", "--set", "a=--fresh"]
    assert with_new_names(given) == given
    assert capsys.readouterr().err == ""


@renamed(fresh="overwrite")
def said(*, overwrite: bool = False) -> bool:
    return overwrite


def test_an_earlier_keyword_is_taken_with_a_warning():
    with pytest.warns(FutureWarning, match=r"said\(fresh=\) is called overwrite now"):
        assert said(fresh=True)
    assert said(overwrite=True)
    assert not said()


def test_both_names_at_once_are_refused():
    with pytest.raises(TypeError, match="takes 'overwrite', and 'fresh' as its earlier name: give one"):
        said(fresh=True, overwrite=True)


def test_autoattack_is_the_standard_protocol_and_listed_once():
    assert PROTOCOLS["autoattack"] is PROTOCOLS["standard"]
    assert "autoattack" in PROTOCOLS
    assert "autoattack" not in PROTOCOLS.names()
