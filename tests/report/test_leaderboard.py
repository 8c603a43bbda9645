"""`corral compare`: what is ranked with what and by which number, the flags, the CSV file, the command."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.test_audit_page import make_audit, masked
from typer.testing import CliRunner

import corral
from corral.cli import app
from corral.documents import write_document
from corral.errors import CorralError, UsageError
from corral.models.fingerprint import fingerprint
from corral.records import Curve, Record, Reported
from corral.report.leaderboard.rank import Leaderboard, Line
from corral.report.leaderboard.write import render_leaderboards, rows_of
from corral.training import load_model, train

WriteRun = Callable[..., Path]
MakeRecord = Callable[..., Record]
STANDARD = {"apgd-ce": 0.5, "square": 0.55, "autoattack": 0.45, "worst_case": 0.45}


@pytest.fixture
def ranked(write_run: WriteRun, record: MakeRecord) -> Callable[..., list[Leaderboard]]:
    """The leaderboards of synthetic runs, each a name, its attacks and what else is different."""

    def make(*runs: tuple[str, dict[str, float], dict[str, Any]]) -> list[Leaderboard]:
        return corral.compare([write_run(record(name, attacks, **changes)) for name, attacks, changes in runs])

    return make


def lines(boards: list[Leaderboard]) -> dict[str, Line]:
    return {line.entry.label: line for board in boards for line in board.lines}


def order(board: Leaderboard) -> list[tuple[int | None, str]]:
    return [(line.rank, line.entry.label) for line in board.lines]


def with_autoattack(robust: float, worst: float | None = None) -> dict[str, float]:
    return {"apgd-ce": robust + 0.02, "autoattack": robust, "worst_case": robust if worst is None else worst}


def test_the_best_known_robust_accuracy_ranks_and_equal_ones_share_a_rank(ranked: Any) -> None:
    (board,) = ranked(
        ("low", with_autoattack(0.30), {}),
        ("adaptive", with_autoattack(0.60, 0.20), {}),
        ("b", with_autoattack(0.40), {}),
        ("a", with_autoattack(0.40), {}),
    )
    assert order(board) == [(1, "b"), (1, "a"), (3, "low"), (4, "adaptive")]
    found = lines([board])
    assert found["adaptive"].autoattack.mean == 0.6
    assert found["adaptive"].best.mean == 0.2
    assert "AutoAttack alone overstates it by 40.0 points" in found["adaptive"].flags
    assert (found["b"].tied, found["low"].tied) == (True, False)


def test_without_autoattack_there_is_no_rank_beside_those_with_it(ranked: Any) -> None:
    (board,) = ranked(("pgd", {"pgd_ce": 0.9}, {}), ("aa", with_autoattack(0.4), {}))
    assert order(board) == [(1, "aa"), (None, "pgd")]
    assert "Models without AutoAttack have no rank" in board.basis
    assert lines([board])["pgd"].flags[0] == "no AutoAttack: an upper bound"


def test_where_none_has_autoattack_only_common_attacks_rank_and_the_page_says_so(ranked: Any) -> None:
    (board,) = ranked(("a", {"pgd_ce": 0.5, "extra": 0.1}, {}), ("b", {"pgd_ce": 0.3}, {}))
    assert order(board) == [(1, "a"), (2, "b")]
    assert board.basis.endswith("AutoAttack was run on none: these are upper bounds.")
    assert lines([board])["a"].best.mean == 0.1
    (board,) = ranked(("c", {"one": 0.5}, {}), ("d", {"two": 0.3}, {}))
    assert [rank for rank, _ in order(board)] == [None, None]
    assert board.basis.startswith("Not ranked: no attack was run on all of these models")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 100, "reduced": True}, "100 of 400 test images, not 400 of 400"),
        ({"eps": 0.1}, "Linf eps 0.1, not Linf eps 0.2"),
        ({"norm": "L2"}, "L2 eps 0.2, not Linf eps 0.2"),
        ({"data": "mnist", "data_fingerprint": "m"}, "images of mnist (m), not digits (d1d2d3)"),
        ({"data_fingerprint": "edited"}, "images of digits (edited), not digits (d1d2d3)"),
        ({"classes": ["a", "b", "c", "d"]}, "other classes"),
    ],
)
def test_other_measurements_are_never_ranked_together_and_it_says_what_differs(
    write_run: WriteRun, record: MakeRecord, attack: Any, changes: dict[str, Any], words: str
) -> None:
    same = [write_run(record(name, with_autoattack(0.4))) for name in "ab"]
    at = {name: changes[name] for name in ("n", "eps", "norm") if name in changes}
    attacks = [attack(name, accuracy, **at) for name, accuracy in with_autoattack(0.9).items()]
    other = write_run(record("other", {}, **changes).model_copy(update={"attacks": attacks}))
    first, second = corral.compare([other, *same])
    assert [name for _, name in order(first)] == ["a", "b"]
    assert order(second) == [(1, "other")]
    assert first.apart == ""
    assert second.apart == f"Not comparable with the first leaderboard: {words}."
    found = {row["model"]: row for row in rows_of([first, second])}
    assert (found["a"]["leaderboard"], found["other"]["leaderboard"]) == (1, 2)
    assert found["other"]["not_comparable"] == second.apart


def test_signs_of_masked_gradients_and_claims_are_flags(write_run: WriteRun, record: MakeRecord, arrays: Any) -> None:
    claim = Reported(clean=0.9, robust=0.744, attack="PGD-20", source="a paper")
    rising = [Curve(attack="pgd_ce", norm="Linf", n=400, eps=[0.0, 0.1, 0.2], accuracy=[0.9, 0.3, 0.5])]
    made = record("a", {"apgd-ce": 0.5, "square": 0.45, "worst_case": 0.4}, clean=1.0, reported=claim, curves=rising)
    images = np.arange(400)
    # Of the 200 images that APGD leaves, Square takes 40; 20 of APGD's own it leaves.
    apgd, square = images < 200, (images < 160) | (images >= 380)
    outcomes = {"correct_clean": images >= 0, "correct_apgd-ce": apgd, "correct_square": square}
    (board,) = corral.compare([write_run(made, arrays() | outcomes)])
    assert board.lines[0].flags == (
        "masked gradients? Square alone misclassifies 40 images",
        "masked gradients? robust accuracy rises with eps under PGD in log space",
        "claim not reached: 74.4% claimed, 40.0% measured",
        "no AutoAttack: an upper bound",
        "few images: 400",
    )


def test_an_audit_beside_the_records_is_a_flag(write_run: WriteRun, record: MakeRecord) -> None:
    def flags(audit: Any) -> tuple[str, ...]:
        write_document(audit, run / "audit.json")
        (board,) = corral.compare([run])
        flags: tuple[str, ...] = board.lines[0].flags
        return flags

    run = write_run(record("a", with_autoattack(0.4)))
    about: dict[str, Any] = {"target": "runs/a", "data": "digits", "eps": 0.2}
    assert flags(make_audit(**about)) == ("few images: 400",)
    assert flags(masked(**about))[0] == "masked gradients, by its audit: “Title of zero”"
    assert flags(masked(**about | {"eps": 0.5}))[0] == "masked gradients, by its audit at Linf eps 0.5: “Title of zero”"
    other = "audit.json beside its records is of another model or other images: runs/b on digits"
    assert flags(masked(**about | {"target": "runs/b"}))[0] == other
    (run / "audit.json").write_text("{}")
    with pytest.raises(CorralError, match=r"audit.json: not a corral audit"):
        corral.compare([run])


def test_the_published_protocol_above_the_worst_case_is_a_flag_from_five_points(ranked: Any) -> None:
    (board,) = ranked(
        ("much", {"pgd_published": 0.7, "worst_case": 0.1}, {}),
        ("little", {"pgd_published": 0.42, "worst_case": 0.4}, {}),
    )
    found = lines([board])
    assert found["much"].flags[0] == "the published protocol overstates it by 60.0 points"
    assert not any("overstates" in flag for flag in found["little"].flags)


def test_what_all_share_is_said_once(ranked: Any, tmp_path: Path) -> None:
    boards = ranked(("a", {"pgd_ce": 0.5}, {}), ("b", {"pgd_ce": 0.3, "pgd_published": 0.9}, {}))
    assert boards[0].shared_flags == ("no AutoAttack: an upper bound", "few images: 400")
    text = render_leaderboards(boards)
    assert "All of them: no AutoAttack: an upper bound; few images: 400." in text
    assert text.count(">the published protocol overstates it by 60.0 points<") == 1
    assert text.count("few images: 400") == 1


def test_seeds_of_one_recipe_are_one_line(ranked: Any) -> None:
    (board,) = ranked(
        *((f"s{i}", with_autoattack(a), {"recipe": "r", "train_seed": i}) for i, a in enumerate((0.40, 0.46, 0.43)))
    )
    assert order(board) == [(1, "r (3 seeds)")]
    assert board.lines[0].best.mean == pytest.approx(0.43)
    assert rows_of([board])[0]["seeds"] == "0 1 2"


def test_the_costs_of_seeds_are_their_mean_and_unknown_where_one_is(
    write_run: WriteRun, record: MakeRecord, attack: Any
) -> None:
    def made(seed: int, seconds: float, **of: Any) -> Path:
        base = record(f"s{seed}", {}, recipe="r", train_seed=seed, eval_seconds=seconds, train_seconds=10 * seconds)
        return write_run(base.model_copy(update={"attacks": [attack("pgd_ce", 0.5).model_copy(update=of)]}))

    counted = [made(seed, 1.0 + seed, forwards=400 * (1 + seed), backwards=400) for seed in (0, 2)]
    (board,) = corral.compare(counted)
    (line,) = board.lines
    assert (line.passes, line.attack_seconds, line.train_seconds) == (3.0, 2.0, 20.0)
    row = rows_of([board])[0]
    assert [row[name] for name in ("passes_per_image", "attack_seconds", "train_seconds")] == [3.0, 2.0, 20.0]
    (board,) = corral.compare([*counted, made(4, 5.0, forwards=None, backwards=None)])
    assert board.lines[0].passes is None


def test_the_csv_file_has_every_number_exactly_and_the_page_needs_nothing_else(
    write_run: WriteRun, record: MakeRecord, attack: Any, tmp_path: Path
) -> None:
    counted = [attack("apgd-ce", 0.3, forwards=4000, backwards=2000), attack("square", 0.4, forwards=8000, backwards=0)]
    made = record("a", {}, parameters=1234).model_copy(update={"attacks": counted})
    foreign = dict.fromkeys(("recipe", "method", "head", "rule", "train_seed", "train_seconds"))
    other = record("../models.py:load", {"apgd-ce": 1 / 3}, kind="python", **foreign)
    runs = [write_run(made), write_run(other, folder="measured")]
    out, lines_file = tmp_path / "board.html", tmp_path / "board.csv"
    corral.compare(runs, out=out, csv=lines_file)
    first, second = sorted(csv.DictReader(lines_file.read_text().splitlines()), key=lambda row: row["model"])
    assert (first["model"], first["kind"], first["parameters"], first["recipe"]) == (
        "../models.py:load",
        "python",
        "",
        "",
    )
    assert float(first["best_known"]) == 1 / 3
    assert (second["parameters"], second["passes_per_image"]) == ("1234", "35.0")
    assert (second["clean"], second["best_known"], second["best_known_by"]) == ("0.98", "0.3", "apgd-ce")
    text = out.read_text()
    assert "http" not in text.replace("http-equiv", "")
    for heading in ("Rank", "Standard (clean) accuracy", "AutoAttack robust accuracy", "Best known robust accuracy"):
        assert f">{heading}</th>" in text
    corral.compare(runs, out=out)
    assert out.read_text() == text


def test_the_command_writes_both_files_and_refuses_what_it_cannot_rank(
    write_run: WriteRun, record: MakeRecord, tmp_path: Path
) -> None:
    run = write_run(record("a", with_autoattack(0.4)))
    page = tmp_path / "board.html"
    call = ["compare", str(run), "--out", str(page)]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-2:] == [f"wrote {page}", f"wrote {tmp_path / 'board.csv'}"]
    found = json.loads(CliRunner().invoke(app, [*call, "--json"]).stdout)
    assert (found["page"], found["lines"][0]["rank"], found["lines"][0]["best_known"]) == (str(page), 1, 0.4)
    result = CliRunner().invoke(app, [*call, "--csv", str(page)])
    assert isinstance(result.exception, UsageError)
    result = CliRunner().invoke(app, ["compare", str(tmp_path / "none"), "--out", str(page)])
    assert "no such run folder" in str(result.exception)
    (tmp_path / "empty" / "records").mkdir(parents=True)
    with pytest.raises(CorralError, match="records: no record there"):
        corral.compare([tmp_path / "empty"])


def test_the_size_of_a_run_is_that_of_its_parameters(write_run: WriteRun, record: MakeRecord, tmp_path: Path) -> None:
    settings = {"data.train": 60, "model.width": 2, "model.features": 4, "training.epochs": 1}
    run = train("at", out=tmp_path / "run", progress=False, device="cpu", **settings)
    model = load_model(run)[0]
    size = sum(one.numel() for one in model.parameters())
    # A record of an earlier version does not have it: the checkpoint does.
    write_run(record("run", with_autoattack(0.4), model_fingerprint=fingerprint(model)), folder="run")
    (board,) = corral.compare([run.path])
    assert board.lines[0].parameters == size
    found = corral.evaluate(run, attacks=["fgsm"], n=20, progress=False, device="cpu")
    assert found.parameters == size
