"""The report: records of several runs in, one self-contained HTML page out."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

import corral
from corral.evaluation.records import write_atomically
from corral.report.collect import Evidence, collect
from corral.report.compare import Group, attacks_of, group_runs
from corral.report.palette import swatch
from corral.report.pictures import MOST_PICTURES, Pair, pairs
from corral.report.tables import (
    Table,
    differing_protocols,
    evidence_table,
    per_class_table,
    protocols,
    reduced_warnings,
    runs_table,
)
from corral.report.verdict import Verdict, verdict
from corral.report.words import attack_title, listed, percent


@dataclass(frozen=True)
class CurvePanel:
    """One accuracy-against-eps figure with its legend and caption."""

    svg: Markup
    legend: tuple[tuple[int, str], ...]
    caption: str


@dataclass(frozen=True)
class RunPanel:
    """One run's figure of features and its row of images."""

    label: str
    number: int
    features: Markup
    features_caption: str
    pictures: tuple[Pair, ...]
    pixelated: bool


@dataclass(frozen=True)
class GroupPage:
    """Everything the page shows of one group of comparable runs."""

    title: str
    verdict: Verdict
    warnings: tuple[str, ...]
    table: Table
    table_notes: tuple[str, ...]
    per_class: Table
    spans: Markup
    curves: tuple[CurvePanel, ...]
    runs: tuple[RunPanel, ...]


def report(runs: Sequence[Path | str], *, out: Path | str) -> Path:
    """Write the report of several evaluated runs as one HTML page that needs nothing else.

    Args:
        runs: run folders, each with `records/evaluation.json` and `records/evaluation.npz`.
        out: where to write the page; an older page there is replaced in one step.

    Returns:
        The path of the page.

    Raises:
        UsageError: no run was given.
        CorralError: an evaluation is missing or broken, or the page cannot be written.
    """
    path = Path(out)
    write_atomically(path, render(collect(runs)).encode())
    return path


def render(evidence: Sequence[Evidence]) -> str:
    """The page as text; equal evidence gives equal bytes.

    Args:
        evidence: at least one run, from `collect`.
    """
    groups = group_runs(evidence)
    numbers = {piece.label: i for i, piece in enumerate(piece for group in groups for piece in group.members)}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files("corral.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        title=listed(list(dict.fromkeys(group.title for group in groups))),
        groups=[_group_page(group, numbers, f"g{i}") for i, group in enumerate(groups)],
        several=len(groups) > 1,
        protocols=protocols(evidence),
        evidence=evidence_table([piece for group in groups for piece in group.members], numbers),
        limits=_limits(groups),
        swatch=lambda run: Markup(swatch(run)),
        version=corral.__version__,
    )


def _group_page(group: Group, numbers: dict[str, int], name: str) -> GroupPage:
    return GroupPage(
        title=group.title,
        verdict=verdict(group),
        warnings=(*reduced_warnings(group.members), *differing_protocols(group)),
        table=runs_table(group, numbers),
        table_notes=_table_notes(group),
        per_class=per_class_table(group),
        spans=_spans(group, name),
        curves=_curves(group, numbers, name),
        runs=tuple(_run_panel(piece, numbers[piece.label], f"{name}r{i}") for i, piece in enumerate(group.members)),
    )


def _table_notes(group: Group) -> tuple[str, ...]:
    largest = (
        max(
            estimate.error
            for entry in group.entries
            for estimate in (entry.clean(), *(entry.under(key) for key in group.attacks))
            if estimate is not None and estimate.spread is None
        )
        if any(len(entry.members) == 1 for entry in group.entries)
        else None
    )
    notes = ["Accuracies in percent of the test images, higher is better."]
    if largest is not None:
        notes.append(f"The binomial standard error of one run is at most {100 * largest:.1f} points in this table.")
    if any(len(entry.members) > 1 for entry in group.entries):
        notes.append("Rows with ± are means and standard deviations over runs that differ only in their seed.")
    if "worst_case" in group.attacks:
        notes.append("Worst case per image: an image counts only if it withstands every attack.")
    elif len(group.attacks) > 1:
        notes.append(
            "“Lowest of these attacks” is the smallest accuracy in the row, not a worst case per image: "
            "images that only another attack fools would lower it further."
        )
    if len(group.entries) > 1:
        notes.append("Bold: cannot be told from the best under its strongest attack (less than 2 standard errors).")
    return tuple(notes)


def _spans(group: Group, name: str) -> Markup:
    from corral.report.figures import Span, spans_figure

    attacks = group.attacks
    spans = []
    for entry in group.entries:
        estimates = [entry.clean(), *(entry.under(key) for key in attacks)]
        spans.append(Span(entry.label, tuple(None if e is None else e.mean for e in estimates)))
    titles = ["clean", *map(attack_title, attacks)]
    described = "; ".join(
        f"{span.label}: "
        + ", ".join(f"{t} {percent(a)}" for t, a in zip(titles, span.accuracies, strict=True) if a is not None)
        for span in spans
    )
    chance = 1 / len(group.record.classes)
    return Markup(
        spans_figure(spans, titles, chance=chance, name=f"{name}s", description=f"Accuracy of each run. {described}.")
    )


def _curves(group: Group, numbers: dict[str, int], name: str) -> tuple[CurvePanel, ...]:
    from corral.report.figures import CurveLine, curves_figure

    drawn: dict[tuple[str, str], list[tuple[str, CurveLine]]] = {}
    for piece in group.members:
        for curve in piece.record.curves:
            line = CurveLine(numbers[piece.label], curve)
            drawn.setdefault((curve.attack, curve.norm), []).append((piece.label, line))
    panels = []
    for i, ((attack, norm), lines) in enumerate(drawn.items()):
        chance = 1 / len(group.record.classes)
        described = "; ".join(
            f"{label}: "
            + ", ".join(f"{percent(a)} at {e:g}" for e, a in zip(x.curve.eps, x.curve.accuracy, strict=True))
            for label, x in lines
        )
        counts = listed([f"{n:,}" for n in sorted({x.curve.n for _, x in lines})])
        svg = curves_figure(
            [line for _, line in lines], chance=chance, eps=group.record.eps, name=f"{name}c{i}",
            description=f"Accuracy against {norm} eps under {attack_title(attack)}. {described}.",
        )  # fmt: skip
        caption = (
            f"{attack_title(attack)} at growing {norm} eps, on the first {counts} test images. Higher is better; the "
            "grey upright line is the eps of the table. A curve that does not fall toward zero at large eps, or that "
            f"rises, is a sign that the attack fails, not that the model is robust.{_rising(lines)}"
        )
        panels.append(CurvePanel(Markup(svg), tuple((line.run, label) for label, line in lines), caption))
    return tuple(panels)


def _rising(lines: Sequence[tuple[str, "CurveLine"]]) -> str:
    """Names the runs whose accuracy rises with eps by more than two standard errors (at most 1/sqrt(n))."""
    risen = []
    for label, line in lines:
        accuracy = [a for _, a in sorted(zip(line.curve.eps, line.curve.accuracy, strict=True))]
        if any(later - earlier > line.curve.n**-0.5 for earlier, later in zip(accuracy, accuracy[1:], strict=False)):
            risen.append(label)
    return f" Here it rises for {listed(risen)}: do not trust that curve." if risen else ""


def _run_panel(piece: Evidence, number: int, name: str) -> RunPanel:
    from corral.report.figures import MOST_POINTS, features_figure

    arrays, classes = piece.arrays, piece.record.classes
    total = len(arrays.features_labels)
    shown = total if total <= MOST_POINTS else MOST_POINTS
    wrong = int((arrays.features_predicted[:shown] != arrays.features_labels[:shown]).sum())
    clusters = len(arrays.centroids2d)
    stars = (
        f" Stars are the {clusters} centroids: a dot should lie nearest to a star of its own colour."
        if clusters
        else " A linear head has no centroids; names stand at the class means."
    )
    first = f"the first {shown:,} of {total:,}" if shown < total else f"{shown:,}"
    caption = (
        f"{arrays.projection.item()}. Each mark is one of {first} test images, coloured by its true class: dots are "
        f"predicted right, crosses ({wrong}) wrong.{stars} Groups that overlap here may still be apart in full dimension."
    )
    if len(classes) > 10:
        caption += " Colours repeat every ten classes."
    described = (
        f"Test features of {piece.label} in two dimensions, {wrong} of {shown} predicted wrong, {clusters} centroids."
    )
    return RunPanel(
        label=piece.label,
        number=number,
        features=Markup(features_figure(arrays, classes, name=f"{name}f", description=described)),
        features_caption=caption,
        pictures=tuple(pairs(arrays, classes)),
        pixelated=max(arrays.images.shape[2:]) <= 64,
    )


def _limits(groups: Sequence[Group]) -> list[str]:
    """What these records leave open."""
    records = [(piece.label, piece.record) for group in groups for piece in group.members]
    limits = [
        "PGD finds adversarial images, it does not prove that there are none: every accuracy under attack is an upper "
        "bound on robust accuracy, and a stronger attack may lower it."
    ]
    without = [label for label, r in records if not any(name.startswith("autoattack") for name in attacks_of(r))]
    if without:
        who = "any of these runs" if len(without) == len(records) else listed(without)
        limits.append(
            f"AutoAttack has not been run on {who}; it is the field's standard check, and these records lack it."
        )
    limits.append("There are no certificates in these records: no accuracy here is guaranteed.")
    norms = listed(list(dict.fromkeys(r.norm for _, r in records)))
    limits.append(
        f"Only perturbations within the {norms} ball were tried; other norms, rotations or corruptions were not."
    )
    if any(len(entry.members) == 1 for group in groups for entry in group.entries):
        limits.append(
            "Runs without a mean row were trained with one seed: the standard errors say how far another test sample "
            "could move a number, not how far another training run could."
        )
    return limits


__all__ = ["MOST_PICTURES", "render", "report"]
