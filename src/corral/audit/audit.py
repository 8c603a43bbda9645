"""`corral audit`: any PyTorch model, diagnosed and attacked within a time budget, and a record of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import fspath
from pathlib import Path

import torch
from torch import Tensor, nn

from corral.attacks.autoattack import standard_attacks
from corral.attacks.balls import Norm
from corral.attacks.budget import Budget, Paced
from corral.attacks.engine import Attacked, run_attacks
from corral.attacks.state import REDUCED
from corral.attacks.threat import Threat
from corral.audit.data import audit_images
from corral.audit.diagnostics.findings import Finding, Verdict
from corral.audit.record import AuditAttack, AuditRecord, run_words, standard_error, verdict_of
from corral.audit.session import AuditSession
from corral.audit.shared import attacked_together
from corral.data import AnyData
from corral.devices import choose_device
from corral.distributed import ranks
from corral.distributed.launch import shared
from corral.errors import CorralError, UsageError
from corral.evaluation.protocols import known_norm, parsed_threat
from corral.files import AnyPath, check_recordable
from corral.models.backbones import BackboneLike
from corral.progress import Progress, duration
from corral.records import environment, now
from corral.targets.outputs import measuring
from corral.targets.prepare import Preparation
from corral.targets.target import Target, load_target
from corral.training.recipes.recipe import MOST_SEED
from corral.training.start import data_of

PLAIN = Preparation()
# Shares of all images where Square, which sees no gradient, succeeds after three white-box attacks: a note, masked.
SQUARE_NOTE, SQUARE_MASKED, SQUARE_IMAGES = 0.01, 0.05, 5


def audit(
    target: AnyPath | nn.Module,
    data: AnyData | None = None,
    *,
    eps: float | str | None = None,
    norm: str | None = None,
    minutes: float = 10.0,
    n: int | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    backbone: BackboneLike | None = None,
    preparation: Preparation = PLAIN,
    as_is: bool = False,
    batch_size: int = 128,
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    progress: bool = True,
) -> AuditRecord:
    """Diagnose a model and attack it with AutoAttack standard, within a time budget.

    Args:
        target: as `load_target` takes it, or a module.
        data: as `corral.data.load` takes them; the test images are used, and all images of data without a test part,
            such as (x, y). Default a corral run's own.
        eps: radius in pixel units, 0.1 or "8/255"; default a corral run's own.
        norm: "Linf", "L2" or "L1"; default a corral run's own, else Linf.
        minutes: the budget; diagnostics take at most 30% of it, AutoAttack what remains.
        n: a class-balanced subset of this many images; default all.
        seed: of the order of the images and of the attacks.
        path: the folder that Python code is imported from.
        backbone: a run's or a saved classifier's own, where it is yours and not imported here; see `corral.load`.
        preparation: what the model's inputs need.
        as_is: audit the model even where another way to feed it is far better.
        batch_size: the largest chunk that is attacked at once.
        data_root: folder of data-set files.
        device: where to run; default a GPU if there is one.
        devices: processes that share the images on each machine, one a device, each with the budget: this script was
            started by torchrun or srun in each, as `corral audit --devices` starts them too.
        nodes: machines.
        progress: show progress on stderr.

    Returns:
        The record; nothing is written.

    Raises:
        UsageError: a request that cannot be met.
        CorralError: a model or data that cannot be audited, or a budget in which nothing could be measured.
    """
    if not 0 < minutes < float("inf"):
        raise UsageError(f"--minutes must be above 0, found {minutes:g}")
    if not 0 <= seed <= MOST_SEED or batch_size < 1:
        raise UsageError(f"seed must be from 0 to {MOST_SEED} and batch size at least 1, found {seed} and {batch_size}")
    target = target if isinstance(target, nn.Module) else fspath(target)
    check_recordable(*(given for given in (target, data) if isinstance(given, str)))
    budget, chosen = Budget(60 * minutes), choose_device(device)
    with shared(devices, nodes), staying(str(target) if isinstance(target, str) else type(target).__name__):
        loaded = load_target(target, path=path, backbone=backbone, device=chosen)
        threat, source = _threat(loaded, eps, norm), data
        if source is None and loaded.info is not None:
            source = data_of(str(target), loaded.info, data=None, root=data_root)
        if source is None:
            raise UsageError("give --data: a named set (see `corral data`), npz:PATH, folder:PATH or file.py:function")
        trained_on = loaded.info.data_fingerprint if loaded.info else None
        given = audit_images(source, n=n, seed=seed, root=data_root, device=chosen, trained_on=trained_on)
        threat = parsed_threat(threat.norm, threat.eps, given.images.shape)
        session = AuditSession(loaded, given, preparation, as_is=as_is, budget=budget, batch_size=batch_size)
        # Each process has classified as many images as its time allowed.
        session.right = session.right[: min(ranks.everyones(len(session.right)))]
        record = _measured(session, threat, minutes, seed, batch_size, progress and ranks.is_first())
        return ranks.everyones(record)[0]


@contextmanager
def staying(name: str) -> Iterator[None]:
    """Turn what foreign code raises to end the process into one line; an interruption by the user stays one.

    `sys.exit(0)` would read as "pass", and so would the exit exception of the command line's own library.

    Raises:
        CorralError: the block raised `SystemExit` or another exception made to leave the process.
    """
    try:
        yield
    except (KeyboardInterrupt, CorralError):
        raise
    except BaseException as error:
        import typer  # late: only the command line needs it

        if isinstance(error, Exception) and not isinstance(error, typer.Exit | typer.Abort):
            raise
        words = (str(error).splitlines() or [""])[0]
        raise CorralError(
            f"{name}: the model tried to end the audit ({type(error).__name__}{f': {words}' if words else ''}); remove "
            "what exits from its code"
        ) from error


def _measured(
    session: AuditSession, threat: Threat, minutes: float, seed: int, batch_size: int, progress: bool
) -> AuditRecord:
    """Diagnose and attack a model that is ready for it."""
    name = session.target.name
    say = Progress("", 0, "", enabled=progress).say
    say(f"{name}: clean accuracy {100 * session.clean:.1f}% on {len(session.right):,} images")
    findings, spent = ranks.on_first(lambda: session.diagnose(threat.norm, threat.eps, seed, progress))

    def attack(images: Tensor) -> Attacked:
        return run_attacks(
            session.model,
            lambda indices: session.given.images.float(images[indices]),
            session.labels[images],
            standard_attacks(threat, session.classes),
            seed=seed,
            batch_size=batch_size,
            right=session.right[images],
            keep=torch.arange(0, device=session.labels.device),
            budget=Paced(session.budget, session.pace),
            title="AutoAttack standard",
            progress=progress,
        )

    with measuring(session.model, session.labels.device):
        found = attacked_together(attack, session.right)
    if not len(found.broken) and all(finding.verdict == "skipped" for finding in findings):
        raise CorralError(
            f"{name}: nothing could be measured in {minutes:g} min: one image may take AutoAttack "
            f"{duration(session.pace.worst(1))}; give more --minutes"
        )
    record = _record(session, found, [*findings, *_black_box(found)], threat, minutes, seed, spent)
    say(f"{run_words(record)}; {duration(record.seconds)} in all")
    return record


def _threat(loaded: Target, eps: float | str | None, norm: str | None) -> Threat:
    info = loaded.info
    chosen = known_norm(norm or (info.norm if info else "Linf"))
    if eps is None:
        eps = info.eps if info and info.norm == chosen else 0
        if eps == 0:
            raise UsageError(
                "give --eps, the radius in pixel units of images in [0, 1], such as 8/255, 0.3 or (L2) 0.5"
            )
    return parsed_threat(chosen, eps)


def _black_box(found: Attacked) -> list[Finding]:
    """Whether Square succeeds where the white-box attacks did not."""
    done = len(found.broken)
    square = next((tally for tally in found.tallies if tally.attack.name.startswith("square")), None)
    if square is None or not done:
        return []
    share, remedy = square.broken / done, ""
    verdict: Verdict = "ok"
    if square.broken >= SQUARE_IMAGES and share >= SQUARE_NOTE:
        verdict = "masked" if share >= SQUARE_MASKED else "note"
        remedy = "Look for a layer that hides the gradient; attack its smooth stand-in instead."
    return [
        Finding(
            name="autoattack_square",
            title="Square after the white-box attacks",
            value=share,
            verdict=verdict,
            explanation=f"Square sees no gradient; it succeeds on {square.broken} images ({100 * share:.1f}% of all) "
            "where the gradient attacks before it did not. With sound gradients there are next to none.",
            remedy=remedy,
            n=done,
            seconds=square.seconds,
        )
    ]


def _record(
    session: AuditSession,
    found: Attacked,
    findings: list[Finding],
    threat: Threat,
    minutes: float,
    seed: int,
    diagnostics_seconds: float,
) -> AuditRecord:
    given, target, done = session.given, session.target, len(found.broken)
    attacks = [
        AuditAttack(
            name=tally.attack.name,
            description=tally.attack.description,
            given=tally.given,
            broken=tally.broken,
            accuracy=standing / done,
            forwards=tally.forwards,
            backwards=tally.backwards,
            seconds=tally.seconds,
        )
        for tally, standing in zip(found.tallies, found.standing, strict=True)
        if done
    ]
    robust = int(found.correct.sum()) / done if done else None
    return AuditRecord(
        target=target.name,
        kind=target.kind,
        preparation=session.preparation.options(),
        data=given.data.name,
        data_note=given.note,
        data_fingerprint=given.data.fingerprint,
        image_shape=given.images.shape,
        classes=session.classes,
        class_names=list(given.data.classes),
        norm=threat.norm,
        eps=threat.eps,
        seed=seed,
        n_data=given.available,
        n_asked=len(given.labels),
        n_clean=len(session.right),
        n_attacked=done,
        reduced=done < len(given.labels),
        minutes=minutes,
        seconds=session.budget.spent,
        diagnostics_seconds=diagnostics_seconds,
        clean=session.clean,
        clean_attacked=int(session.right[:done].sum()) / done if done else None,
        robust=robust,
        robust_error=None if robust is None else standard_error(robust, done),
        attacks=attacks,
        inputs=session.inputs,
        findings=findings,
        verdict=verdict_of(session.inputs, findings),
        notes=_notes(session, found, threat.norm),
        created=now(),
        environment=environment(given.labels.device),
    )


def _notes(session: AuditSession, found: Attacked, norm: Norm) -> list[str]:
    notes = list(session.target.notes)
    if narrow := sorted({str(one.dtype) for one in session.target.model.parameters() if one.dtype in REDUCED}):
        notes.append(f"the model's weights are {', '.join(narrow)}; it was computed in float32 with these weights")
    if len(session.right) < len(session.given.labels):
        notes.append(f"clean accuracy is of the first {len(session.right):,} images, more did not fit into the budget")
    if norm == "L1":
        notes.append("the diagnostics were made in the largest L2 ball inside the L1 ball")
    if found.stopped:
        counted = f"{found.stopped} image{'s' if found.stopped > 1 else ''}"
        notes.append(f"the deadline cut off a chunk of {counted}, which counts nowhere")
    if len(found.broken) < len(session.right):
        worst = duration(session.pace.worst(1))
        notes.append(f"one more image may have taken {worst}: the images done are the first in a fixed order")
    return notes
