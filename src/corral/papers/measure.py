"""Measures a row of a table: trains what is missing, evaluates it by the protocols, makes its analyses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corral.analysis import Analysis, AnalysisCache
from corral.attacks.attack import Attack
from corral.attacks.threat import Threat
from corral.data import DataSet, load
from corral.devices import choose_device
from corral.errors import UsageError
from corral.evaluation.evaluate import evaluate, record_label
from corral.evaluation.protocols import protocol_attacks
from corral.files import write_atomically
from corral.models import Classifier
from corral.models.fingerprint import fingerprint
from corral.models.heads import HeadRule
from corral.papers.definition import Part, Row, ScaleName, Table, columns_digest
from corral.papers.entries import SeedResult, Trained, Worst, row_entries
from corral.papers.lines import RowKey
from corral.papers.plan import RunPlan
from corral.papers.result import packed
from corral.papers.store import Store
from corral.records import Record, read_record
from corral.report.runs.collect import read_run
from corral.report.runs.outcomes import CLEAN, Outcomes, single_attacks
from corral.report.words import WORST_CASE
from corral.training import Run, load_model, load_recipe, train
from corral.training.run import RunInfo, save_model


@dataclass(frozen=True)
class Setup:
    """What of a table is made, and where; `plan` says which runs its rows mean, the others are as in `reproduce`."""

    table: Table
    scale: ScaleName
    asked: Sequence[tuple[Part, Row]]
    plan: RunPlan
    changed: Mapping[str, Any]
    data_root: str | Path | None
    device: str | None
    progress: bool

    @property
    def factors(self) -> list[float]:
        """The radii of the columns, as multiples of the training radius."""
        return list(dict.fromkeys(column.eps for column in self.table.columns))

    @property
    def where(self) -> dict[str, Any]:
        """What training and evaluation share of their arguments."""
        return {"data_root": self.data_root, "device": self.device, "progress": self.progress}

    def images(self, part: Part) -> DataSet:
        """A part's data set."""
        return load(part.data, root=None if self.data_root is None else Path(self.data_root))


def measured_row(setup: Setup, key: RowKey, part: Part, row: Row) -> Store:
    """One method on one data set, trained where it is not yet, over the seeds, as lines of the CSV files."""
    seeds, eps = [], 0.0
    for seed in part.seeds:
        for recipe, folder in setup.plan.needed(part, row, seed):
            train(recipe, out=folder.path, resume="auto", **setup.where)
        eps = load_model(folder.path)[2].eps
        seeds.append(measured_seed(setup, part, row, seed))
    return row_entries(key, seeds, recipe=row.recipe, rule=row.rule, eps=eps, columns=columns_digest(setup.table))


def measured_seed(setup: Setup, part: Part, row: Row, seed: int) -> SeedResult:
    """What one seed's finished run came to, under the row's own decision rule."""
    folder, trained = setup.plan.planned(part, row, seed)[1], _training_of(_stages(setup, part, row, seed))
    name = folder.path.name
    if row.rule is not None:
        folder = with_assignment(folder, row.rule)
    analyses = [_analysed(setup, part, folder, name) for name in row.analyses]
    records, outcomes, worst = {}, {}, {}
    for factor in setup.factors:
        labels = _evaluated(setup, part, folder, factor)
        records[factor] = [read_record(folder.records_folder / f"{label}.json") for label in labels]
        # By label: the run is shared with other tables, whose protocols and number of images may be others.
        merged, _, known = read_run(folder.path, labels)[0]
        wanted = {column.attack for column in setup.table.columns if column.eps == factor or column.attack == CLEAN}
        outcomes[factor] = {attack: packed(kept) for attack, kept in known.items() if attack in wanted}
        worst[factor] = _worst(merged, known)
    return SeedResult(name, seed, records, outcomes, worst, analyses, trained)


def _stages(setup: Setup, part: Part, row: Row, seed: int) -> list[RunInfo]:
    """How the stages before a row's run and, last, that run were trained."""
    before = setup.plan.chain(part, row, seed)[:-1] if row.stages else []
    planned = (*before, setup.plan.planned(part, row, seed))
    return [load_model(folder.path, encoder=True)[2] for _, folder in planned]


def _training_of(stages: Sequence[RunInfo]) -> Trained:
    """The seconds of a run and of the stages before it, and how the run ended.

    Seconds of work are left out where a stage does not know them, or counted them as another does not.
    """
    clocks = {info.work_clock for info in stages}
    clock = clocks.pop() if len(clocks) == 1 else None
    work = None if clock is None else sum(info.work_seconds or 0.0 for info in stages)
    return Trained(sum(info.train_seconds for info in stages), work, clock, stages[-1].ending)


def is_measured(setup: Setup, part: Part, row: Row, run: Run) -> bool:
    """Whether a finished run has everything that a row takes of it; nothing is made."""
    folder = run if row.rule is None else _with_rule(run, row.rule, fingerprint(load_model(run.path)[0]))
    if not folder.model_file.is_file():
        return False
    analyses = (_analyses(setup, part, folder, name).stored(name, needs=_numbers(setup, name)) for name in row.analyses)
    records = (made for factor in setup.factors for *_, made in _evaluations(setup, part, folder, factor))
    return all(found is not None for found in analyses) and all(records)


def _analysed(setup: Setup, part: Part, folder: Run, name: str) -> Analysis:
    """The run's analysis: the one on disk if it is of this model and has the columns' numbers, else made now."""
    return _analyses(setup, part, folder, name).analysis(name, needs=_numbers(setup, name))


def _analyses(setup: Setup, part: Part, folder: Run, name: str) -> AnalysisCache:
    where = {**setup.where, "device": choose_device(setup.device)}
    return AnalysisCache(folder.path, n=part.analysed(name), **where)


def _numbers(setup: Setup, name: str) -> list[str]:
    """The numbers of an analysis that columns show."""
    return [column.number for column in setup.table.columns if column.analysis == name]


def _evaluated(setup: Setup, part: Part, folder: Run, factor: float) -> list[str]:
    """Evaluate by each protocol what was not evaluated yet; returns the records' labels."""
    labels = []
    for protocol, eps, label, made in _evaluations(setup, part, folder, factor):
        if not made:
            evaluate(folder.path, protocol=protocol, eps=eps, n=part.n, **setup.where)
        labels.append(label)
    return labels


def _evaluations(setup: Setup, part: Part, folder: Run, factor: float) -> Iterator[tuple[str, float, str, bool]]:
    """Of a radius each protocol, the eps, its record's label, and whether that is there and of this model."""
    model, _, info = load_model(folder.path)
    n_test, recipe = len(setup.images(part).test), load_recipe(folder.path)
    threat, own = Threat(info.norm, factor * info.eps), Threat(info.norm, info.eps)
    for protocol in part.protocols_at(factor):
        label = record_label(protocol, n=part.n or n_test, n_test=n_test, threat=threat, own=own, seed=0)
        path = folder.records_folder / f"{label}.json"
        attacks = protocol_attacks(protocol, model, threat=threat, classes=len(info.classes), recipe=recipe)
        yield protocol, threat.eps, label, path.is_file() and _measures(read_record(path), model, info, attacks)


def _measures(record: Record, model: Classifier, info: RunInfo, attacks: Sequence[Attack]) -> bool:
    """Whether a record is of these weights on the images of their data set, under these attacks with these settings."""
    held = {result.name: result.settings for result in single_attacks(record)}
    same = (record.model_fingerprint, record.data_fingerprint) == (fingerprint(model), info.data_fingerprint)
    return same and held == {attack.name: dict(attack.settings) for attack in attacks}


def _worst(record: Record, outcomes: Outcomes) -> Worst:
    """The worst case per image over everything that was run at a radius."""
    names = [attack.name for attack in record.attacks]
    rows = [name for name in names if name == WORST_CASE] or names
    robust = min(round(attack.accuracy * record.n) for attack in record.attacks if attack.name in rows)
    parts: list[NDArray[np.bool_]] = [
        outcomes[key] for key in (CLEAN, *(attack.name for attack in single_attacks(record))) if key in outcomes
    ]
    whole = len(parts) == 1 + len(single_attacks(record))
    return Worst(robust, packed(np.logical_and.reduce(parts)) if whole else "")


def with_assignment(run: Run, rule: HeadRule) -> Run:
    """The run beside a finished one whose cluster head decides by another rule; made where it is missing.

    Raises:
        UsageError: a linear head, or more clusters than there are.
        CorralError: no finished run, or it cannot be written.
    """
    model, spec, info = load_model(run.path)
    clusters = model.head.clusters
    if clusters is None:
        raise UsageError(f"{run.path}: a {model.head.name} head has no decision rule to change")
    if isinstance(rule, int) and rule > len(clusters.centroids):
        raise UsageError(f"{run.path}: rule {rule} keeps more clusters than the {len(clusters.centroids)} there are")
    out = _with_rule(run, rule, fingerprint(model))
    if not out.model_file.is_file():
        model.head.rule = rule
        write_atomically(out.recipe_file, run.recipe_file.read_bytes())
        save_model(out.model_file, model.state_dict(), spec.with_head(model.head), info)
    return out


def _with_rule(run: Run, rule: HeadRule, weights: str) -> Run:
    """The place of a run's twin of another rule, by the fingerprint of its weights."""
    return Run(Path(f"{run.path}-rule-{rule}-{weights[:8]}"))
