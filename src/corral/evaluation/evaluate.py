"""Evaluation of a run or any model: clean accuracy, attacks, accuracy against eps, and what the page draws."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corral.attacks import PgdPreset
from corral.attacks.attack import Attack
from corral.attacks.engine import Attacked
from corral.attacks.protocols import PROTOCOLS
from corral.attacks.threat import Threat
from corral.data import AnyData
from corral.distributed import ranks
from corral.distributed.launch import shared
from corral.errors import UsageError
from corral.evaluation.cache import EvaluationCache
from corral.evaluation.page_arrays import SHOWN_IMAGES, one_per_class, page_arrays
from corral.evaluation.protocols import (
    AttackLike,
    ThreatLike,
    as_threat,
    chosen_attacks,
    parsed_threat,
    protocol_attacks,
)
from corral.evaluation.subject import PLAIN, AnyModel, Subject, alone, load_subject, place_of, share
from corral.models.backbones import BackboneLike
from corral.precision import full_float32
from corral.progress import duration
from corral.records import AttackResult, Curve, Record, Reported, pointwise_minimum
from corral.renamed import renamed
from corral.targets import Preparation

CURVE = PgdPreset(
    name="pgd_ce_curve",
    description="PGD-20 on the log-space logits, cross-entropy, 1 restart, step eps/8",
    steps=20,
    restarts=1,
    objective="cross_entropy",
)
CURVE_FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
CURVE_EXAMPLES = 200


@renamed(fresh="overwrite", run="target")
def evaluate(
    target: AnyModel,
    data: AnyData | None = None,
    *,
    threat: ThreatLike | None = None,
    protocol: str = "quick",
    eps: float | str | None = None,
    n: int | None = None,
    attacks: Sequence[AttackLike] | None = None,
    out: str | Path | None = None,
    preparation: Preparation = PLAIN,
    path: str | Path | None = None,
    backbone: BackboneLike | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    progress: bool = True,
) -> Record:
    """Attack a finished run, or any model, on test images; its record and arrays go into the `records` folder.

    Every attack meets every image, so that its accuracy is its own; the worst case is taken per image. An interrupted
    evaluation is taken up again by the same call, where it writes: finished batches are not repeated.

    Args:
        target: a run folder; a module from float [0, 1] NCHW images to logits, which is given back in its mode and with
            its gradients; "file.py:function" or "package.module:function" that makes one; a TorchScript or torch.export
            file.
        data: images and labels as `corral.data.load` takes them, such as (x, y); of data with a test part that part, of
            others all. Of a run all of the data that it was trained on, by their fingerprint; default where they lay.
        threat: ("Linf", 8/255), ("L2", "0.5") or a `Threat`; radius in pixel units. Default the one that a run was
            trained for.
        protocol: "quick", "paper", "standard" (AutoAttack), "adaptive" or another of `corral.attacks.protocols`.
        eps: instead of a threat, the radius at the norm that a run was trained for.
        n: a class-balanced subset of this many test images; default the whole test set. The record says which, and
            its file's name has the n: `records/quick-n1000.json`.
        attacks: instead of a protocol's: names with settings such as "pgd:steps=50,restarts=3", presets, or functions
            attack(model, x, y, *, eps, ...) that return adversarial images; the record calls the protocol "custom".
        out: the folder whose `records` folder is written to; default the run. Of another model nothing is written
            without it; `corral.report` takes the folder.
        preparation: what another model than a run wants its inputs to be.
        path: the folder that a target's Python code is imported from.
        backbone: a run's own, where it is yours and not imported here; as `corral.load` takes it.
        batch_size: images a batch; default 125 to 500 on a CPU, by the images' size, else 500. An image's result does
            not depend on the others beyond the model's own rounding.
        seed: of the attacks' random numbers.
        overwrite: throw away what an interrupted evaluation has finished.
        data_root: folder of the data-set files.
        device: where to run; default a GPU if there is one, and where a module is. A module that is sent elsewhere
            stays there.
        devices: processes that share the images on each machine, one a device: this script was started by torchrun or
            srun in each, as `corral evaluate --devices` starts them too. The record is the same but for seconds.
        nodes: machines.
        progress: show progress on stderr.

    Returns:
        The record. "worst_case" in it counts, per example, every attack listed.

    Raises:
        CorralError: no finished run, damaged files, other data than the run was trained on, a model that does not take
            the images, an unfinished evaluation of another model, threat or attack list, or another process evaluates
            into the folder by this protocol.
        UsageError: an impossible protocol, threat, n or batch size; a model without data or a threat.
    """
    named = "custom" if attacks is not None else PROTOCOLS.find(protocol).name
    if threat is not None and eps is not None:
        raise UsageError("give threat=(norm, eps) or eps, found both")
    place = place_of(target, out)
    with shared(devices, nodes), alone(place, "records", named):
        subject = load_subject(
            target,
            data,
            place=place,
            n=n,
            batch_size=batch_size,
            seed=seed,
            preparation=preparation,
            path=path,
            backbone=backbone,
            data_root=data_root,
            device=device,
            progress=progress,
        )
        with subject.held():
            return _evaluated(subject, named, _threat(subject, threat, eps), attacks, overwrite)


def _evaluated(
    subject: Subject, protocol: str, threat: Threat, attacks: Sequence[AttackLike] | None, overwrite: bool
) -> Record:
    """Evaluate a model that nobody else evaluates into its folder by this protocol."""
    bound: dict[str, Any] = {"threat": threat, "classes": len(subject.classes), "recipe": subject.recipe}
    if attacks is None:
        planned = protocol_attacks(protocol, subject.model, **bound)
    else:
        planned = chosen_attacks(attacks, subject.model, **bound)
    names = [attack.name for attack in planned]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"attacks must be one or more, each once, found {', '.join(names) or 'none'}")
    n, n_test = len(subject.test), len(subject.data.test)
    name = record_label(protocol, n=n, n_test=n_test, threat=threat, own=subject.own_threat(), seed=subject.seed)
    label = f"records/{name}"
    cache = subject.cache(label, subject.plan(protocol, threat, planned), overwrite=overwrite)
    with full_float32():
        record, arrays = _measure(subject, planned, threat, protocol, cache)
    record = subject.write(record, arrays, label, f"evaluated in {duration(record.eval_seconds)}")
    if cache is not None and ranks.is_first():
        cache.close()
    return record


def _threat(subject: Subject, threat: ThreatLike | None, eps: float | str | None) -> Threat:
    """The threat that was asked for, the run's own, or its norm at another radius."""
    shape, own = subject.test.shape, subject.own_threat()
    if threat is not None:
        return as_threat(threat, shape)
    if own is None:
        raise UsageError(f"{subject.name}: give threat=(norm, eps), such as ('Linf', 8/255) (--norm, --eps)")
    return parsed_threat(own.norm, own.eps if eps is None else eps, shape)


def record_label(protocol: str, *, n: int, n_test: int, threat: Threat, own: Threat | None, seed: int) -> str:
    """The file name of a record without its ending: the protocol, and n, threat and seed that are not the default."""
    norm, eps = (None, None) if own is None else (own.norm, own.eps)
    parts = (
        (n < n_test, f"n{n}"),
        (threat.norm != norm, threat.norm),
        (threat.eps != eps, f"eps{threat.eps:.6g}"),
        (seed, f"seed{seed}"),
    )
    return "-".join([protocol, *(words for named, words in parts if named)])


def _measure(
    run: Subject, attacks: Sequence[Attack], threat: Threat, protocol: str, cache: EvaluationCache | None
) -> tuple[Record, dict[str, Tensor | NDArray[Any]]]:
    started, recipe = time.perf_counter(), run.recipe
    clean = run.predictions() == run.labels
    shown = one_per_class(run.labels, SHOWN_IMAGES).sort().values
    outcomes = {attack.name: run.attack(attack, cache, keep=shown) for attack in attacks}
    members = [_result(run, attack, outcomes[attack.name]) for attack in attacks]
    results = list(members)
    correct = torch.stack([clean, *(outcome.correct for outcome in outcomes.values())]).all(0)
    if len(members) > 1:
        ensemble = PROTOCOLS[protocol].ensemble if protocol in PROTOCOLS else ""
        names = [ensemble, "worst_case"] if ensemble else ["worst_case"]
        results += [pointwise_minimum(name, members, share(correct), run.per_class(correct)) for name in names]
    curve, curve_seconds = _curve(run, threat, cache, shown)
    strongest = min(members, key=lambda result: result.accuracy).name
    arrays = page_arrays(run, shown, outcomes[strongest].x_adv) | _per_image(clean, outcomes) | {"labels": run.labels}
    attack_seconds = sum(result.seconds for result in members) + curve_seconds
    record = Record(
        **run.facts(),
        notes=[run.data_note, *run.notes, f"pictures show the adversarial images of {strongest}"],
        classes=list(run.classes),
        reduced=len(run.test) < len(run.data.test),
        norm=threat.norm,
        eps=threat.eps,
        clean=share(clean),
        clean_per_class=run.per_class(clean),
        attacks=results,
        curves=[curve],
        eval_seed=run.seed,
        # Batches that an earlier, interrupted call finished count with what they took then.
        eval_seconds=max(time.perf_counter() - started, attack_seconds),
        protocol=protocol,
        batch_size=run.batch_size,
        reported=None if recipe is None or recipe.reported is None else Reported(**recipe.reported.model_dump()),
    )
    return record, arrays


def _per_image(clean: Tensor, outcomes: dict[str, Attacked]) -> dict[str, NDArray[Any]]:
    """Per image: right or wrong under each attack, at which step of it, and the first attack that misclassifies it."""
    arrays: dict[str, NDArray[Any]] = {"correct_clean": clean.cpu().numpy()}
    first_attack = np.where(arrays["correct_clean"], "", "clean").astype(f"<U{max(map(len, [*outcomes, 'clean']))}")
    success_step = np.where(arrays["correct_clean"], -1, 0)
    for name, outcome in outcomes.items():
        correct, step = outcome.correct.cpu().numpy(), outcome.step.cpu().numpy()
        arrays |= {f"correct_{name}": correct, f"step_{name}": step}
        first = (first_attack == "") & ~correct
        first_attack[first], success_step[first] = name, step[first]
    return arrays | {"first_attack": first_attack, "success_step": success_step}


def _result(run: Subject, attack: Attack, outcome: Attacked) -> AttackResult:
    """The record's row of an attack."""
    settings = dict(attack.settings)
    step_size = settings.get("step_size")
    success_rule = settings.get("success_rule", attack.success_rule)
    return AttackResult(
        name=attack.name,
        protocol=attack.description,
        norm=attack.threat.norm,
        eps=attack.threat.eps,
        steps=int(settings.get("steps", settings.get("queries", 1))),
        step_size=None if step_size is None else float(step_size),
        restarts=int(settings.get("restarts", 1)),
        objective=str(settings.get("objective", attack.objective)),
        success_rule="max_loss_restart" if success_rule == "max_loss_restart" else "any_iterate",
        n=len(outcome.correct),
        accuracy=share(outcome.correct),
        per_class=run.per_class(outcome.correct),
        seconds=outcome.seconds,
        seed=run.seed,
        settings=settings,
        forwards=outcome.forwards,
        backwards=outcome.backwards,
    )


def _curve(run: Subject, threat: Threat, cache: EvaluationCache | None, shown: Tensor) -> tuple[Curve, float]:
    """Accuracy against eps on the first images, up to 3 eps (at most 1), and the seconds that it took."""
    count = min(CURVE_EXAMPLES, len(run.test))
    factors = [factor for factor in CURVE_FACTORS if factor * threat.eps <= 1]
    first = torch.arange(count, device=run.device)
    clean = run.predictions(run.test.float(first)) == run.labels[:count]
    accuracies, seconds = [], 0.0
    for factor in factors:
        if factor == 0:
            accuracies.append(share(clean))
            continue
        attack = replace(
            CURVE.bound(run.model, Threat(threat.norm, factor * threat.eps)), name=f"{CURVE.name}-{factor:g}"
        )
        found = run.attack(attack, cache, keep=shown[shown < count], count=count)
        accuracies.append(share(found.correct))
        seconds += found.seconds
    radii = [factor * threat.eps for factor in factors]
    return Curve(attack=CURVE.description, norm=threat.norm, n=count, eps=radii, accuracy=accuracies), seconds
