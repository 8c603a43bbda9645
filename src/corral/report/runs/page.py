"""The report: records of several runs in, one self-contained HTML page out."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from markupsafe import Markup

from corral.files import AnyPath, check_recordable, check_writable, write_atomically
from corral.report.palette import class_dot, swatch
from corral.report.runs.collect import Evidence, collect
from corral.report.runs.compare import RunGroup, attacks_of, group_runs
from corral.report.runs.made import evidence_table
from corral.report.runs.protocols import claims, differing_protocols, protocols, reduced_warnings
from corral.report.runs.tables import overstatement_table, per_class_table, runs_table
from corral.report.runs.verdict import verdict
from corral.report.template import documents, filled, script_json
from corral.report.words import WORST_CASE, listed, slug
from corral.version import __version__

FEATURES_READING = (
    "How to read it: each mark is one test image, coloured by its true class; dots are predicted right, crosses wrong. "
    "Stars are centroids: a dot should lie nearest to a star of its own colour. A linear head has no centroids, class "
    "names stand at the class means. Groups that overlap in this projection may still be apart in the full dimension."
)

# Of all pictures of a page, so that ten runs are less than 3 MB with all else.
MOST_PICTURE_BYTES = 1_200_000
# Above so many classes cells have no exact values, and there is no legend of classes, whose colours repeat.
MOST_EXACT_CLASSES, MOST_LEGEND_CLASSES = 100, 20


def report(runs: Sequence[AnyPath] | AnyPath, *, out: Path | str) -> Path:
    """Write the report of several evaluated runs as one HTML page that needs nothing else.

    Args:
        runs: a run or several, each with one evaluation or more in `records`.
        out: where to write the page; an older page there is replaced in one step.

    Returns:
        The path of the page.

    Raises:
        UsageError: no run was given.
        CorralError: an evaluation is missing or broken, or the page cannot be written.
    """
    path = Path(out)
    check_writable(path)
    runs = [runs] if isinstance(runs, str | PathLike) else runs
    check_recordable(*runs)
    write_atomically(path, render(collect(runs)).encode())
    return path


def render(evidence: Sequence[Evidence]) -> str:
    """The page as text; equal evidence gives equal bytes.

    Args:
        evidence: at least one run, from `collect`.
    """
    groups = group_runs(evidence)
    pieces = [piece for group in groups for piece in group.members]
    numbers = {piece.label: i for i, piece in enumerate(pieces)}
    classes = {tuple(group.record.classes) for group in groups}
    return filled(
        "corral.report.runs",
        "page.html",
        title=listed(list(dict.fromkeys(group.title for group in groups))),
        groups=[_group_page(group, numbers, f"g{i}", len(pieces)) for i, group in enumerate(groups)],
        several=len(groups) > 1,
        protocols=protocols(evidence),
        evidence=evidence_table(pieces, numbers),
        limits=_limits(groups),
        features_reading=FEATURES_READING,
        filtered=script_json({"runs": list(numbers), "classes": classes.pop() if len(classes) == 1 else ()}),
        exact=max(len(group.record.classes) for group in groups) <= MOST_EXACT_CLASSES,
        documents=documents((f"record-{i + 1}-{slug(one.label)}", one.record) for i, one in enumerate(pieces)),
        swatch=lambda run: Markup(swatch(run)),
        class_dot=lambda kind: Markup(class_dot(kind)),
        version=__version__,
    )


def _group_page(group: RunGroup, numbers: dict[str, int], name: str, runs: int) -> dict[str, Any]:
    """Everything the page, of so many runs, shows of one group of comparable runs."""
    # matplotlib takes long to import: only drawing a page may pay for it, not importing corral.
    from corral.report.runs.panels import curve_panels, run_panel, spans_panel

    classes, room = group.record.classes, MOST_PICTURE_BYTES // runs
    return {
        "name": name,
        "title": group.title,
        "verdict": verdict(group),
        "warnings": [*reduced_warnings(group.members), *differing_protocols(group)],
        "edited": [f"{name} of {piece.label}" for piece in group.members for name in piece.record.edited],
        "table": runs_table(group, numbers),
        "table_notes": _table_notes(group),
        "overstated": overstatement_table(group, numbers),
        "per_class": per_class_table(group, numbers),
        "class_legend": classes if len(classes) <= MOST_LEGEND_CLASSES else [],
        "spans": spans_panel(group, numbers, name),
        "claims": claims(group.members),
        "curves": curve_panels(group, numbers, name),
        "runs": [run_panel(piece, numbers[piece.label], f"{name}r{i}", room) for i, piece in enumerate(group.members)],
    }


def _table_notes(group: RunGroup) -> list[str]:
    single = [entry for entry in group.entries if len(entry.members) == 1]
    estimates = [e for entry in single for e in (entry.clean(), *map(entry.under, group.attacks)) if e is not None]
    notes = ["Accuracies in percent of the test images, higher is better."]
    if estimates:
        largest = max(estimate.error for estimate in estimates)
        notes.append(f"The binomial standard error of one run is at most {100 * largest:.1f} points in this table.")
    if any(len(entry.members) > 1 for entry in group.entries):
        notes.append("Rows with ± are means and standard deviations over runs that differ only in their seed.")
    if WORST_CASE in group.attacks:
        notes.append("Worst case per image: an image counts only if it is robust to every attack.")
    elif len(group.attacks) > 1:
        notes.append(
            "“Lowest of these attacks” is the smallest accuracy in the row, not a worst case per image: "
            "images that only another attack makes misclassified would lower it further."
        )
    if len(group.entries) > 1:
        notes.append(
            "Bold: cannot be told from the best under its strongest attack (less than 2 standard errors of the "
            "difference)."
        )
    return notes


def _limits(groups: Sequence[RunGroup]) -> list[str]:
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
