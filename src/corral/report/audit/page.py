"""The page of an audit: the verdict, robust accuracy under AutoAttack, every finding with its remedy."""

from corral.audit.diagnostics.findings import Finding
from corral.audit.record import AuditRecord, run_words
from corral.records import as_percent
from corral.report.audit.thresholds import threshold_words, value_words
from corral.report.runs.verdict import Verdict
from corral.report.template import documents, filled
from corral.report.words import attack_title, counted, environment_facts, eps_words, listed, percent, seconds_words

VERDICTS = {"masked": "masked", "note": "note", "skipped": "not measured", "ok": "ok"}


def audit_verdict(record: AuditRecord) -> Verdict:
    """The verdict of a record in words, the same on the page and on the terminal."""
    threat = f"{record.norm} eps {eps_words(record.eps)}"
    masked = [finding.title for finding in _in_order(record) if finding.verdict == "masked"]
    if record.robust is None or record.robust_error is None:
        robust = f"Robust accuracy at {threat} was not measured"
    else:
        images, verb = counted(record.n_attacked, "image"), "is" if record.n_attacked == 1 else "are"
        share = f"{percent(record.robust)} ± {100 * record.robust_error:.1f}"
        robust = f"{share} of {images} {verb} robust to AutoAttack standard at {threat}"
    skipped = [finding.title for finding in record.findings if finding.verdict == "skipped"]
    made = f" in the {len(record.findings) - len(skipped)} of {len(record.findings)} checks that were made"
    if masked:
        headline = "Masked: gradient attacks on this model mislead, so their robust accuracies cannot be believed."
        sentences = [f"What says so: {_quoted(masked)}."]
        above = "; take it for an upper bound that may lie far above the true one" if record.robust != 0 else ""
        sentences.append(f"{robust}{above}.")
    elif record.verdict == "not measured":
        made = f"only {len(record.findings) - len(skipped)} of {len(record.findings)} checks were made"
        headline = f"Not measured: {made}, so that little is known of masked gradients."
        sentences = [f"{robust}."]
    else:
        headline = f"Pass: no sign of masked gradients{made if skipped else ''}."
        sentences = [f"{robust}."]
    sentences.append(f"Without attack it classifies {percent(record.clean)} of {record.n_clean:,} images right.")
    if skipped:
        sentences.append(f"Not measured: {_quoted(skipped)}.")
    return Verdict(headline, tuple(sentences))


def render_audit(record: AuditRecord) -> str:
    """The page as text; equal records give equal bytes."""
    return filled(
        "corral.report.audit",
        "page.html",
        record=record,
        verdict=audit_verdict(record),
        threat=f"{record.norm} eps {eps_words(record.eps)}",
        run=run_words(record),
        findings=_in_order(record),
        words=VERDICTS,
        facts=_facts(record),
        limits=_limits(record),
        as_percent=as_percent,
        seconds_words=seconds_words,
        counted=counted,
        attack_title=attack_title,
        per_image=lambda passes, images: f"{passes / images:,.0f}" if images else "–",
        value=value_words,
        threshold=threshold_words,
        documents=documents([("audit", record)]),
    )


def _in_order(record: AuditRecord) -> list[Finding]:
    """What matters first; within that, in the order of the checks."""
    order = list(VERDICTS)
    return sorted((*record.inputs, *record.findings), key=lambda finding: order.index(finding.verdict))


def _quoted(titles: list[str]) -> str:
    return listed([f"“{title}”" for title in titles])


def _facts(record: AuditRecord) -> list[tuple[str, str]]:
    kinds = {
        "run": "a corral run",
        "python": "Python code",
        "torchscript": "a TorchScript file",
        "export": "a torch.export file",
        "module": "a module",
        "classifier": "a corral classifier",
    }
    return [
        ("Model", f"{record.target} ({kinds.get(record.kind, record.kind)}), {record.classes} classes"),
        ("Inputs", " ".join(record.preparation) or "images in [0, 1], as they are"),
        ("Data", f"{record.data} ({record.data_note}), images {' × '.join(map(str, record.image_shape))}"),
        ("Data fingerprint", record.data_fingerprint),
        (
            "Images",
            f"{record.n_data:,} available, {record.n_asked:,} asked for, {record.n_clean:,} classified, "
            f"{record.n_attacked:,} attacked",
        ),
        ("Threat", f"{record.norm} eps {eps_words(record.eps)}, in units of pixels in [0, 1]"),
        ("Seed", str(record.seed)),
        (
            "Time",
            f"{seconds_words(record.seconds)} of {record.minutes:g} min, "
            f"of them {seconds_words(record.diagnostics_seconds)} for diagnostics",
        ),
        ("Made at", record.created),
        *environment_facts(record.environment),
        *(("Note", note[:1].upper() + note[1:]) for note in record.notes),
    ]


def _limits(record: AuditRecord) -> list[str]:
    limits = [
        "Attacks find adversarial images, they do not prove that there are none: robust accuracy is an upper bound.",
        "A pass means that none of these checks found masked gradients. It is no certificate, and a defence built "
        "against exactly these checks may hide from them: then an attack made for that defence has to decide.",
        f"Only changes within the {record.norm} ball were tried; other norms, rotations or corruptions were not.",
    ]
    if record.n_attacked:
        limits.append(
            f"± is the binomial standard error of {record.n_attacked:,} images: how far another draw of images could "
            "move the number."
        )
    if record.reduced:
        limits.append(
            "This is a reduced run: do not compare its robust accuracy with figures of whole test sets. More --minutes "
            "or a faster device attack more images."
        )
    return limits
