"""What made the numbers of a page: data, models, seeds, time, device, versions."""

from collections.abc import Sequence

from corral.report.runs.collect import Evidence
from corral.report.runs.tables import Cell, ReportRow, ReportTable
from corral.report.words import counted, seconds_words


def evidence_table(evidence: Sequence[Evidence], numbers: dict[str, int]) -> ReportTable:
    """What made each number: data, model, seeds, time, device, versions, notes."""
    columns: tuple[str, ...] = (
        "Run",
        "Data",
        "Data fingerprint",
        "Model fingerprint",
        "Protocol",
        "Images",
        "Seeds",
        "Evaluation",
    )
    columns += ("Made at", "Device", "Versions", "Notes")
    rows = []
    for piece in evidence:
        r, e = piece.record, piece.record.environment
        cells = (
            r.data,
            r.data_fingerprint,
            r.model_fingerprint,
            r.protocol_name,
            f"{r.n:,} of {r.n_test:,}",
            f"{'' if r.train_seed is None else f'training {r.train_seed}, '}evaluation {r.eval_seed}",
            seconds_words(r.eval_seconds),
            r.created,
            f"{e.device}, {counted(e.threads, 'thread')}",
            f"corral {e.corral}, torch {e.torch}, Python {e.python}, {e.platform}",
            " ".join([*r.notes, *([f"inputs: {' '.join(r.inputs)}"] if r.inputs else [])]) or "–",
        )
        number = numbers[piece.label]
        rows.append(ReportRow(piece.label, tuple(map(Cell, cells)), number, runs=str(number)))
    return ReportTable(tuple(map(Cell, columns)), tuple(rows))
