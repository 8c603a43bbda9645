"""Earlier names of options, keywords and protocols: read, and told."""

import subprocess
import sys
import warnings

import pytest

from corral.attacks.protocols import PROTOCOLS
from corral.attacks.registry import ATTACKS
from corral.cli.renamed import tell_in_one_line, with_new_names
from corral.records import AttackResult
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


def test_earlier_names_of_attacks_are_found_and_told():
    with pytest.warns(FutureWarning, match="attack 'pgd_log' is called 'pgd_ce' now"):
        assert ATTACKS["pgd_log"] is ATTACKS["pgd_ce"]
    with pytest.warns(FutureWarning, match="'pgd_cw' now"):
        assert ATTACKS["pgd_log_margin"] is ATTACKS["pgd_cw"]
    assert "pgd_log" not in ATTACKS.names()


def test_a_record_of_an_earlier_version_is_read_by_the_names_of_today():
    settings = {"steps": 20, "step_size": 0.1, "restarts": 5, "objective": "margin"}
    common = {"protocol": "p", "norm": "Linf", "eps": 0.1, "n": 4, "accuracy": 0.5, "per_class": [], "seconds": 1.0}
    common |= {"seed": 0, **settings}
    old = {"name": "pgd_log_margin", "verdict": "any_iterate", "settings": {**settings, "verdict": "any_iterate"}}
    new = {"name": "pgd_cw", "success_rule": "any_iterate", "settings": {**settings, "success_rule": "any_iterate"}}
    read = AttackResult.model_validate({**common, **old})
    assert read == AttackResult.model_validate({**common, **new})
    assert list(read.settings) == [*settings, "success_rule"]


def test_the_command_line_tells_an_earlier_attack_s_name_once_in_one_line(tmp_path):
    command = [sys.executable, "-m", "corral", "evaluate", str(tmp_path), "--attack", "pgd_log", "--attack", "pgd_log"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    first, second = done.stderr.splitlines()
    assert first == "corral: attack 'pgd_log' is called 'pgd_ce' now"
    assert second.startswith("corral: ")
    assert done.returncode == 2  # the folder holds no run


def test_other_warnings_keep_their_place(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    tell_in_one_line()
    assert warnings.formatwarning("a future change", FutureWarning, "file.py", 3).startswith("file.py:3: FutureWarning")
    assert warnings.formatwarning("x is called y now", FutureWarning, "file.py", 3) == "corral: x is called y now\n"
    assert warnings.formatwarning("x is called y now", FutureWarning, "file.py", 3) == ""
