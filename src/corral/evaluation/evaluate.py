"""Evaluation of a run: clean accuracy, the named attacks, accuracy against eps, and what the page draws."""

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corral.attacks import LOG_20, MARGIN_20, PUBLISHED_20, PUBLISHED_20_LOG, Norm, PgdProtocol
from corral.data import DataSet, Images, load, stratified_subset
from corral.devices import choose_device
from corral.errors import CorralError, UsageError
from corral.evaluation.projection import plane
from corral.evaluation.records import AttackResult, Curve, Record, environment, now, write_record
from corral.files import write_atomically
from corral.models import Classifier, ClusterHead
from corral.precision import full_float32
from corral.progress import Progress, duration
from corral.training import RunFolder, RunInfo, load_model, parse_eps
from corral.training.recipe import MOST_SEED

CURVE = PgdProtocol(
    name="pgd_log_curve",
    description="PGD-20 on the log-space logits, cross-entropy, 1 restart, step eps/8",
    steps=20,
    restarts=1,
    step_size=None,
    objective="cross_entropy",
    cluster_objective="cross_entropy",
    keep="best",
)
CURVE_FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
CURVE_EXAMPLES = 200
FEATURE_EXAMPLES = 500
SHOWN_IMAGES = 8


@dataclass(frozen=True)
class Outcome:
    """Per-example results of one attack."""

    correct: Tensor
    adversarial: Tensor
    seconds: float


def evaluate(
    run: str | Path,
    *,
    eps: float | str | None = None,
    n: int | None = None,
    attacks: Sequence[PgdProtocol] | None = None,
    batch_size: int = 500,
    seed: int = 0,
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Record:
    """Attack a finished run on its test set and write `records/evaluation.json` and `.npz` in the run's folder.

    Args:
        run: the run folder.
        eps: radius in pixel units, 0.1 or "8/255"; default the one the run was trained for.
        n: a class-balanced subset of this many test images; default the whole test set. The record says which.
        attacks: the PGD protocols, each attacks every image on its own; default `default_attacks` of the model.
        batch_size: images a batch; results do not depend on it beyond the random starts.
        seed: of the attacks' random starts.
        data_root: folder of the data-set files.
        device: where to run; default a GPU if there is one.
        progress: show progress on stderr.

    Returns:
        The record that was written. "worst_case" in it counts, per example, every attack listed.

    Raises:
        CorralError: no finished run, damaged files, or other data than the run was trained on.
        UsageError: an impossible eps, n or batch size.
    """
    chosen = choose_device(device)
    folder = RunFolder(Path(run))
    if not folder.path.is_dir():
        raise CorralError(f"{run}: no such run folder; `corral train RECIPE --out {run}` makes one")
    model, _, info = load_model(folder.path, device=chosen)
    data = load(info.data, root=None if data_root is None else Path(data_root))
    if data.fingerprint != info.data_fingerprint:
        raise CorralError(
            f"{run}: trained on other data: {info.data} has fingerprint {data.fingerprint}, the run's was "
            f"{info.data_fingerprint}; restore the data or train again"
        )
    try:
        radius = info.eps if eps is None else parse_eps(eps, info.norm)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if radius == 0:
        raise UsageError("eps must be above 0 for an attack, found 0; give --eps, such as 0.1 or 8/255")
    if batch_size < 1:
        raise UsageError(f"batch size must be at least 1, found {batch_size}")
    if not 0 <= seed <= MOST_SEED:
        raise UsageError(f"seed must be from 0 to {MOST_SEED}, found {seed}")
    attacks = default_attacks(model) if attacks is None else attacks
    names = [attack.name for attack in attacks]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"attacks must be one or more, each once, found {', '.join(names) or 'none'}")
    test = data.test if n is None or n == len(data.test) else stratified_subset(data.test, n, seed=0)
    session = _Session(model, test.to(chosen), len(data.classes), info.norm, batch_size, seed, progress)
    started = time.perf_counter()
    with full_float32():
        record, arrays = _measure(session, attacks, radius, folder, info, data)
    record = record.model_copy(update={"eval_seconds": time.perf_counter() - started})
    stream = io.BytesIO()
    named: Any = arrays  # numpy's stubs take a dictionary's values for its own flags
    np.savez_compressed(stream, **named)
    write_atomically(folder.records / "evaluation.npz", stream.getvalue())
    write_record(record, folder.records / "evaluation.json")
    Progress("", 0, "", enabled=progress).say(f"{run}: evaluated in {duration(record.eval_seconds)}")
    return record


def default_attacks(model: nn.Module) -> tuple[PgdProtocol, ...]:
    """The attacks of an evaluation: the published protocol, its log-space control on cluster heads, two sound ones."""
    clusters = isinstance(model, Classifier) and isinstance(model.head, ClusterHead)
    return (PUBLISHED_20, *((PUBLISHED_20_LOG,) if clusters else ()), LOG_20, MARGIN_20)


def _measure(
    session: "_Session", attacks: Sequence[PgdProtocol], eps: float, folder: RunFolder, info: RunInfo, data: DataSet
) -> tuple[Record, dict[str, np.ndarray]]:
    model, test = session.model, session.images
    clean = session.predictions() == session.labels
    outcomes = {attack.name: session.attack(attack, eps) for attack in attacks}
    results = [session.result(attack, eps, outcomes[attack.name]) for attack in attacks]
    if len(results) > 1:
        correct = torch.stack([clean, *(outcome.correct for outcome in outcomes.values())]).all(0)
        results.append(_worst_case(results, session.accuracy(correct), session.per_class(correct)))
    curve = session.curve(eps)
    strongest = min(results[: len(attacks)], key=lambda result: result.accuracy).name
    arrays = _drawn(model, session, outcomes[strongest].adversarial) | {"correct_clean": clean.cpu().numpy()}
    for name, outcome in outcomes.items():
        arrays[f"correct_{name}"] = outcome.correct.cpu().numpy()
    head = model.head
    record = Record(
        run=folder.path.name,
        recipe=info.recipe,
        method=info.method,
        head="cluster" if isinstance(head, ClusterHead) else "linear",
        rule=str(head.rule) if isinstance(head, ClusterHead) else None,
        data=info.data,
        data_fingerprint=data.fingerprint,
        model_fingerprint=fingerprint(model),
        classes=list(data.classes),
        n=len(test),
        n_test=len(data.test),
        reduced=len(test) < len(data.test),
        norm=session.norm,
        eps=eps,
        clean=session.accuracy(clean),
        clean_per_class=session.per_class(clean),
        attacks=results,
        curves=[curve],
        train_seed=info.seed,
        train_seconds=info.train_seconds,
        eval_seed=session.seed,
        eval_seconds=0.0,
        created=now(),
        environment=environment(session.labels.device),
        notes=_notes(info, data, strongest),
    )
    return record, arrays


def _notes(info: RunInfo, data: DataSet, strongest: str) -> list[str]:
    return [
        f"data: {data.name} ({data.note}), trained on {info.train_images} images for {info.epochs} epochs",
        f"pictures show the adversarial images of {strongest}",
    ]


def _worst_case(results: Sequence[AttackResult], accuracy: float, per_class: list[float | None]) -> AttackResult:
    """The pointwise minimum: an example counts as correct if it was so clean and no attack broke it."""
    return results[0].model_copy(
        update={
            "name": "worst_case",
            "protocol": "an image counts as robust only if it is classified right and none of "
            + ", ".join(result.name for result in results)
            + " broke it",
            "steps": max(result.steps for result in results),
            "restarts": sum(result.restarts for result in results),
            "objective": "+".join(dict.fromkeys(result.objective for result in results)),
            "verdict": "any_iterate",
            "accuracy": accuracy,
            "per_class": per_class,
            "seconds": sum(result.seconds for result in results),
        }
    )


class _Session:
    """A model, its test images and how to go through them."""

    def __init__(
        self, model: Classifier, images: Images, classes: int, norm: Norm, batch_size: int, seed: int, progress: bool
    ) -> None:
        assert images.labels is not None
        self.model, self.images, self.labels = model, images, images.labels
        self.classes, self.norm, self.batch_size, self.seed, self.progress = classes, norm, batch_size, seed, progress

    def accuracy(self, correct: Tensor) -> float:
        """Share of True."""
        return int(correct.sum()) / len(correct)

    def per_class(self, correct: Tensor) -> list[float | None]:
        """Share of True within each class; None where a class has no example."""
        counts = torch.bincount(self.labels, minlength=self.classes).tolist()
        hits = torch.bincount(self.labels[correct], minlength=self.classes).tolist()
        return [hit / count if count else None for hit, count in zip(hits, counts, strict=True)]

    def predictions(self, images: Tensor | None = None) -> Tensor:
        """(n,) predicted labels of the test images, or of given ones."""
        return self._batched(self.model, images).argmax(1)

    def features(self) -> Tensor:
        """(n, d) features of the test images."""
        return self._batched(self.model.features, None)

    def _batched(self, function: Callable[[Tensor], Tensor], images: Tensor | None) -> Tensor:
        device = self.labels.device
        total = len(self.images) if images is None else len(images)
        parts = []
        with torch.no_grad():
            for rows in torch.split(torch.arange(total, device=device), self.batch_size):
                parts.append(function(self.images.float(rows) if images is None else images[rows]))
        output = torch.cat(parts)
        if not bool(torch.isfinite(output).all()):
            raise CorralError("the model's outputs are not finite on the test images; train it again")
        return output

    def attack(self, attack: PgdProtocol, eps: float, count: int | None = None) -> Outcome:
        """Run one attack on the first `count` images (all by default)."""
        total = len(self.images) if count is None else min(count, len(self.images))
        device = self.labels.device
        generator = torch.Generator(device).manual_seed(self.seed)
        started = time.perf_counter()
        parts = []
        title = f"{attack.name} at eps {eps:.4g}"
        with Progress(title, total, "images", enabled=self.progress) as bar:
            for rows in torch.split(torch.arange(total, device=device), self.batch_size):
                x, y = self.images.float(rows), self.labels[rows]
                parts.append(attack.attack(self.model, x, y, eps=eps, norm=self.norm, generator=generator))
                bar.advance(len(rows))
        adversarial = torch.cat(parts)
        correct = self.predictions(adversarial) == self.labels[:total]
        return Outcome(correct, adversarial, time.perf_counter() - started)

    def result(self, attack: PgdProtocol, eps: float, outcome: Outcome) -> AttackResult:
        """The record's row of an attack."""
        return AttackResult(
            name=attack.name,
            protocol=attack.description,
            norm=self.norm,
            eps=eps,
            steps=attack.steps,
            step_size=attack.step_size_for(eps),
            restarts=attack.restarts,
            objective=attack.objective_for(self.model),
            verdict="max_loss_restart" if attack.keep == "max_loss_restart" else "any_iterate",
            n=len(outcome.correct),
            accuracy=self.accuracy(outcome.correct),
            per_class=self.per_class(outcome.correct),
            seconds=outcome.seconds,
            seed=self.seed,
        )

    def curve(self, eps: float) -> Curve:
        """Accuracy against eps on the first images, up to 3 eps (at most 1)."""
        count = min(CURVE_EXAMPLES, len(self.images))
        radii = [factor * eps for factor in CURVE_FACTORS if factor * eps <= 1]
        first = torch.arange(count, device=self.labels.device)
        clean = self.predictions(self.images.float(first)) == self.labels[:count]
        accuracies = [
            self.accuracy(clean if radius == 0 else self.attack(CURVE, radius, count).correct) for radius in radii
        ]
        return Curve(attack=CURVE.description, norm=self.norm, n=count, eps=radii, accuracy=accuracies)


def _drawn(model: Classifier, session: _Session, adversarial: Tensor) -> dict[str, np.ndarray]:
    """What the page draws: a plane through the features with the centroids, and a row of images."""
    features = session.features()
    predicted = session.predictions()
    head = model.head
    centroids = head.centroids if isinstance(head, ClusterHead) else features.new_zeros(0, features.shape[1])
    classes = head.classes if isinstance(head, ClusterHead) else session.labels[:0]
    points, stars, share = plane(features, centroids)
    shown = torch.arange(min(FEATURE_EXAMPLES, len(features)), device=features.device)
    rows = _one_per_class(session.labels, SHOWN_IMAGES)
    images = session.images.float(rows)
    return {
        "features2d": points[shown].cpu().numpy(),
        "features_labels": session.labels[shown].cpu().numpy(),
        "features_predicted": predicted[shown].cpu().numpy(),
        "centroids2d": stars.cpu().numpy(),
        "centroids_classes": classes.cpu().numpy(),
        "projection": np.array(f"first two principal components of the test features, {share:.0%} of their variance"),
        "images": (images * 255).round().byte().cpu().numpy(),
        "images_adversarial": adversarial[rows].cpu().numpy(),
        "images_labels": session.labels[rows].cpu().numpy(),
        "images_predicted": predicted[rows].cpu().numpy(),
        "images_adversarial_predicted": session.predictions(adversarial[rows]).cpu().numpy(),
    }


def _one_per_class(labels: Tensor, count: int) -> Tensor:
    """The first example of each class in turn, then the next, until `count`."""
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    ends = counts.cumsum(0)
    within = torch.arange(len(labels), device=labels.device) - (ends - counts)[labels[order]]
    return order[torch.argsort(within, stable=True)][:count]


def fingerprint(model: nn.Module) -> str:
    """A short SHA-256 of a model's parameters and buffers: the same weights, the same fingerprint."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
