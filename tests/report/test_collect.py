"""Reading runs: what is missing, broken or inconsistent is one line with the remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.earlier import make_earlier

from corral.errors import CorralError
from corral.records import Curve, Record
from corral.report.runs.collect import collect

WriteRun = Callable[..., Path]
MakeRecord = Callable[..., Record]


def refusal(run: Path) -> str:
    with pytest.raises(CorralError) as caught:
        collect([run])
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_folder_record_or_arrays_are_named(write_run: WriteRun, record: MakeRecord, tmp_path: Path) -> None:
    assert "nowhere: no such run folder" in refusal(tmp_path / "nowhere")
    run = write_run(record("a"))
    (run / "records" / "quick.npz").unlink()
    assert refusal(run) == f"{run / 'records' / 'quick.npz'}: missing; make it again with `corral evaluate {run}`"
    (run / "records" / "quick.json").unlink()
    assert refusal(run) == f"{run / 'records'}: no record there; make one with `corral evaluate {run}`"
    kept = run / "linear" / "run-slf" / "records" / "encoder.json"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert refusal(run) == f"{run / 'records'}: no record there; its heads have some: {run}/linear/run-slf"


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "flipped", "pickle", "single"])
def test_damaged_arrays_are_refused(write_run: WriteRun, record: MakeRecord, arrays: Any, damage: str) -> None:
    run = write_run(record("a"))
    path = run / "records" / "quick.npz"
    whole = path.read_bytes()
    if damage == "pickle":
        np.savez(path, **arrays(projection=np.array({"not": "a string"}, dtype=object)))
    elif damage == "single":
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
    else:
        half = len(whole) // 2
        damaged = {
            "truncated": whole[:half],
            "text": b"not an archive",
            "empty": b"",
            "flipped": whole[:200] + bytes(255 - b for b in whole[200:600]) + whole[600:],
        }
        path.write_bytes(damaged[damage])
    message = refusal(run)
    assert message.startswith(f"{path}: not the arrays of an evaluation")
    assert message.endswith(f"make it again with `corral evaluate {run}`")


def test_flipped_bytes_are_read_or_refused_never_a_traceback(write_run: WriteRun, record: MakeRecord) -> None:
    run = write_run(record("a"))
    path = run / "records" / "quick.npz"
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    refusals = []
    for _ in range(150):
        damaged = bytearray(whole)
        for place in draw.integers(0, 400, 3):
            damaged[int(place)] = int(draw.integers(256))
            damaged[-1 - int(place)] = int(draw.integers(256))
        path.write_bytes(damaged)
        try:
            collect([run])
        except CorralError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert all("\n" not in line and "corral evaluate" in line for line in refusals)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"features2d": np.zeros((40, 3))}, "features2d has shape (40, 3), expected (40, 2)"),
        ({"features2d": np.full((40, 2), np.nan)}, "features2d holds values that are not finite"),
        ({"features_predicted": np.zeros(3, int)}, "features_predicted has shape (3,), expected (40,)"),
        ({"features_labels": np.full(40, 4)}, "features_labels holds classes outside [0, 4)"),
        ({"features_labels": np.zeros(40)}, "features_labels is float64"),
        ({"centroids_classes": np.zeros(2, int)}, "centroids2d has shape (4, 2), expected (2, 2)"),
        (
            {"images": np.zeros((4, 8, 8), np.uint8), "images_adversarial": np.zeros((4, 8, 8), np.uint8)},
            "(k, C, H, W)",
        ),
        ({"images_adversarial": np.zeros((3, 1, 8, 8), np.uint8)}, "images_adversarial has shape (3, 1, 8, 8)"),
        ({"projection": np.array(["a", "b"])}, "projection has shape (2,), expected ()"),
    ],
)
def test_inconsistent_arrays_are_named(
    write_run: WriteRun, record: MakeRecord, arrays: Any, changes: dict[str, Any], problem: str
) -> None:
    assert problem in refusal(write_run(record("a"), arrays(**changes)))


def test_a_missing_array_is_named(write_run: WriteRun, record: MakeRecord, arrays: Any) -> None:
    made = arrays()
    del made["centroids2d"]
    message = refusal(write_run(record("a"), made))
    assert "centroids2d" in message
    assert "corral evaluate" in message


def test_inconsistent_records_are_named(write_run: WriteRun, record: MakeRecord, attack: Any) -> None:
    assert "clean_per_class has 1 per-class accuracies, expected 4" in refusal(
        write_run(record("a", clean_per_class=[0.5]))
    )
    twice = record("b").model_copy(update={"attacks": [attack("pgd_ce", 0.5), attack("pgd_ce", 0.4)]})
    assert "attack 'pgd_ce' is there twice at Linf eps 0.2" in refusal(write_run(twice))
    curve = Curve(attack="pgd_ce", norm="Linf", n=1, eps=[0.0, 0.1], accuracy=[0.5])
    assert "the curve of 'pgd_ce' has 2 eps but 1 accuracies" in refusal(write_run(record("c", curves=[curve])))


def test_one_run_at_two_radii_is_told_apart_by_them_alone(write_run: WriteRun, record: MakeRecord) -> None:
    run = write_run(record("a", eps=0.3))
    for suffix in (".json", ".npz"):
        (run / "records" / "quick").with_suffix(suffix).rename(run / "records" / f"quick-eps03{suffix}")
    write_run(record("a"))
    assert [one.label for one in collect([run])] == [
        "a (Linf eps 0.3, n = 400, seed 7)",
        "a (Linf eps 0.2, n = 400, seed 7)",
    ]


def test_runs_of_one_name_are_told_apart_by_their_folder(write_run: WriteRun, record: MakeRecord) -> None:
    runs = [
        write_run(record("same"), folder="x"),
        write_run(record("same"), folder="y"),
        write_run(record("other"), folder="z"),
    ]
    assert [e.label for e in collect(runs)] == [f"same ({runs[0]})", f"same ({runs[1]})", "other"]


def test_a_folder_given_twice_is_read_once(write_run: WriteRun, record: MakeRecord) -> None:
    run = write_run(record("a"))
    assert [e.label for e in collect([run, str(run), run / ".." / run.name])] == ["a"]


def test_a_record_of_an_earlier_version_brings_its_outcomes_by_the_names_of_today(
    write_run: WriteRun, record: MakeRecord, arrays: Any
) -> None:
    made = record("a")
    shares = {"clean": made.clean} | {attack.name: attack.accuracy for attack in made.attacks}
    fates = {f"correct_{name}": np.arange(made.n) < round(share * made.n) for name, share in shares.items()}
    run = write_run(made, arrays(**fates))
    (today,) = collect([run])
    assert {"pgd_ce", "pgd_published"} <= today.outcomes.keys()
    path = run / "records" / "quick.json"
    make_earlier(path)
    earlier = json.loads(path.read_text())
    for attack in earlier["attacks"]:
        attack["name"] = "pgd_log" if attack["name"] == "pgd_ce" else attack["name"]
        attack["verdict"] = attack.pop("success_rule")
    path.write_text(json.dumps(earlier))
    named = {key.replace("pgd_ce", "pgd_log"): value for key, value in arrays(**fates).items()}
    assert "correct_pgd_log" in named
    np.savez(path.with_suffix(".npz"), **named)
    (read,) = collect([run])
    assert read.record == today.record.model_copy(update={"format": "corral-record-1"})
    assert read.outcomes.keys() == today.outcomes.keys()
    assert all((read.outcomes[key] == today.outcomes[key]).all() for key in read.outcomes)
