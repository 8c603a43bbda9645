"""The leaderboard's page and CSV file."""

import csv as csv_files
import io
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from markupsafe import Markup

from corral.files import AnyPath, check_recordable, check_writable, write_atomically
from corral.report.leaderboard.rank import Leaderboard, Line, leaderboards
from corral.report.palette import swatch
from corral.report.runs.collect import collect_with_folders
from corral.report.runs.estimates import Estimate
from corral.report.runs.tables import run_numbers
from corral.report.template import documents, filled, script_json
from corral.report.words import PUBLISHED, attack_title, eps_words, listed, seconds_words, slug
from corral.version import __version__

LIMITS = (
    "Attacks find misclassified images, they do not prove that there are none: all are upper bounds.",
    "Ranks within 2 standard errors of the first are bold and marked =: another draw of test images, or of training "
    "seeds, could order them otherwise.",
    "“masked gradients?” is a sign in these records, no verdict: corral audit examines it, and where its audit.json "
    "lies beside the records of a model its verdict stands among the flags.",
    "Passes and seconds are what the attacks cost on the machines of the records; no model is cheap for that.",
)


def compare(
    runs: Sequence[AnyPath] | AnyPath, *, out: Path | str | None = None, csv: Path | str | None = None
) -> list[Leaderboard]:
    """Rank evaluated runs and other models: one leaderboard for each set of images and threat.

    Models are ranked by the best known robust accuracy where AutoAttack was run, the worst case per image over all
    attacks in their records. Measurements on other images, of another number of them, or at another threat are never
    ranked together; a sentence says what differs.

    Args:
        runs: folders with records: runs, and those of `corral.evaluate(model, ..., out=FOLDER)`.
        out: where to write the page; None for no page.
        csv: where to write the lines as CSV, UTF-8 with a heading; None for no file.

    Returns:
        The leaderboards, the largest first.

    Raises:
        UsageError: no run was given, or a folder that is none.
        CorralError: a record is missing or broken, or a file cannot be written.
    """
    paths = [Path(path) for path in (out, csv) if path is not None]
    for path in paths:
        check_writable(path)
    runs = [runs] if isinstance(runs, str | PathLike) else runs
    check_recordable(*runs)
    evidence, folders = collect_with_folders(runs)
    found = leaderboards(evidence, folders)
    if csv is not None:
        write_atomically(Path(csv), as_csv(found).encode())
    if out is not None:
        write_atomically(Path(out), render_leaderboards(found).encode())
    return found


def rows_of(found: Sequence[Leaderboard]) -> list[dict[str, Any]]:
    """A dictionary a line, all with the same keys; accuracies are fractions, None where something is not known."""
    return [_row(place + 1, board, line) for place, board in enumerate(found) for line in board.lines]


def as_csv(found: Sequence[Leaderboard]) -> str:
    """The lines as CSV with a heading."""
    stream = io.StringIO()
    rows = rows_of(found)
    writer = csv_files.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return stream.getvalue()


def _row(place: int, board: Leaderboard, line: Line) -> dict[str, Any]:
    record, members = line.record, line.entry.members
    seeds = [piece.record.train_seed for piece in members if piece.record.train_seed is not None]
    claim, published = record.reported, line.entry.under(PUBLISHED)
    return {
        "leaderboard": place,
        "rank": line.rank,
        "model": line.entry.label,
        "clean": line.clean.mean,
        "autoattack": None if line.autoattack is None else line.autoattack.mean,
        "best_known": None if line.best is None else line.best.mean,
        "standard_error": None if line.best is None else line.best.error,
        "best_known_by": line.by,
        "published_protocol": None if published is None else published.mean,
        "claimed_clean": None if claim is None else claim.clean,
        "claimed_robust": None if claim is None else claim.robust,
        "claimed_attack": None if claim is None else claim.attack,
        "claimed_source": None if claim is None else claim.source,
        "flags": "; ".join(line.flags),
        "not_comparable": board.apart,
        "data": record.data,
        "norm": record.norm,
        "eps": record.eps,
        "n": record.n,
        "n_test": record.n_test,
        "protocol": line.protocol,
        "parameters": line.parameters,
        "passes_per_image": line.passes,
        "attack_seconds": line.attack_seconds,
        "train_seconds": line.train_seconds,
        "kind": record.kind,
        "recipe": record.recipe,
        "method": record.method,
        "head": record.head,
        "seeds": " ".join(map(str, seeds)),
        "data_fingerprint": record.data_fingerprint,
        "model_fingerprint": " ".join(piece.record.model_fingerprint for piece in members),
    }


def render_leaderboards(found: Sequence[Leaderboard]) -> str:
    """The page as text; equal leaderboards give equal bytes."""
    from corral.report.runs.panels import spans_panel  # late: matplotlib takes long to import

    pieces = [piece for board in found for line in board.lines for piece in line.entry.members]
    numbers = {piece.label: i for i, piece in enumerate(pieces)}
    titles = list(dict.fromkeys(board.group.title for board in found))
    return filled(
        "corral.report.leaderboard",
        "page.html",
        title=listed(titles),
        boards=[
            {
                "name": f"board-{place + 1}",
                "title": board.group.title,
                "basis": board.basis,
                "apart": board.apart,
                "shared": board.shared_flags,
                "lines": [_shown(line, numbers, board.shared_flags) for line in board.lines],
                "published": any(line.entry.under(PUBLISHED) is not None for line in board.lines),
                "claimed": any(line.record.reported is not None for line in board.lines),
                "figure": spans_panel(board.ranked, numbers, f"b{place}") if board.group.attacks else None,
            }
            for place, board in enumerate(found)
        ],
        filtered=script_json({"runs": list(numbers), "classes": []}),
        documents=documents((f"record-{i + 1}-{slug(one.label)}", one.record) for i, one in enumerate(pieces)),
        limits=LIMITS,
        version=__version__,
    )


def _shown(line: Line, numbers: dict[str, int], shared: Sequence[str]) -> dict[str, Any]:
    """A line's cells as text, with the exact numbers behind them in percent; flags that all share are left out."""
    record, published, claim = line.record, line.entry.under(PUBLISHED), line.record.reported
    head = (record.head or "–") if record.rule is None else f"{record.head}, {record.rule}"
    single = len(line.entry.members) == 1
    return {
        "rank": "–" if line.rank is None else f"{line.rank}{' =' if line.tied and line.rank > 1 else ''}",
        "rank_value": line.rank,
        "best": line.tied,
        "label": line.entry.label,
        "swatch": Markup(swatch(numbers[line.entry.members[0].label])) if single else "",
        "runs": run_numbers(line.entry.members, numbers),
        "accuracies": [_accuracy(one) for one in (line.best, line.clean, line.autoattack)],
        "published": _accuracy(published),
        "claimed": ("–", None) if claim is None else (f"{100 * claim.robust:.1f}", 100 * claim.robust),
        "claim": "–" if claim is None else f"{claim.attack}, {claim.source}",
        "error": "–" if line.best is None else f"{100 * line.best.error:.1f}",
        "by": attack_title(line.by) if line.by else "–",
        "flags": [flag for flag in line.flags if flag not in shared],
        "parameters": ("–", None) if line.parameters is None else (_short(line.parameters), line.parameters),
        "passes": ("–", None) if line.passes is None else (f"{line.passes:,.0f}", line.passes),
        "seconds": (seconds_words(line.attack_seconds), line.attack_seconds),
        "training": (seconds_words(line.train_seconds), line.train_seconds),
        "protocol": line.protocol,
        "threat": f"{record.norm} {eps_words(record.eps)}",
        "n": f"{record.n:,}",
        "made": f"{record.recipe or record.kind}, {record.method or '–'}, {head}",
    }


def _accuracy(estimate: Estimate | None) -> tuple[str, float | None]:
    if estimate is None:
        return "–", None
    spread = "" if estimate.spread is None else f" ± {100 * estimate.spread:.1f}"
    return f"{100 * estimate.mean:.1f}{spread}", 100 * estimate.mean


def _short(count: int) -> str:
    """A number of parameters as it is spoken of: 950, 57.4 k, 11.2 M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f} {letter}"
    return str(count)
