"""What was measured of a row as lines of the CSV files, out of records, outcomes and analyses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from corral.analysis import Analysis
from corral.evaluation.records import Record
from corral.papers.lines import EDITED, AnalysisLine, AttackLine, RowKey, RowLine, RunLine, content_id
from corral.papers.store import Store
from corral.report.runs.merge import protocol_order
from corral.report.runs.outcomes import CLEAN
from corral.report.words import WORST_CASE
from corral.training.clock import WorkClock
from corral.training.convergence import Ending

# What a document of an analysis and its lines say alike.
SAME = ("name", "data", "n", "eps", "seed", "seconds")


@dataclass(frozen=True)
class Worst:
    """The worst case over the protocols at one radius: how many images are robust and which, `packed` or empty."""

    robust: int
    outcomes: str


@dataclass(frozen=True)
class Trained:
    """How a run and the stages before it were trained: see `RunLine`."""

    train_seconds: float
    work_seconds: float | None
    work_clock: WorkClock | None
    ending: Ending | None


@dataclass(frozen=True)
class SeedResult:
    """What was measured of one seed of a row.

    Attributes:
        run: name of the run that the row means.
        records: of its evaluations, for each radius in the order of the table's protocols.
        outcomes: for each radius, by attack, which images are classified right, `packed`, as far as known.
        worst: for each radius.
    """

    run: str
    seed: int
    records: Mapping[float, Sequence[Record]]
    outcomes: Mapping[float, Mapping[str, str]]
    worst: Mapping[float, Worst]
    analyses: Sequence[Analysis]
    trained: Trained


def row_entries(
    key: RowKey, seeds: Sequence[SeedResult], *, recipe: str, rule: str | int | None, eps: float, columns: str
) -> Store:
    """A row of a table with everything that it names; `eps` is that of training, the others as in `RowLine`."""
    found = Store()
    for one in seeds:
        names = []
        for factor, records in one.records.items():
            outcomes, worst = dict(one.outcomes.get(factor, {})), one.worst[factor]
            # An attack of two protocols counts as the first ran it: only that one's images are known.
            for record in sorted(records, key=protocol_order):
                alone = worst if len(records) == 1 else None
                names.append(_add(found, attack_lines(record, outcomes, alone)))
                outcomes = {key: kept for key, kept in outcomes.items() if key not in {a.name for a in record.attacks}}
            if len(records) > 1:
                names.append(_add(found, [_over_all(records, worst)]))
        first = next(iter(one.records.values()))[0]
        run = run_line(first, eps=eps, trained=one.trained)
        found.runs[run.key] = run
        analyses = []
        for analysis in one.analyses:
            lines = analysis_lines(analysis, run.run)
            found.analyses[lines[0].analysis] = lines
            analyses.append(lines[0].analysis)
        line = RowLine(
            **dict(key),
            seed=one.seed,
            recipe=recipe,
            rule=None if rule is None else str(rule),
            run=one.run,
            fingerprint=run.fingerprint,
            evaluations=" ".join(names),
            analyses=" ".join(analyses),
            columns=columns,
            digest=EDITED if any(d.edited for d in (*one.analyses, *chain(*one.records.values()))) else "",
        )
        found.rows.setdefault(key, []).append(line)
    return found


def run_line(record: Record, *, eps: float, trained: Trained) -> RunLine:
    """The run that a record is of."""
    assert record.train_seed is not None  # of a run
    same = ("run", "recipe", "method", "head", "rule", "data", "data_fingerprint", "n_test", "norm")
    return RunLine(
        **{name: getattr(record, name) for name in same},
        fingerprint=record.model_fingerprint,
        classes=len(record.classes),
        eps=eps,
        seed=record.train_seed,
        train_seconds=trained.train_seconds,
        work_seconds=trained.work_seconds,
        work_clock=trained.work_clock,
        **({} if trained.ending is None else trained.ending.model_dump()),
    )


def attack_lines(record: Record, outcomes: Mapping[str, str], worst: Worst | None) -> list[AttackLine]:
    """A record's lines: the images as they are, then its attacks.

    Args:
        record: one evaluation.
        outcomes: by attack, `packed`, as far as known.
        worst: where the record is all that was run at its radius, the worst case over it.
    """
    shared, clean = _shared(record, record.protocol), round(record.clean * record.n)
    found = [AttackLine(**shared, attack=CLEAN, robust=clean, outcomes=outcomes.get(CLEAN, ""))]
    aggregate = any(attack.name == WORST_CASE for attack in record.attacks)
    for attack in record.attacks:
        known = outcomes.get(attack.name, "") if worst is not None or attack.name != WORST_CASE else ""
        if worst is not None and (attack.name == WORST_CASE or not aggregate):
            known = known or worst.outcomes
        found.append(
            AttackLine(
                **shared,
                attack=attack.name,
                robust=round(attack.accuracy * record.n),
                seconds=attack.seconds,
                forwards=attack.forwards,
                backwards=attack.backwards,
                settings=" ".join(f"{key}={value}" for key, value in sorted(attack.settings.items())),
                outcomes=known,
            )
        )
    return found


def _over_all(records: Sequence[Record], worst: Worst) -> AttackLine:
    """The worst case over the records of several protocols."""
    created = max(record.created for record in records)
    shared = _shared(records[0].model_copy(update={"created": created}), "+".join(r.protocol for r in records))
    return AttackLine(**shared, attack=WORST_CASE, robust=worst.robust, outcomes=worst.outcomes)


def analysis_lines(analysis: Analysis, run: str) -> list[AnalysisLine]:
    """The numbers and curves of an analysis."""
    words = analysis.model_dump_json(exclude={"seconds", "environment", "format", "edited", "absent"})
    shared: dict[str, Any] = {
        "analysis": content_id(run, words),
        "run": run,
        "fingerprint": analysis.model_fingerprint,
        **{name: getattr(analysis, name) for name in SAME},
        **analysis.environment.model_dump(),
    }
    numbers = [
        AnalysisLine(**shared, key=key, kind="number", values=str(value)) for key, value in analysis.numbers.items()
    ]
    curves = [
        AnalysisLine(**shared, key=key, kind="curve", values=" ".join(map(str, values)))
        for key, values in analysis.series.items()
    ]
    return [*numbers, *curves]


def _add(store: Store, lines: list[AttackLine]) -> str:
    store.attacks[lines[0].evaluation] = lines
    return lines[0].evaluation


def _shared(record: Record, protocol: str) -> dict[str, Any]:
    """What all lines of an evaluation say."""
    shared = {
        "run": record.run,
        "fingerprint": record.model_fingerprint,
        "protocol": protocol,
        "norm": record.norm,
        "eps": record.eps,
        "n": record.n,
        "seed": record.eval_seed,
        "created": record.created,
    }
    return {"evaluation": content_id(*shared.values()), **shared, **record.environment.model_dump()}
