"""Certification of a run: a radius for every test image, and attacks that try to break each of them."""

import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from corral.attacks.attack import Attack
from corral.attacks.balls import l2_norms
from corral.attacks.bisector import bisector_search
from corral.attacks.checks import check_inside
from corral.attacks.ddn import ddn
from corral.attacks.engine import Attacked
from corral.attacks.minimal import MinimalOutcome
from corral.attacks.outcome import Outcome
from corral.attacks.presets import PgdPreset
from corral.attacks.threat import Threat
from corral.attacks.within import pgd_within
from corral.certify import head_radius, lipschitz_upper
from corral.data import AnyData, Images
from corral.distributed import ranks
from corral.distributed.launch import shared
from corral.errors import CorralError, UsageError
from corral.evaluation.certificate import (
    NEXT_IMAGE,
    BrokenCertificatesError,
    Certificate,
    CertifiedAt,
    CertifyingAttack,
    LayerConstant,
)
from corral.evaluation.subject import AnyModel, Subject, alone, load_subject, place_of, share
from corral.models import Classifier
from corral.models.backbones import BackboneLike
from corral.precision import full_float32
from corral.progress import duration
from corral.renamed import renamed
from corral.training import parse_eps

RADII = (0.0, 36 / 255, 72 / 255, 108 / 255, 1.0)
CURVE_POINTS = 60
# The largest l2 radius that is given as a plain number; certificates in the literature go up to 4.
MOST_RADIUS = 8
# What the forward passes' own rounding can move a boundary by, relative to the radius.
ROUNDING = 1e-5
# Share of each image's own radius that PGD is let go to.
INSIDE = 0.9999
PGD = PgdPreset(
    name="pgd",
    description="L2 PGD-40 on the margin, 10 restarts, step radius/16; any misclassified iterate counts",
    steps=40,
    restarts=10,
    objective="margin",
)


@renamed(fresh="overwrite", run="target")
def certify_run(
    target: AnyModel,
    data: AnyData | None = None,
    *,
    radii: Sequence[float | str] = RADII,
    n: int | None = None,
    attack: bool = True,
    out: str | Path | None = None,
    backbone: BackboneLike | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    progress: bool = True,
) -> Certificate:
    """Certify a finished run, or any `Classifier`, on test images, and attack what was certified.

    The radius of an image is that of the head's own rule around its feature over a guaranteed Lipschitz constant of
    everything before, in float64; it counts where the float32 model classifies the image right. The attacks are those
    of `radius_attacks`; the distance of the closest misclassified image that any of them found stands beside each
    radius. Both go to `certificates/LABEL.npz`: labels, predicted, radius, distance (infinite where none was found),
    (n,) each.

    Args:
        target: a run folder, or a classifier, such as `corral.cluster` makes.
        data: images and labels as `evaluate` takes them; default a run's own.
        radii: l2 radii in pixel units, 0.5 or "36/255", that accuracies are stated at.
        n: a class-balanced subset of this many test images; default the whole test set.
        attack: try to break the certificates.
        out: the folder whose `certificates` folder is written to; default the run. Of another classifier nothing is
            written without it.
        backbone: a run's own, where it is yours and not imported here; as `corral.load` takes it.
        batch_size: images at a time; default 125 to 500 on a CPU, by the images' size, else 500.
        seed: of the attacks' random numbers.
        overwrite: throw away what an interrupted certification has finished.
        data_root: folder of the data-set files.
        device: where to run; default a GPU if there is one, and where a classifier is. One that is sent elsewhere stays
            there.
        devices: processes that share the images on each machine, one a device: this script was started by torchrun or
            srun in each, as `corral certify --devices` starts them too. The certificate is the same but for seconds.
        nodes: machines.
        progress: show progress on stderr.

    Returns:
        The certificate; that of a run is written to `RUN/certificates/LABEL.json`.

    Raises:
        CorralError: no finished run, damaged files, other data, an unfinished certification of another plan, another
            process certifies the run, or layers, centroids or values that no bound or radius is known for.
        BrokenCertificatesError: an attack broke a certificate; everything is written first.
        UsageError: an impossible radius, n or batch size, a head or a layer without a certificate, or a model that is
            no `Classifier`.
    """
    begun, wanted, place = time.perf_counter(), _radii(radii), place_of(target, out)
    with shared(devices, nodes), alone(place, "certificates", "l2"):
        subject = load_subject(
            target,
            data,
            place=place,
            n=n,
            batch_size=batch_size,
            seed=seed,
            backbone=backbone,
            data_root=data_root,
            device=device,
            progress=progress,
        )
        if subject.classifier is None:
            raise UsageError(
                f"{subject.name}: a {type(subject.target.model).__name__} has no certificate here, only runs and "
                "corral's classifiers have: `corral.cluster` makes one of a trained network"
            )
        _check_radii(wanted, subject.test.shape)
        with subject.held():
            return _certificate(subject, subject.classifier, wanted, attack=attack, overwrite=overwrite, begun=begun)


def _certificate(
    given: Subject, model: Classifier, wanted: list[float], *, attack: bool, overwrite: bool, begun: float
) -> Certificate:
    """Certify a classifier that nobody else certifies into its folder."""
    name = certificate_label(n=len(given.test), n_test=len(given.data.test), seed=given.seed)
    label = f"certificates/{name}"
    with full_float32():
        try:
            bound = lipschitz_upper(model, given.test.shape)
            # A product past float64 still is a bound, of no use: the record says so by its number.
            lipschitz = min(bound.value, sys.float_info.max)
            predicted, found = _certified(given, model, lipschitz)
        except ValueError as error:  # what bounds and radii refuse of a layer, a head or its values
            raise CorralError(f"{given.place or given.name}: this model has no certificate: {error}") from error
        right = predicted == given.labels
        proved, distances = torch.where(right, found, 0.0), torch.where(right, torch.inf, 0.0).double()
        attacks = radius_attacks(model, wanted, lipschitz)
        plan = given.plan("certify", Threat("L2", max(wanted)), attacks)
        cache = given.cache(label, plan, overwrite=overwrite)
        outcomes = [given.attack(one, cache) for one in attacks] if attack else []
        for outcome in outcomes:
            distances = torch.minimum(distances, _distances(outcome, given.test))
    # A radius of 0 promises nothing: two classes tie there, and the rounding of another batch may decide otherwise.
    broken = int((right & (proved > 0) & (distances <= proved * (1 - ROUNDING))).sum())
    largest = max([*wanted, float(proved.max()), NEXT_IMAGE])

    def at(radius: float) -> CertifiedAt:
        # Strictly larger, and for attacks the least doubt that rounding leaves, in their favour.
        attacked = share(right & (distances > radius * (1 + ROUNDING))) if attack else None
        return CertifiedAt(radius=radius, certified=share(right & (proved > radius)), attacked=attacked)

    inside = proved[right]
    certificate = Certificate(
        **given.facts(),
        notes=[given.data_note, *given.notes],
        clean=share(right),
        lipschitz=lipschitz,
        layers=[LayerConstant(**vars(layer)) for layer in bound.layers],
        at=[at(radius) for radius in wanted],
        curve=[at(largest * place / CURVE_POINTS) for place in range(CURVE_POINTS + 1)],
        median=float(inside.median()) if len(inside) else 0.0,
        below_next=share(inside < NEXT_IMAGE) if len(inside) else 0.0,
        attacks=[
            CertifyingAttack(
                name=one.name, description=one.description, settings=dict(one.settings), seconds=outcome.seconds
            )
            for one, outcome in zip(attacks, outcomes, strict=False)  # none where nothing was attacked
        ],
        broken=broken,
        seed=given.seed,
        # Batches that an earlier, interrupted call finished count with what they took then.
        certify_seconds=max(time.perf_counter() - begun, sum(outcome.seconds for outcome in outcomes)),
    )
    arrays = {"labels": given.labels, "predicted": predicted, "radius": proved, "distance": distances}
    certificate = given.write(certificate, arrays, label, f"certified in {duration(certificate.certify_seconds)}")
    if cache is not None and ranks.is_first():
        cache.close()
    if broken:
        raise BrokenCertificatesError(
            f"{given.place or given.name}: {label}: attacks broke {broken} of {certificate.n} certificates: do not use "
            "them, and report this with the run; the arrays beside the record name the images",
            certificate,
        )
    return certificate


def certificate_label(*, n: int, n_test: int, seed: int) -> str:
    """The file name of a certificate without its ending: whatever is not the full or the default."""
    return "-".join(["l2", *([f"n{n}"] if n < n_test else []), *([f"seed{seed}"] if seed else [])])


def certificate_page(run: Path, certificate: Certificate) -> Path:
    """Where the page of a run's certificate lies, beside its record."""
    label = certificate_label(n=certificate.n, n_test=certificate.n_test, seed=certificate.seed)
    return run / "certificates" / f"{label}.html"


def radius_attacks(model: Classifier, radii: Sequence[float], lipschitz: float) -> list[Attack]:
    """The attacks on certified images, each bound to the radius that it is confined to.

    DDN and, on cluster heads, the search along bisector normals look for the closest misclassified image at whatever
    distance; PGD within each of the radii above 0, and just within each image's own certified radius.
    """
    largest = Threat("L2", max([*radii, NEXT_IMAGE]))
    found = [Attack("ddn", "DDN, 100 steps, on the margin: the closest point", (("steps", 100),), largest, _ddn)]
    if model.head.clusters is not None:
        words = "Newton steps to the bisectors of own and rival centroids, 20 towards each of the 9 nearest rivals"
        found.append(Attack("bisectors", words, (("steps", 20), ("rivals", 9)), largest, _bisectors))
    for radius in sorted({radius for radius in radii if radius > 0}):
        bound = PGD.bound(model, Threat("L2", radius))
        name, settings = f"pgd-{radius:.6g}", (("radius", radius), *bound.settings)
        found.append(replace(bound, name=name, settings=settings))
    words = (
        f"L2 PGD-{PGD.steps} on the margin, {PGD.restarts} restarts, within {INSIDE} of each image's certified radius"
    )
    settings = (("steps", PGD.steps), ("restarts", PGD.restarts), ("share", INSIDE), ("lipschitz", lipschitz))
    found.append(Attack("pgd-own", words, settings, largest, partial(_own, lipschitz)))
    return found


def _own(lipschitz: float, model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Outcome:
    assert isinstance(model, Classifier)
    with torch.no_grad():
        radii = head_radius(model.head, model.features(x), lipschitz=lipschitz)
    return pgd_within(model, x, y, INSIDE * radii, steps=PGD.steps, restarts=PGD.restarts, seed=seed)


def _ddn(model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Outcome:
    found: MinimalOutcome = ddn.outcome(model, x, y, steps=100, seed=seed)
    return found.outcome()


def _bisectors(model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Outcome:
    assert isinstance(model, Classifier)
    return bisector_search(model, x, y, steps=20, rivals=9).outcome()


def _certified(run: Subject, model: Classifier, lipschitz: float) -> tuple[Tensor, Tensor]:
    """(n,) classes that the float32 model predicts, and (n,) radii of the float64 features' decision."""
    exact = copy.deepcopy(model).double()
    found = {}
    with torch.no_grad():
        batches = torch.split(torch.arange(len(run.test), device=run.device), run.batch_size)
        for number, indices in ranks.dealt(batches):
            pixels = run.test.float(indices)
            predicted = model(pixels).argmax(1)
            features = exact.features(pixels.double())
            if not bool(torch.isfinite(features).all()):
                raise CorralError("the model's features are not finite on the test images; train it again")
            same = exact.logits_from(features).argmax(1) == predicted
            radii = torch.where(same, head_radius(exact.head, features, lipschitz=lipschitz), 0.0)
            found[number] = predicted.cpu(), radii.cpu()
    predictions, all_radii = (torch.cat(column).to(run.device) for column in zip(*ranks.merged(found), strict=True))
    return predictions, all_radii


def _distances(outcome: Attacked, images: Images) -> Tensor:
    """(n,) float64 distances of the misclassified images that an attack found, infinite where it found none."""
    indices = torch.arange(len(images), device=images.device)
    moved = outcome.x_adv.double() - images.float(indices).double()
    return torch.where(outcome.correct, torch.inf, l2_norms(moved))


def _radii(radii: Sequence[float | str]) -> list[float]:
    """Radii as numbers, in order and each once; UsageError for none, or one that is not finite and at least 0."""
    try:
        found = sorted({parse_eps(radius, "L2") for radius in radii})
    except ValueError as error:
        raise UsageError(str(error).replace("eps", "a radius", 1)) from None
    if not found:
        raise UsageError("radii must be one or more, found none")
    # A number of this size is of 256 levels: whoever means it can still write it as a fraction.
    for radius, value in ((radius, parse_eps(radius, "L2")) for radius in radii):
        if value > MOST_RADIUS and "/" not in str(radius):
            raise UsageError(
                f"a radius of {radius} is in units of pixels in [0, 1]; did you mean {radius}/255? Write {value:g} as "
                f"{255 * value:g}/255 if not"
            )
    return found


def _check_radii(radii: Sequence[float], shape: Sequence[int]) -> None:
    try:
        check_inside(max(radii), "L2", shape, "a radius of")
    except ValueError as error:
        raise UsageError(str(error)) from None
