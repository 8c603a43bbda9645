"""A table's result out of the lines of the CSV files: every number is looked up or counted, none is stored twice."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from corral.analysis import Analysis
from corral.attacks.protocols import PROTOCOLS
from corral.papers.definition import Column, Part, Row, Table
from corral.papers.entries import SAME
from corral.papers.lines import EDITED, AnalysisLine, AttackLine, Line, RowKey, RowLine, RunLine, changed_words
from corral.papers.result import Measured, Result, ResultPart, ResultRow
from corral.papers.store import Store
from corral.report.runs.outcomes import CLEAN
from corral.report.words import AGGREGATES, WORST_CASE, attack_title
from corral.training.convergence import Ending

# The evaluations of one seed at one radius: the lines of each, in the order of the protocols.
Evaluations = list[list[AttackLine]]


def result_of(table: Table, scale: str, changed: Mapping[str, Any], store: Store) -> Result:
    """Everything that the store has of a table, rows of an earlier setting unmarked, in the order of the definition."""
    words = changed_words(changed)
    rows = store.of_table(table.name, scale, words)
    meant = next((parts for name, parts in table.scales.items() if name == scale), ())
    places = {(part.data, part.beside): place for place, part in enumerate(meant)}
    names = {row.name: place for place, row in enumerate(table.rows)}
    groups: dict[tuple[str, str, int, str], list[tuple[RowKey, ResultRow]]] = {}
    for key, lines in rows.items():
        runs = [_run(store, line) for line in lines]
        n = store.attacks[lines[0].evaluations.split()[0]][0].n
        group = groups.setdefault((key.data, key.beside, n, runs[0].data_fingerprint), [])
        group.append((key, row_of(table, key, lines, store)))
    parts = []
    for (data, beside, n, images), found in groups.items():
        run = _run(store, rows[found[0][0]][0])
        ordered = sorted(found, key=lambda one: names.get(one[0].row, len(names)))
        rows_of = tuple(row for _, row in ordered)
        counts = {"n": n, "n_test": run.n_test, "classes": run.classes}
        parts.append(ResultPart(data=data, beside=beside, **counts, rows=rows_of, data_fingerprint=images))
    parts.sort(key=lambda part: places.get((part.data, part.beside), len(places)))
    said = {key: "" if value is None else str(value) for key, value in changed.items()}
    return Result(table=table.name, scale=scale, changed=said, parts=tuple(parts))


def row_of(table: Table, key: RowKey, lines: Sequence[RowLine], store: Store) -> ResultRow:
    """One row out of its lines, a seed each."""
    runs = [_run(store, line) for line in lines]
    first = runs[0]
    at = [_by_radius([store.attacks[name] for name in line.evaluations.split()], first.eps) for line in lines]
    radii = list(dict.fromkeys([*(f"{column.eps:g}" for column in table.columns), *at[0]]))
    factors = [factor for factor in radii if all(factor in found for found in at)]
    analyses = [[_analysis(store.analyses[name]) for name in line.analyses.split()] for line in lines]
    groups = [store.attacks[name] for line in lines for name in line.evaluations.split()]
    made = [group[0] for group in groups]
    measured = [store.analyses[name] for line in lines for name in line.analyses.split()]
    of_row: chain[Line] = chain(lines, runs, *groups, *measured)
    protocol = {column.name: _column(column, at, analyses) for column in table.columns}
    return ResultRow(
        name=key.row,
        recipe=lines[0].recipe,
        seeds=tuple(line.seed for line in lines),
        **_printed(table, key),
        protocol={name: value for name, value in protocol.items() if value is not None},
        sound={factor: _worst([found[factor] for found in at]) for factor in factors},
        **_training(runs),
        eps=first.eps,
        norm=first.norm,
        runs=tuple(line.run for line in lines),
        rule=_rule(lines[0].rule),
        created=max(line.created for line in made),
        environment=at[0][factors[0]][0][0].environment,
        environments=tuple(dict.fromkeys(line.environment for line in made if "+" not in line.protocol)),
        analyses={one[0].name: one for one in (tuple(of_seeds) for of_seeds in zip(*analyses, strict=True))},
        fingerprints=tuple(line.fingerprint for line in lines),
        edited=any(line.digest == EDITED for line in of_row),
    )


def _printed(table: Table, key: RowKey) -> dict[str, Any]:
    """What the paper and the table's definition say of a row; nothing of one that the table has no more."""
    for row in table.rows:
        if row.name == key.row:
            published, minutes = row.published.get(key.beside, {}), row.minutes.get(key.beside)
            return {"remark": row.remark, "published": published, "minutes": minutes}
    return {"remark": "", "published": {}, "minutes": None}


def key_of(table: Table, scale: str, changed: Mapping[str, Any], part: Part, row: Row) -> RowKey:
    """The name of a row of a part in the files."""
    part_of = {"data": part.data, "beside": part.beside, "row": row.name}
    return RowKey(table=table.name, scale=scale, changed=changed_words(changed), **part_of)


def _run(store: Store, line: RowLine) -> RunLine:
    """The run that was measured for a line: the row's own, or its twin with another rule."""
    return store.runs[store.attacks[line.evaluations.split()[0]][0].run, line.fingerprint]


def _by_radius(evaluations: Evaluations, eps: float) -> dict[str, Evaluations]:
    """The evaluations at each multiple of the training radius."""
    found: dict[str, Evaluations] = {}
    for lines in evaluations:
        found.setdefault(f"{lines[0].eps / eps:g}", []).append(lines)
    return {factor: sorted(group, key=_protocol_place) for factor, group in found.items()}


def _protocol_place(lines: Sequence[AttackLine]) -> int:
    name = lines[0].protocol
    names = PROTOCOLS.names()
    return names.index(name) if name in names else len(names)


def _column(
    column: Column, at: Sequence[Mapping[str, Evaluations]], analyses: Sequence[Sequence[Analysis]]
) -> Measured | None:
    """A column's numbers, by seed; None where one was not measured."""
    if column.analysis is None:
        found = [_line(by.get(f"{column.eps:g}", []), column.attack) for by in at]
        title = "no attack" if column.attack == CLEAN else attack_title(column.attack)
        return _measured(found, title)
    values = [one.numbers.get(column.number) for of_run in analyses for one in of_run if one.name == column.analysis]
    known = tuple(value for value in values if value is not None)
    return Measured(values=known, attack="no attack") if len(known) == len(at) else None


def _line(evaluations: Evaluations, attack: str) -> AttackLine | None:
    """The line of an attack, of the first protocol that ran it; the worst case is that of all protocols."""
    if attack == WORST_CASE:
        evaluations = evaluations[-1:]
    return next((line for lines in evaluations for line in lines if line.attack == attack), None)


def _worst(evaluations: Sequence[Evaluations]) -> Measured:
    """The worst case per image over everything that was run at a radius, by seed."""
    names = [line.attack for lines in evaluations[0] for line in lines]
    singles = list(dict.fromkeys(name for name in names if name not in (CLEAN, *AGGREGATES)))
    title = f"worst per image of {'; '.join(attack_title(name) for name in singles)}"
    found = [_line(of_seed, WORST_CASE) or _lowest(of_seed) for of_seed in evaluations]
    measured = _measured(found, title)
    assert measured is not None
    return measured


def _lowest(evaluations: Evaluations) -> AttackLine:
    """The one attack of a protocol that has no worst case."""
    attacked = [line for line in evaluations[-1] if line.attack != CLEAN]
    return min(attacked, key=lambda line: line.robust)


def _measured(found: Sequence[AttackLine | None], title: str) -> Measured | None:
    lines = [line for line in found if line is not None]
    if len(lines) < len(found):
        return None
    outcomes = tuple(line.outcomes for line in lines)
    return Measured(values=tuple(line.accuracy for line in lines), attack=title, kept=outcomes if all(outcomes) else ())


def _training(runs: Sequence[RunLine]) -> dict[str, Any]:
    """Seconds and endings; seconds of work are left out where a run does not know them or counted them otherwise."""
    clocks = {run.work_clock for run in runs}
    clock = clocks.pop() if len(clocks) == 1 else None
    endings = [
        Ending(converged=run.converged, epochs=run.epochs, warm_epochs=run.warm_epochs or 0, stopped=run.stopped)
        for run in runs
        if run.epochs is not None and (run.warm_epochs is not None or run.converged is not None)
    ]
    return {
        "train_seconds": tuple(run.train_seconds for run in runs),
        "work_seconds": () if clock is None else tuple(run.work_seconds or 0.0 for run in runs),
        "work_clock": clock,
        "endings": tuple(endings) if len(endings) == len(runs) else (),
    }


def _analysis(lines: Sequence[AnalysisLine]) -> Analysis:
    first = lines[0]
    return Analysis(
        **{name: getattr(first, name) for name in SAME},
        model_fingerprint=first.fingerprint,
        numbers={line.key: float(line.values) for line in lines if line.kind == "number"},
        series={line.key: tuple(map(float, line.values.split())) for line in lines if line.kind == "curve"},
        environment=first.environment,
    )


def _rule(rule: str | None) -> Any:
    """A decision rule out of a cell, which `ResultRow` checks."""
    return int(rule) if rule is not None and rule.isdecimal() else rule
