"""The verdict follows the numbers: every outcome, whoever wins."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from corral.records import Record
from corral.report.runs.collect import Arrays, Evidence
from corral.report.runs.compare import RunGroup, group_runs
from corral.report.runs.estimates import difference_error
from corral.report.runs.protocols import differing_protocols
from corral.report.runs.tables import overstatement_table
from corral.report.runs.verdict import Verdict, verdict, within_noise_of_best

NOTHING = Arrays(**{name: np.zeros(0) for name in Arrays.__dataclass_fields__})
MakeRecord = Callable[..., Record]


def grouped(*records: Record) -> list[RunGroup]:
    return group_runs([Evidence(record.run, record, NOTHING) for record in records])


def judge(*records: Record) -> Verdict:
    (group,) = grouped(*records)
    return verdict(group)


def overstated(*records: Record) -> list[list[str]]:
    """The rows of the table of what the published protocol overstates."""
    (group,) = grouped(*records)
    table = overstatement_table(group, {one.run: i for i, one in enumerate(records)})
    assert table is not None
    return [[row.label, *(cell.text for cell in row.cells)] for row in table.rows]


def text(found: Verdict) -> str:
    return " ".join((found.headline, *found.sentences))


@pytest.mark.parametrize(("winner", "loser"), [("corral", "at"), ("at", "corral")])
def test_whoever_keeps_more_wins(record: MakeRecord, winner: str, loser: str) -> None:
    found = judge(record(loser, {"pgd_ce": 0.30}), record(winner, {"pgd_ce": 0.48}))
    assert found.headline == (
        f"“{winner}” has the highest robust accuracy at Linf eps 0.2: 48.0%, ahead of “{loser}” with 30.0%."
    )
    error = math.sqrt(0.48 * 0.52 / 400)
    lead = 0.18 / math.hypot(error, math.sqrt(0.3 * 0.7 / 400))
    assert f"48.0% of 400 test images (standard error {100 * error:.1f} points)" in text(found)
    assert f"lead of 18.0 points is {lead:.1f} standard errors" in text(found)
    assert "only attack measured" in text(found)


def test_less_than_two_standard_errors_is_noise(record: MakeRecord) -> None:
    # At n = 400 and 40%, two standard errors of a difference are 6.9 points.
    found = judge(record("a", {"pgd_ce": 0.40}), record("b", {"pgd_ce": 0.46}), record("c", {"pgd_ce": 0.20}))
    assert found.headline == (
        "No clear winner at Linf eps 0.2: robust accuracy “b” 46.0% and “a” 40.0%, equal within noise."
    )
    assert "its lead of 6.0 points over “a” is less than 2 standard errors of the difference (7.0 points)" in text(
        found
    )
    assert "Behind by more than noise: “c” with 20.0%." in text(found)
    (group,) = grouped(record("a", {"pgd_ce": 0.40}), record("b", {"pgd_ce": 0.46}), record("c", {"pgd_ce": 0.20}))
    assert within_noise_of_best(group) == {"a", "b"}


def test_equal_runs_tie(record: MakeRecord) -> None:
    found = judge(record("a", {"pgd_ce": 0.5}), record("b", {"pgd_ce": 0.5}))
    assert found.headline.startswith("No clear winner")
    assert "Both are robust on 50.0% of 400 test images" in text(found)


def test_nothing_robust_is_said_against_chance(record: MakeRecord) -> None:
    found = judge(record("a", {"pgd_ce": 0.02}), record("b", {"pgd_ce": 0.28}))
    assert found.headline == ("Nothing is robust at Linf eps 0.2: the best, “b”, has 28.0%, guessing gives 25.0%.")
    assert "“b” is right on 28.0% of 400 test images (standard error 2.2 points)." in found.sentences
    assert "ahead of" not in text(found)
    assert judge(record("a", {"pgd_ce": 0.0})).headline.startswith(
        "“a” is not robust at Linf eps 0.2: 0.0%, guessing gives 25.0%."
    )


def test_a_single_run_is_not_compared(record: MakeRecord) -> None:
    found = judge(record("only"))
    assert found.headline == "“only” is robust on 40.0% of 400 test images (standard error 2.4 points) at Linf eps 0.2."
    assert "On clean images “only” is right on 98.0%." in found.sentences
    assert "ahead" not in text(found)


def test_the_published_protocol_overstates_cluster_heads(record: MakeRecord) -> None:
    found = judge(
        record("published", {"pgd_published": 0.744, "pgd_ce": 0.028}),
        record("log", {"pgd_published": 0.60, "pgd_ce": 0.45}),
        record("fine", {"pgd_published": 0.46, "pgd_ce": 0.45}),
    )
    gaps = [sentence for sentence in found.sentences if "overstates" in sentence]
    assert gaps == ["The published protocol overstates 2 of 3 runs, by up to 71.6 points."]
    (reason,) = [sentence for sentence in found.sentences if "because of" in sentence]
    assert reason.startswith(
        "The published protocol finds less for “published” and “log” because of exponentiated scores used as logits or "
        "its search, "
    )
    assert overstated(
        record("published", {"pgd_published": 0.744, "pgd_ce": 0.028}),
        record("log", {"pgd_published": 0.60, "pgd_ce": 0.45}),
        record("fine", {"pgd_published": 0.46, "pgd_ce": 0.45}),
    ) == [
        ["published", "71.6", "74.4", "2.8 (PGD in log space)", "–"],
        ["log", "15.0", "60.0", "45.0 (PGD in log space)", "–"],
    ]


def test_linear_heads_have_no_exponentiated_scores(record: MakeRecord) -> None:
    linear: dict[str, Any] = {"head": "linear", "rule": None}
    found = judge(record("at", {"pgd_published": 0.60, "pgd_ce": 0.45}, **linear))
    assert "exponentiated" not in text(found)
    # 20 steps of 2/255 are 0.157: less than the 0.4 from one side of the ball to the other.
    assert "because of its search, whose 20 steps of 2/255 cannot cross the whole ball" in text(found)
    assert "agree within noise" in text(judge(record("at", {"pgd_published": 0.46, "pgd_ce": 0.45}, **linear)))


def test_the_control_separates_the_exponential_from_the_search(record: MakeRecord) -> None:
    found = judge(record("a", {"pgd_published": 0.70, "pgd_published_log": 0.45, "pgd_ce": 0.40}))
    assert "exponentiated scores used as logits (the table has their share" in text(found)
    assert "these records do not separate them" not in text(found)
    (row,) = overstated(record("a", {"pgd_published": 0.70, "pgd_published_log": 0.45, "pgd_ce": 0.40}))
    assert row == ["a", "30.0", "70.0", "40.0 (PGD in log space)", "25.0"]


def test_a_protocol_that_crosses_the_ball_is_not_blamed_for_its_steps(record: MakeRecord, attack: Any) -> None:
    attacks = [attack("pgd_published", 0.6, eps=8 / 255), attack("pgd_ce", 0.4, eps=8 / 255)]
    found = judge(record("a").model_copy(update={"attacks": attacks, "eps": 8 / 255}))
    assert "at Linf eps 8/255" in found.headline
    assert "cannot cross" not in text(found)
    assert "or its short steps and its success rule of one restart" in text(found)


def test_runs_are_ranked_only_by_attacks_that_all_met(record: MakeRecord) -> None:
    found = judge(record("a", {"pgd_ce": 0.5, "extra": 0.1}), record("b", {"pgd_ce": 0.3}))
    assert found.headline.startswith("“a” has the highest robust accuracy")
    found = judge(record("a", {"one": 0.5}), record("b", {"two": 0.3}))
    assert found.headline == "Nothing to rank at Linf eps 0.2: no attack was run on all of these runs."


def test_each_run_is_judged_by_what_hurts_it_most(record: MakeRecord) -> None:
    found = judge(record("a", {"pgd_ce": 0.5, "pgd_cw": 0.4}), record("b", {"pgd_ce": 0.20, "pgd_cw": 0.9}))
    assert found.headline.endswith("40.0%, ahead of “b” with 20.0%.")
    assert "the attack with its lowest accuracy (PGD in log space, margin and PGD in log space)" in text(found)


def test_the_worst_case_per_image_decides_where_it_was_measured(record: MakeRecord) -> None:
    found = judge(record("a", {"pgd_published": 0.7, "pgd_ce": 0.5, "worst_case": 0.45}))
    assert found.headline.startswith("“a” is robust on 45.0%")
    assert "Judged by the worst case per image" in text(found)
    assert "overstates “a” by 20.0 points: 70.0% against 50.0% under PGD in log space." in text(found)


def test_the_published_protocol_alone_is_not_trusted(record: MakeRecord) -> None:
    assert "run a sound attack first" in text(judge(record("a", {"pgd_published": 0.7})))
    linear = record("a", {"pgd_published": 0.7}, head="linear", rule=None)
    assert "run a sound attack first" not in text(judge(linear))


def test_seeds_of_one_recipe_are_one_entry_with_both_errors(record: MakeRecord) -> None:
    accuracies = (0.40, 0.46, 0.43)
    runs = [record(f"s{i}", {"pgd_ce": a}, recipe="r", train_seed=i) for i, a in enumerate(accuracies)]
    (group,) = grouped(*runs)
    (entry,) = group.entries
    kept = entry.under("pgd_ce")
    assert kept is not None
    assert entry.label == "r (3 seeds)"
    assert kept.mean == pytest.approx(0.43)
    assert kept.spread == pytest.approx(np.std(accuracies, ddof=1))
    assert kept.error == pytest.approx(math.sqrt(0.43 * 0.57 / 400 + np.var(accuracies, ddof=1) / 3))
    assert "sd over seeds 3.0" in text(verdict(group))


def test_runs_of_one_seed_are_not_averaged(record: MakeRecord) -> None:
    (group,) = grouped(record("a", recipe="r"), record("b", recipe="r"))
    assert [entry.label for entry in group.entries] == ["a", "b"]


@pytest.mark.parametrize(
    "changes", [{"norm": "L2"}, {"eps": 0.1}, {"data_fingerprint": "other"}, {"n": 300, "reduced": True}]
)
def test_only_equal_measurements_are_compared(record: MakeRecord, changes: dict[str, Any]) -> None:
    groups = grouped(record("a"), record("b").model_copy(update=changes), record("c"))
    assert [[e.label for e in group.members] for group in groups] == [["a", "c"], ["b"]]


def test_without_outcomes_the_error_of_a_difference_adds_in_squares(record: MakeRecord) -> None:
    (group,) = grouped(record("a", clean=0.9), record("b", clean=0.8))
    first, second = (entry.clean() for entry in group.entries)
    assert difference_error(first, second) == pytest.approx(math.sqrt(0.9 * 0.1 / 400 + 0.8 * 0.2 / 400))


def test_whoever_has_more_clean_accuracy_is_named(record: MakeRecord) -> None:
    found = judge(record("a", {"pgd_ce": 0.6}, clean=0.8), record("b", {"pgd_ce": 0.3}, clean=0.99))
    assert "On clean images “a” is right on 80.0%; the highest is “b” with 99.0%." in found.sentences
    found = judge(record("a", {"pgd_ce": 0.6}, clean=0.98), record("b", {"pgd_ce": 0.3}, clean=0.985))
    assert "On clean images “a” is right on 98.0%; the highest is “b” with 98.5%, within noise." in found.sentences


def test_a_worst_case_over_one_more_attack_is_no_warning_but_over_fewer_images_is(record: MakeRecord) -> None:
    linear = record("a", {"pgd_ce": 0.5, "worst_case": 0.5}, head="linear", rule=None)
    clusters = record("b", {"pgd_published_log": 0.6, "pgd_ce": 0.5, "worst_case": 0.5})
    more = clusters.attacks[-1].model_copy(update={"restarts": clusters.attacks[-1].restarts + 10})
    clusters = clusters.model_copy(update={"attacks": [*clusters.attacks[:-1], more]})
    assert differing_protocols(grouped(linear, clusters)[0]) == []
    fewer = more.model_copy(update={"n": more.n - 1})
    clusters = clusters.model_copy(update={"attacks": [*clusters.attacks[:-1], fewer]})
    assert len(differing_protocols(grouped(linear, clusters)[0])) == 1
