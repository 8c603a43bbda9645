"""The verdict of an audit that lies beside a model's records, as a flag of its line."""

from pathlib import Path

from corral.audit.record import AuditRecord, read_audit
from corral.records import Record
from corral.report.words import eps_words, listed

FILE = "audit.json"


def audit_flag(record: Record, folder: Path) -> str | None:
    """What FOLDER/audit.json says of the model, where there is one: `corral audit RUN --out RUN/audit.html` makes it.

    Raises:
        CorralError: a file that is no audit, or damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    audit = read_audit(path)
    if not _is_of(audit, record):
        return f"{FILE} beside its records is of another model or other images: {audit.target} on {audit.data}"
    at = "" if (audit.norm, audit.eps) == (record.norm, record.eps) else f" at {audit.norm} eps {eps_words(audit.eps)}"
    masked = [finding.title for finding in (*audit.inputs, *audit.findings) if finding.verdict == "masked"]
    if masked:
        return f"masked gradients, by its audit{at}: {listed([f'“{title}”' for title in masked])}"
    return None if audit.verdict == "pass" else f"its audit{at} measured too little for a verdict"


def _is_of(audit: AuditRecord, record: Record) -> bool:
    """A run's folder may have moved with its audit, so that only its name is compared."""
    named = audit.target if record.kind != "run" else Path(audit.target).resolve().name
    return named == record.run and audit.data_fingerprint == record.data_fingerprint
