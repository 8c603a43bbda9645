"""Runs are compared image by image where their outcomes are known: closed forms, and what the verdict makes of them."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from corral.errors import CorralError
from corral.records import Record
from corral.report import report
from corral.report.runs.collect import Arrays, Evidence, collect
from corral.report.runs.compare import RunGroup, group_runs
from corral.report.runs.estimates import difference_error, estimate, only_one_kept
from corral.report.runs.verdict import Verdict, verdict, within_noise_of_best

NOTHING = Arrays(**{name: np.zeros(0) for name in Arrays.__dataclass_fields__})
MakeRecord = Callable[..., Record]
WriteRun = Callable[..., Path]
Outcome = NDArray[np.bool_]


def kept(start: int, stop: int, n: int = 400) -> Outcome:
    """Outcomes of a run that keeps the images from `start` to `stop` and no other."""
    return (np.arange(n) >= start) & (np.arange(n) < stop)


def piece(record: Record, outcomes: Mapping[str, Outcome]) -> Evidence:
    return Evidence(record.run, record, NOTHING, outcomes)


def one_group(*evidence: Evidence) -> RunGroup:
    (group,) = group_runs(evidence)
    return group


def text(found: Verdict) -> str:
    return " ".join((found.headline, *found.sentences))


@given(both=st.integers(0, 60), first=st.integers(0, 60), second=st.integers(0, 60), neither=st.integers(0, 60))
def test_the_error_of_a_paired_difference_has_a_closed_form(both: int, first: int, second: int, neither: int) -> None:
    n = both + first + second + neither
    if n == 0:
        return
    one = np.repeat([True, True, False, False], [both, first, second, neither])
    other = np.repeat([True, False, True, False], [both, first, second, neither])
    estimates = [estimate([(float(values.mean()), n)], [values]) for values in (one, other)]
    closed = math.sqrt(max(first + second - (first - second) ** 2 / n, 0)) / n
    assert difference_error(estimates[0], estimates[1]) == pytest.approx(closed, abs=1e-9)
    assert only_one_kept(estimates[0], estimates[1]) == (first, second)


def test_seeds_add_the_errors_of_their_means() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.random((3, 50)) < 0.6, draw.random((2, 50)) < 0.4
    estimates = [estimate([(float(run.mean()), 50) for run in runs], list(runs)) for runs in (first, second)]
    differences = [
        sum(float(run[i]) for run in first) / 3 - sum(float(run[i]) for run in second) / 2 for i in range(50)
    ]
    mean = sum(differences) / 50
    images = sum((difference - mean) ** 2 for difference in differences) / 50 / 50
    seeds = np.var(first.mean(1), ddof=1) / 3 + np.var(second.mean(1), ddof=1) / 2
    assert difference_error(estimates[0], estimates[1]) == pytest.approx(math.sqrt(images + seeds))
    assert estimates[0].mean - estimates[1].mean == pytest.approx(mean)
    assert only_one_kept(estimates[0], estimates[1]) is None


def test_outcomes_that_are_missing_or_of_other_length_count_as_independent() -> None:
    outcome = kept(0, 200)
    whole = estimate([(0.5, 400)], [outcome])
    independent = math.sqrt(0.5 * 0.5 / 400 + 0.5 * 0.5 / 400)
    assert difference_error(whole, estimate([(0.5, 400)], [None])) == pytest.approx(independent)
    assert difference_error(whole, estimate([(0.5, 400)], [outcome[100:]])) == pytest.approx(independent)
    seeds = estimate([(0.5, 400), (0.5, 400)], [outcome, None])
    assert difference_error(whole, seeds) == pytest.approx(independent)
    assert difference_error(whole, whole) == 0


def test_what_is_noise_between_strangers_is_clear_on_the_same_images(record: MakeRecord) -> None:
    records = record("a", {"pgd_ce": 0.40}), record("b", {"pgd_ce": 0.46})
    strangers = one_group(piece(records[0], {}), piece(records[1], {}))
    assert verdict(strangers).headline.startswith("No clear winner")
    assert "paired" not in text(verdict(strangers))
    assert within_noise_of_best(strangers) == {"a", "b"}
    # a keeps 160 images; b keeps 155 of them and 29 others.
    same = one_group(
        piece(records[0], {"pgd_ce": kept(0, 160)}),
        piece(records[1], {"pgd_ce": kept(5, 189)}),
    )
    found = verdict(same)
    assert found.headline == ("“b” has the highest robust accuracy at Linf eps 0.2: 46.0%, ahead of “a” with 40.0%.")
    lead = 24 / math.sqrt(34 - 24**2 / 400)
    assert f"the lead of 6.0 points is {lead:.1f} standard errors of the difference." in text(found)
    assert (
        "Differences are paired on the same test images: only “b” is right on 29 images, only “a” on 5 images."
        in found.sentences
    )
    assert within_noise_of_best(same) == {"b"}


def test_a_lead_on_images_that_disagree_stays_noise(record: MakeRecord) -> None:
    found = verdict(
        one_group(
            piece(record("a", {"pgd_ce": 0.40}), {"pgd_ce": kept(0, 160)}),
            piece(record("b", {"pgd_ce": 0.46}), {"pgd_ce": kept(160, 344)}),
        )
    )
    assert found.headline.startswith("No clear winner")
    error = math.sqrt(160 + 184 - 24**2 / 400) / 400
    assert f"less than 2 standard errors of the difference ({200 * error:.1f} points)" in text(found)
    assert "only “b” is right on 184 images, only “a” on 160 images." in text(found)


def test_identical_outcomes_tie_without_error(record: MakeRecord) -> None:
    outcomes = {"pgd_ce": kept(0, 200)}
    group = one_group(
        piece(record("a", {"pgd_ce": 0.5}), outcomes), piece(record("b", {"pgd_ce": 0.5}), dict(outcomes))
    )
    first, second = (entry.under("pgd_ce") for entry in group.entries)
    assert first is not None
    assert second is not None
    assert difference_error(first, second) == 0
    found = verdict(group)
    assert found.headline.startswith("No clear winner")
    assert "Both are robust on 50.0% of 400 test images" in text(found)
    assert "only “a” is right on 0 images, only “b” on 0 images." in text(found)


def test_seeds_are_paired_without_counts(record: MakeRecord) -> None:
    evidence = [
        piece(record(f"{name}{seed}", {"pgd_ce": 0.4}, recipe=name, train_seed=seed), {"pgd_ce": kept(at, at + 160)})
        for name, at in (("r", 0), ("s", 10))
        for seed in (0, 1)
    ]
    found = verdict(one_group(*evidence))
    assert "Differences are paired on the same test images." in found.sentences
    assert "only “" not in text(found)


def test_clean_accuracies_are_paired(record: MakeRecord) -> None:
    records = record("a", {"pgd_ce": 0.6}, clean=0.97), record("b", {"pgd_ce": 0.3}, clean=0.9875)
    said = "On clean images “a” is right on 97.0%; the highest is “b” with 98.8%"
    assert f"{said}, within noise." in verdict(one_group(*(piece(r, {}) for r in records))).sentences
    outcomes = {"clean": kept(0, 388)}, {"clean": kept(0, 395)}
    paired = one_group(*(piece(r, o) for r, o in zip(records, outcomes, strict=True)))
    assert f"{said}." in verdict(paired).sentences


def test_two_attacks_on_one_run_are_paired(record: MakeRecord) -> None:
    made = record("a", {"pgd_published": 0.45, "pgd_ce": 0.40})
    assert "agree within noise" in text(verdict(one_group(piece(made, {}))))
    outcomes = {"pgd_published": kept(0, 180), "pgd_ce": kept(0, 160)}
    assert "overstates “a” by 5.0 points" in text(verdict(one_group(piece(made, outcomes))))


def stored(outcomes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"correct_{key}": values for key, values in outcomes.items()}


def test_outcomes_and_their_worst_case_are_read(write_run: WriteRun, record: MakeRecord, arrays: Any) -> None:
    made = record("a", {"pgd_ce": 0.5, "other": 0.5, "worst_case": 0.2}, clean=0.75)
    outcomes = {"clean": kept(0, 300), "pgd_ce": kept(100, 300), "other": kept(220, 400) | kept(0, 20)}
    (read,) = collect([write_run(made, arrays(**stored(outcomes), correct_stranger=np.zeros(3)))])
    assert set(read.outcomes) == {"clean", "pgd_ce", "other", "worst_case"}
    np.testing.assert_array_equal(read.outcomes["worst_case"], kept(220, 300))
    np.testing.assert_array_equal(read.outcomes["pgd_ce"], outcomes["pgd_ce"])


def test_without_the_clean_outcomes_there_is_no_worst_case(
    write_run: WriteRun, record: MakeRecord, arrays: Any
) -> None:
    made = record("a", {"pgd_ce": 0.5, "worst_case": 0.5})
    (read,) = collect([write_run(made, arrays(**stored({"pgd_ce": kept(0, 200)})))])
    assert set(read.outcomes) == {"pgd_ce"}
    (older,) = collect([write_run(record("b"))])
    assert older.outcomes == {}


@pytest.mark.parametrize(
    ("outcomes", "problem"),
    [
        ({"pgd_ce": kept(0, 160).astype(int)}, "correct_pgd_ce is int64 of shape (400,), expected bool of shape"),
        ({"pgd_ce": kept(0, 160, n=399)}, "correct_pgd_ce is bool of shape (399,), expected bool of shape (400,)"),
        ({"clean": np.array(True)}, "correct_clean is bool of shape (), expected bool of shape (400,)"),
        ({"pgd_ce": kept(0, 170)}, "correct_pgd_ce keeps 170 of 400 images, expected 160 as the record has it"),
        (
            {"clean": kept(0, 392), "pgd_published": kept(0, 240), "pgd_ce": kept(0, 160)},
            "all correct_* together keep 160 of 400 images, expected 120 as the record has it",
        ),
    ],
)
def test_outcomes_that_contradict_their_record_are_refused(
    write_run: WriteRun, record: MakeRecord, arrays: Any, outcomes: dict[str, Any], problem: str
) -> None:
    run = write_run(record("a", {"pgd_published": 0.6, "pgd_ce": 0.4, "worst_case": 0.3}), arrays(**stored(outcomes)))
    with pytest.raises(CorralError) as caught:
        collect([run])
    message = str(caught.value)
    assert message.startswith(f"{run / 'records' / 'quick.npz'}: {problem}")
    assert message.endswith(f"; make it again with `corral evaluate {run}`")
    assert "\n" not in message


def test_a_page_of_paired_runs_says_so_and_is_the_same_every_time(
    write_run: WriteRun, record: MakeRecord, arrays: Any, tmp_path: Path
) -> None:
    runs = [
        write_run(record(name, {"pgd_ce": 0.4}), arrays(**stored({"pgd_ce": kept(at, at + 160)})))
        for name, at in (("a", 0), ("b", 7))
    ]
    first = report(runs, out=tmp_path / "1.html").read_bytes()
    assert report(runs, out=tmp_path / "2.html").read_bytes() == first
    assert "only “a” is right on 7 images, only “b” on 7 images." in first.decode()
