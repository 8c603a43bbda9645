"""Evaluation of a run: clean accuracy, a protocol's attacks, accuracy against eps, and what the page draws."""

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
from corral.errors import UsageError
from corral.evaluation.cache import EvaluationCache
from corral.evaluation.loaded_run import LoadedRun, loaded_run, run_folder, share
from corral.evaluation.page_arrays import SHOWN_IMAGES, one_per_class, page_arrays
from corral.evaluation.protocols import AttackLike, chosen_attacks, parsed_threat, protocol_attacks
from corral.evaluation.records import AttackResult, Curve, Record, Reported, pointwise_minimum
from corral.lock import held
from corral.precision import full_float32
from corral.progress import duration
from corral.renamed import renamed
from corral.training import load_recipe
from corral.training.recipes.recipe import Recipe

CURVE = PgdPreset(
    name="pgd_ce_curve",
    description="PGD-20 on the log-space logits, cross-entropy, 1 restart, step eps/8",
    steps=20,
    restarts=1,
    objective="cross_entropy",
)
CURVE_FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
CURVE_EXAMPLES = 200


@renamed(fresh="overwrite")
def evaluate(
    run: str | Path,
    *,
    protocol: str = "quick",
    eps: float | str | None = None,
    n: int | None = None,
    attacks: Sequence[AttackLike] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    data: AnyData | None = None,
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Record:
    """Attack a finished run on its test set and write a record and its arrays into the run's `records` folder.

    Every attack meets every image, so that its accuracy is its own; the worst case is taken per image. An interrupted
    evaluation is taken up again by the same call: finished batches are not repeated.

    Args:
        run: the run folder.
        protocol: "quick", "paper", "standard" (AutoAttack), "adaptive" or another of `corral.attacks.protocols`.
        eps: radius in pixel units, 0.1 or "8/255"; default the one the run was trained for.
        n: a class-balanced subset of this many test images; default the whole test set. The record says which, and
            its file's name has the n: `records/quick-n1000.json`.
        attacks: instead of a protocol's: names with settings such as "pgd:steps=50,restarts=3", presets, or functions
            attack(model, x, y, *, eps, ...) that return adversarial images; the record calls the protocol "custom".
        batch_size: images a batch; default 125 on a CPU, whose caches hold that many, else 500. An image's result does
            not depend on the others beyond the model's own rounding.
        seed: of the attacks' random numbers.
        overwrite: throw away what an interrupted evaluation has finished.
        data: where the run's data lie now, or the data themselves, as `corral.data.load` takes them: all of them, the
            training part too, for the images must be the same by their fingerprint. Default where they lay at
            training; a run on data given as an object needs them again.
        data_root: folder of the data-set files.
        device: where to run; default a GPU if there is one.
        progress: show progress on stderr.

    Returns:
        The record that was written. "worst_case" in it counts, per example, every attack listed.

    Raises:
        CorralError: no finished run, damaged files, other data than the run was trained on, an unfinished evaluation of
            another model, threat or attack list, or another process evaluates the run by this protocol.
        UsageError: an impossible protocol, eps, n or batch size.
    """
    named = "custom" if attacks is not None else PROTOCOLS.find(protocol).name
    folder = run_folder(run)
    with held(folder.records, named):
        given = loaded_run(
            run,
            n=n,
            batch_size=batch_size,
            seed=seed,
            data=data,
            data_root=data_root,
            device=device,
            progress=progress,
        )
        return _evaluated(given, named, eps, attacks, overwrite)


def _evaluated(
    run: LoadedRun, protocol: str, eps: float | str | None, attacks: Sequence[AttackLike] | None, overwrite: bool
) -> Record:
    """Evaluate a run that nobody else evaluates by this protocol."""
    folder, info, images = run.folder, run.info, run.data
    recipe, threat = load_recipe(folder.path), _threat(run, eps)
    bound: dict[str, Any] = {"threat": threat, "classes": len(images.classes), "recipe": recipe}
    if attacks is None:
        planned = protocol_attacks(protocol, run.model, **bound)
    else:
        planned = chosen_attacks(attacks, run.model, **bound)
    names = [attack.name for attack in planned]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"attacks must be one or more, each once, found {', '.join(names) or 'none'}")
    n, n_test = len(run.test), len(images.test)
    label = record_label(protocol, n=n, n_test=n_test, eps=threat.eps, run_eps=info.eps, seed=run.seed)
    plan = run.plan(protocol, threat, planned)
    cache = EvaluationCache(folder.records / f"{label}.unfinished", plan, overwrite=overwrite)
    with full_float32():
        record, arrays = _measure(run, planned, threat, protocol, recipe, cache)
    record = run.write(
        record, arrays, folder.records / f"{label}.json", f"evaluated in {duration(record.eval_seconds)}"
    )
    cache.close()
    return record


def _threat(run: LoadedRun, eps: float | str | None) -> Threat:
    """The run's own threat, or its norm at another radius."""
    return parsed_threat(run.info.norm, run.info.eps if eps is None else eps, run.spec.image_shape)


def record_label(protocol: str, *, n: int, n_test: int, eps: float, run_eps: float, seed: int) -> str:
    """The file name of a record without its ending: the protocol, and n, eps and seed that are not the default."""
    parts = ((n < n_test, f"n{n}"), (eps != run_eps, f"eps{eps:.6g}"), (seed, f"seed{seed}"))
    return "-".join([protocol, *(words for named, words in parts if named)])


def _measure(
    run: LoadedRun, attacks: Sequence[Attack], threat: Threat, protocol: str, recipe: Recipe, cache: EvaluationCache
) -> tuple[Record, dict[str, Tensor | NDArray[Any]]]:
    started = time.perf_counter()
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
        notes=[run.training_note, f"pictures show the adversarial images of {strongest}"],
        classes=list(run.data.classes),
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
        reported=None if recipe.reported is None else Reported(**recipe.reported.model_dump()),
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


def _result(run: LoadedRun, attack: Attack, outcome: Attacked) -> AttackResult:
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


def _curve(run: LoadedRun, threat: Threat, cache: EvaluationCache, shown: Tensor) -> tuple[Curve, float]:
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
