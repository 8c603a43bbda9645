import json

import pytest
import torch
from pydantic import ValidationError

from corral.documents import write_document
from corral.errors import CorralError
from corral.evaluation.records import (
    AttackResult,
    Curve,
    Record,
    as_percent,
    environment,
    now,
    read_record,
)


def attack():
    return AttackResult(
        name="pgd_ce",
        protocol="PGD-20",
        norm="Linf",
        eps=8 / 255,
        steps=20,
        step_size=1 / 255,
        restarts=5,
        objective="cross_entropy",
        success_rule="any_iterate",
        n=100,
        accuracy=1 / 3,
        per_class=[0.1, None],
        seconds=1.5,
        seed=0,
    )


def record(**changes):
    facts = {
        "run": "r",
        "recipe": "at",
        "method": "at",
        "head": "linear",
        "rule": None,
        "data": "digits",
        "data_fingerprint": "a" * 16,
        "model_fingerprint": "b" * 16,
        "classes": ["0", "1"],
        "n": 100,
        "n_test": 500,
        "reduced": True,
        "norm": "Linf",
        "eps": 8 / 255,
        "clean": 0.9,
        "clean_per_class": [0.9, None],
        "attacks": [attack()],
        "curves": [Curve(attack="x", norm="Linf", n=10, eps=[0.0, 0.1], accuracy=[1.0, 0.5])],
        "train_seed": 0,
        "train_seconds": 1.0,
        "eval_seed": 0,
        "eval_seconds": 2.0,
        "created": now(),
        "environment": environment(torch.device("cpu")),
    }
    return Record.model_validate(facts | changes)


def test_a_record_survives_its_file_to_the_last_digit(tmp_path):
    path = tmp_path / "records" / "quick.json"
    write_document(record(), path)
    assert read_record(path) == record(created=read_record(path).created)
    assert json.loads(path.read_text())["attacks"][0]["accuracy"] == 1 / 3


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["clean"], 1.2, "clean: .*less than or equal to 1"),
        (["clean"], None, "clean: "),
        (["n"], 0, "n: "),
        (["curves", 0, "n"], 0, r"curves\.0\.n: "),
        (["attacks", 0, "n"], 0, r"attacks\.0\.n: "),
        (["format"], "corral-record-9", "format: "),
        (["extra"], 1, "extra: "),
        (["attacks", 0, "eps"], -1, r"attacks\.0\.eps: "),
        (["attacks", 0, "per_class"], "x", r"attacks\.0\.per_class: "),
        (["reduced"], False, "n 100 of n_test 500 does not go with reduced = False"),
        (["clean"], float("nan"), "NaN is not a measurement"),
    ],
)
def test_a_corrupted_field_is_named_in_one_line(tmp_path, path, value, message):
    file = tmp_path / "quick.json"
    content = json.loads(record().model_dump_json())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(CorralError, match=f"quick.json: not a corral record.*{message}") as caught:
        read_record(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", record().model_dump_json().encode()[:400]])
def test_a_file_that_is_no_record_is_one_line(tmp_path, content):
    file = tmp_path / "quick.json"
    file.write_bytes(content)
    with pytest.raises(CorralError, match=r"quick\.json: not a corral record") as caught:
        read_record(file)
    assert "\n" not in str(caught.value)


def test_a_missing_record_says_how_to_make_it(tmp_path):
    with pytest.raises(CorralError, match="make it with `corral evaluate`"):
        read_record(tmp_path / "none.json")


def test_a_reduced_evaluation_cannot_hide():
    for facts in ({"n": 500}, {"reduced": False}):
        with pytest.raises(ValidationError, match="does not go with reduced"):
            record(**facts)
    with pytest.raises(ValidationError, match="n 600 is above n_test 500"):
        record(n=600)
    assert record(n=500, reduced=False).n == 500


def test_percentages_have_one_decimal():
    assert [as_percent(value) for value in (0.12345, 1.0, 0.0, None, float("nan"))] == [
        "12.3",
        "100.0",
        "0.0",
        "–",
        "–",
    ]
