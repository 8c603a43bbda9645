"""The page's tables as rows of text, ready to be set."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from corral.evaluation.records import AttackResult, Record, as_percent
from corral.report.collect import Evidence
from corral.report.compare import Entry, Estimate, Group, attacks_of
from corral.report.verdict import within_noise_of_best
from corral.report.words import (
    WORST_CASE,
    attack_order,
    attack_title,
    counted,
    listed,
    protocol_words,
    seconds_words,
)


@dataclass(frozen=True)
class Row:
    """One row: the header cell, the other cells, the run's colour (None for a mean over seeds), and its marks."""

    label: str
    cells: tuple[str, ...]
    run: int | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Column titles (the first is of the header cells) and rows."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Protocol:
    """One attack as it was run: its title, its settings in words, which runs met it, how long it took."""

    title: str
    lines: tuple[str, ...]


def runs_table(group: Group, numbers: dict[str, int]) -> Table:
    """Runs against attacks: every accuracy as its record has it, and mean ± sd where only seeds differ.

    Args:
        group: runs that may be compared.
        numbers: the number of each run on the page, by label.
    """
    attacks = group.attacks
    lowest = () if WORST_CASE in attacks or len(attacks) < 2 else ("Lowest of these attacks",)
    columns = (
        "Run",
        "Method",
        "Recipe",
        "Head",
        "Clean",
        *map(attack_title, attacks),
        *lowest,
        "n",
        "Seed",
        "Training",
    )
    best = within_noise_of_best(group) if len(group.entries) > 1 else set()
    rows: list[Row] = []
    for entry in group.entries:
        for evidence in entry.members:
            cells = _run_cells(evidence.record, attacks, bool(lowest))
            is_best = len(entry.members) == 1 and entry.label in best
            rows.append(Row(evidence.label, cells, numbers[evidence.label], is_best))
        if len(entry.members) > 1:
            rows.append(
                Row(f"{entry.label}, mean ± sd", _mean_cells(entry, attacks, bool(lowest)), best=entry.label in best)
            )
    return Table(columns, tuple(rows))


def per_class_table(group: Group) -> Table:
    """Classes against runs: clean accuracy, and accuracy under the attack that leaves that run least."""
    columns: list[str] = ["Class"]
    values: list[Sequence[float | None]] = []
    for evidence in group.members:
        columns.append(f"{evidence.label}, clean")
        values.append(evidence.record.clean_per_class)
        at_threat = [a for key, a in attacks_of(evidence.record).items() if key == a.name]
        if at_threat:
            hardest = min(at_threat, key=lambda attack: (attack.name != WORST_CASE, attack.accuracy))
            columns.append(f"{evidence.label}, {attack_title(hardest.name)}")
            values.append(hardest.per_class)
    classes = group.record.classes
    rows = [Row(name, tuple(as_percent(column[i]) for column in values)) for i, name in enumerate(classes)]
    return Table(tuple(columns), tuple(rows))


def evidence_table(evidence: Sequence[Evidence], numbers: dict[str, int]) -> Table:
    """What made each number: data, model, seeds, time, device, versions, notes."""
    columns = ("Run", "Data", "Data fingerprint", "Model fingerprint", "Images", "Seeds", "Evaluation", "Made at")
    rows = []
    for piece in evidence:
        r, e = piece.record, piece.record.environment
        cells = (
            r.data,
            r.data_fingerprint,
            r.model_fingerprint,
            f"{r.n:,} of {r.n_test:,}",
            f"training {r.train_seed}, evaluation {r.eval_seed}",
            seconds_words(r.eval_seconds),
            r.created,
            f"{e.device}, {counted(e.threads, 'thread')}",
            f"corral {e.corral}, torch {e.torch}, Python {e.python}, {e.platform}",
            " ".join(r.notes) or "–",
        )
        rows.append(Row(piece.label, cells, numbers[piece.label]))
    return Table((*columns, "Device", "Versions", "Notes"), tuple(rows))


def protocols(evidence: Sequence[Evidence]) -> list[Protocol]:
    """Every attack in words and numbers; different settings under one name are told apart by their runs."""
    met: dict[str, list[tuple[Evidence, AttackResult]]] = {}
    for piece in evidence:
        for attack in piece.record.attacks:
            met.setdefault(attack.name, []).append((piece, attack))
    result = []
    for name in attack_order(list(met)):
        settings: dict[str, list[tuple[Evidence, AttackResult]]] = {}
        for piece, attack in met[name]:
            settings.setdefault(f"{protocol_words(attack)} ({attack.protocol})", []).append((piece, attack))
        lines = []
        for words, pairs in settings.items():
            runs = "" if len(settings) == 1 else f"{listed([piece.label for piece, _ in pairs])}: "
            lines.append(f"{runs}{words} {_span(pairs)}")
        result.append(Protocol(attack_title(name), tuple(lines)))
    return result


def differing_protocols(group: Group) -> list[str]:
    """Warnings where one attack name stands for different settings within a group.

    The objective is not compared: the published protocol has one for cluster heads and another for linear ones.
    """
    found: list[str] = []
    for key in group.attacks:
        results = [attacks_of(e.record)[key] for e in group.members if key in attacks_of(e.record)]
        settings = {(a.steps, a.step_size, a.restarts, a.verdict, a.n) for a in results}
        if len(settings) > 1:
            found.append(
                f"{attack_title(key)} was run with different settings or on different numbers of images in different "
                "runs (see below): compare that column with care."
            )
    return found


def reduced_warnings(evidence: Sequence[Evidence]) -> list[str]:
    """One warning for each kind of evaluation that did not use the whole test set."""
    reduced: dict[tuple[str, int, int], list[str]] = {}
    for piece in evidence:
        r = piece.record
        if r.reduced:
            reduced.setdefault(("", r.n, r.n_test), []).append(piece.label)
        for attack in r.attacks:
            if attack.n < r.n:
                reduced.setdefault((f", {attack_title(attack.name)}", attack.n, r.n_test), []).append(piece.label)
    return [
        f"Reduced: first {n:,} of {n_test:,} test images{attack} ({listed(list(dict.fromkeys(labels)))})."
        for (attack, n, n_test), labels in reduced.items()
    ]


def _run_cells(record: Record, attacks: Sequence[str], lowest: bool) -> tuple[str, ...]:
    met = attacks_of(record)
    cells = [_attack_cell(met.get(key), record.n) for key in attacks]
    if lowest:
        cells.append(as_percent(min((a.accuracy for key, a in met.items() if key == a.name), default=None)))
    head = record.head if record.rule is None else f"{record.head}, {record.rule}"
    return (
        record.method,
        record.recipe,
        head,
        as_percent(record.clean),
        *cells,
        f"{record.n:,}",
        str(record.train_seed),
        seconds_words(record.train_seconds),
    )


def _attack_cell(attack: AttackResult | None, n: int) -> str:
    if attack is None:
        return "–"
    return as_percent(attack.accuracy) + ("" if attack.n == n else f" (n = {attack.n:,})")


def _mean_cells(entry: Entry, attacks: Sequence[str], lowest: bool) -> tuple[str, ...]:
    records = [evidence.record for evidence in entry.members]
    cells = [_mean_sd(entry.under(key)) for key in attacks]
    if lowest:
        minima = [min((a.accuracy for k, a in attacks_of(r).items() if k == a.name), default=None) for r in records]
        known = [value for value in minima if value is not None]
        cells.append(_plus_minus(known) if len(known) == len(records) else "–")
    head = records[0].head if records[0].rule is None else f"{records[0].head}, {records[0].rule}"
    seconds = statistics.fmean(r.train_seconds for r in records)
    return (
        records[0].method,
        records[0].recipe,
        head,
        _mean_sd(entry.clean()),
        *cells,
        f"{records[0].n:,}",
        counted(len(records), "seed"),
        seconds_words(seconds),
    )


def _plus_minus(values: Sequence[float]) -> str:
    return f"{as_percent(statistics.fmean(values))} ± {as_percent(statistics.stdev(values))}"


def _mean_sd(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{as_percent(estimate.mean)} ± {as_percent(estimate.spread)}"


def _span(pairs: Sequence[tuple[Evidence, AttackResult]]) -> str:
    """Images, seeds and seconds of one attack over its runs."""
    times = [attack.seconds for _, attack in pairs]
    low, high = seconds_words(min(times)), seconds_words(max(times))
    counts = listed([f"{n:,}" for n in sorted({attack.n for _, attack in pairs})])
    seeds = listed([str(seed) for seed in sorted({attack.seed for _, attack in pairs})])
    took = low if low == high else f"{low} to {high}"
    return f"On {counts} images, seed {seeds}, {took} a run."
