"""Records of several protocols on one run: one piece of evidence, its worst case image by image over all attacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corral.documents import write_document
from corral.errors import CorralError
from corral.records import AttackResult, Record
from corral.report.runs.collect import collect
from corral.report.runs.merge import merged, protocol_order, together

MakeRecord = Callable[..., Record]
MakeAttack = Callable[..., AttackResult]
Arrays = Callable[..., dict[str, Any]]

LABELS = np.arange(400) % 4
DRAW = np.random.default_rng(3)
CLEAN = DRAW.random(400) < 0.95
# Each attack breaks images of its own.
SHARES = {"pgd_ce": 0.8, "apgd-ce": 0.75, "square": 0.9, "margin": 0.7}
FATES = {name: CLEAN & (DRAW.random(400) < share) for name, share in SHARES.items()}
MEMBERS = {"quick": ["pgd_ce"], "standard": ["apgd-ce", "square"], "adaptive": ["margin"]}
ROWS = {"quick": [], "standard": ["autoattack"], "adaptive": ["adaptive"]}


def kept(protocol: str) -> Any:
    return np.logical_and.reduce([CLEAN, *(FATES[name] for name in MEMBERS[protocol])])


@pytest.fixture
def write(record: MakeRecord, attack: MakeAttack, arrays: Arrays, tmp_path: Path) -> Callable[..., Record]:
    """Writes a protocol's record and arrays into one run folder."""

    def make(protocol: str, *, hold: list[str] | None = None, labels: bool = True, **changes: Any) -> Record:
        attacks = [attack(name, float(FATES[name].mean())) for name in MEMBERS[protocol]]
        attacks += [attack(row, float(kept(protocol).mean())) for row in [*ROWS[protocol], "worst_case"]]
        made = record("run", clean=float(CLEAN.mean()), protocol=protocol).model_copy(
            update={"attacks": attacks, **changes}
        )
        write_document(made, tmp_path / "run" / "records" / f"{protocol}.json")
        names = MEMBERS[protocol] if hold is None else hold
        fates = {f"correct_{name}": FATES[name] for name in names} | {"correct_clean": CLEAN}
        extra = {"labels": LABELS} if labels else {}
        np.savez(tmp_path / "run" / "records" / f"{protocol}.npz", **arrays(**fates, **extra))
        return made

    return make


def test_protocols_of_one_run_become_one_record_with_the_worst_case_over_all(
    write: Callable[..., Record], tmp_path: Path
) -> None:
    for protocol in ("adaptive", "standard", "quick"):
        write(protocol, eval_seconds=2.0)
    (piece,) = collect([tmp_path / "run"])
    names = [attack.name for attack in piece.record.attacks]
    assert names == ["pgd_ce", "apgd-ce", "square", "autoattack", "margin", "adaptive", "worst_case"]
    everything = np.logical_and.reduce([CLEAN, *FATES.values()])
    results = {attack.name: attack for attack in piece.record.attacks}
    assert results["worst_case"].accuracy == everything.mean()
    assert results["worst_case"].per_class == [everything[label == LABELS].mean() for label in range(4)]
    assert results["autoattack"].accuracy == kept("standard").mean() > everything.mean()
    assert np.array_equal(piece.outcomes["worst_case"], everything)
    assert np.array_equal(piece.outcomes["autoattack"], kept("standard"))
    assert all(name in results["worst_case"].protocol for name in SHARES)
    members = [results[name] for name in SHARES]
    assert results["worst_case"].steps == max(member.steps for member in members)
    assert results["worst_case"].restarts == sum(member.restarts for member in members)
    assert results["worst_case"].forwards == sum(member.forwards or 0 for member in members)
    assert piece.record.protocol == "quick+standard+adaptive"
    assert piece.record.eval_seconds == 6.0


@pytest.mark.parametrize("change", [{"eps": 0.3}, {"norm": "L2"}, {"n": 300, "reduced": True}])
def test_other_threats_and_other_images_stay_apart(write: Callable[..., Record], change: dict[str, Any]) -> None:
    first, second = write("quick"), write("standard", **change)
    assert not together(first, second)
    assert together(first, write("standard"))


def test_records_of_different_models_are_refused(write: Callable[..., Record], tmp_path: Path) -> None:
    write("quick")
    write("standard", model_fingerprint="other")
    with pytest.raises(CorralError, match="records of different models") as caught:
        collect([tmp_path / "run"])
    assert "delete the old ones" in str(caught.value)


@pytest.mark.parametrize(("missing", "words"), [({"hold": ["square"]}, "apgd-ce"), ({"labels": False}, "labels")])
def test_what_a_worst_case_needs_and_lacks_is_named(
    write: Callable[..., Record], tmp_path: Path, missing: dict[str, Any], words: str
) -> None:
    write("quick", labels=missing.get("labels", True))
    write("standard", **missing)
    with pytest.raises(CorralError, match=words) as caught:
        collect([tmp_path / "run"])
    assert "corral evaluate" in str(caught.value)


def test_one_record_stays_as_it_is(write: Callable[..., Record]) -> None:
    made = write("standard")
    outcomes = {"clean": CLEAN}
    assert merged([made], [outcomes], None) == (made, outcomes)


def test_protocols_come_in_the_order_of_their_strength_and_custom_ones_last(record: MakeRecord) -> None:
    names = ("quick", "paper", "standard", "adaptive", "custom")
    order = [protocol_order(record(protocol=name)) for name in names]
    assert order == sorted(set(order))
