"""The loss that an adaptive attack climbs is the one that the method trains on, term by term, for every method."""

import re
import types

import pytest
import torch
import torch.nn.functional as F

from corral.attacks.centred import CROSS_ENTROPY
from corral.attacks.objectives import prepare
from corral.errors import UsageError
from corral.losses import magnet, magnet_published, nearest_own
from corral.models import LinearHead
from corral.training import load_recipe
from corral.training.features import SharedFeatures
from corral.training.methods import METHODS, Method, MethodOptions, clustr, global_centroids, method_class, nuat
from corral.training.methods.acl import Acl
from corral.training.methods.advcl import AdvCL
from corral.training.methods.at import AdversarialTraining
from corral.training.methods.base import LabelMethod
from corral.training.methods.certified import Certified
from corral.training.methods.clustr import ClusTR
from corral.training.methods.corral import Corral
from corral.training.methods.deacl import DeACL
from corral.training.methods.fitted import FittedClusters
from corral.training.methods.free_at import FreeAdversarialTraining
from corral.training.methods.global_centroids import GlobalCentroids
from corral.training.methods.ikl import ImprovedKL, image_weights
from corral.training.methods.linear import LinearEvaluation
from corral.training.methods.mart import Mart
from corral.training.methods.mat import Mat
from corral.training.methods.mmc import Mmc
from corral.training.methods.ncp_acl import NcpAcl
from corral.training.methods.nominal import Nominal
from corral.training.methods.nuat import NuclearNormTraining
from corral.training.methods.pseudo_labelled import PseudoLabelled
from corral.training.methods.rocl import RoCL
from corral.training.methods.simclr import SimCLR
from corral.training.methods.trades import Trades

ENCODERS = (SimCLR, DeACL, NcpAcl, Acl, RoCL, AdvCL, PseudoLabelled)
# Hinges of Magnet that nothing closes, and batches whose size a summed consistency is weighed by.
OPEN = {"alpha": 200.0, "clusters_per_batch": 6, "samples_per_cluster": 4}
QTRADES = OPEN | {"consistency": "cross_entropy", "consistency_weight": 8.0}
# One cluster a class has members enough to fill its place in a batch.
SUMMED = QTRADES | {"clusters": 1, "consistency": "kl", "consistency_reduction": "sum"}
RELEASED = {"numerics": "published", "alpha": 1.0, "nearest": 7}
HEAD = {"adversary": "head", "temperature_learning_rate": 0.0}
# Recipes with their changes for each method that trains a classifier: every kind of term that it can have.
CASES = {
    Nominal: {"nominal": ("nominal", {})},
    AdversarialTraining: {"at": ("at", {}), "fast-at": ("fast-at", {})},
    FreeAdversarialTraining: {"free-at": ("free-at", {})},
    LinearEvaluation: {name: (name, {}) for name in ("slf", "alf")},
    Trades: {
        "trades": ("trades", {}),
        "qtrades": ("qtrades", {"consistency_weight": 2.5}),
        "unlogged": ("qtrades-published", {}),
    },
    Mart: {"mart": ("mart", {})},
    ImprovedKL: {"ikl": ("ikl", {}), "no squares": ("ikl", {"mse_weight": 0.0})},
    NuclearNormTraining: {"nuat": ("nuat", {"ramp": 0.0})},
    ClusTR: {
        "magnet": ("magnet", OPEN),
        "qtrades": ("clustr", QTRADES),
        "qtrades, epoch": ("clustr", QTRADES | {"centroids": "epoch"}),
        "kl, summed": ("clustr", SUMMED),
        "mse, ce": ("clustr", QTRADES | {"consistency": "mse", "cross_entropy_weight": 2.0}),
        "mse of features": ("clustr", QTRADES | {"consistency": "features_mse"}),
        "ce": ("clustr", OPEN | {"cross_entropy_weight": 2.0}),
        "adv": ("clustr", QTRADES | {"consistency": "magnet", "consistency_weight": 3.0}),
        "released magnet": ("clustr", OPEN | RELEASED),
        "released": ("clustr", QTRADES | RELEASED | {"cross_entropy_weight": 2.0}),
        "released scores": ("clustr", QTRADES | {"numerics": "published_log_loss", "nearest": 7}),
        "log scores": ("clustr", QTRADES | RELEASED | {"numerics": "published_log_scores", "consistency": "kl"}),
    },
    Corral: {
        "C'": ("corral", {}),
        "temperature": ("corral", {"temperature": 0.5, "rule": "nearest"}),
        "learned": ("corral", HEAD | {"centroids": "learned"}),
        "pull": ("corral", HEAD | {"centroids": "learned", "pull": 0.1}),
        "magnet": ("corral", HEAD | {"loss": "magnet", "centroids": "adversarial_batch", "alpha": 200.0}),
        "magnet, pull": ("corral", {"loss": "magnet", "temperature_learning_rate": 0.0, "alpha": 200.0, "pull": 0.3}),
    },
    GlobalCentroids: {
        "global": ("global-centroids", {}),
        "twins": ("global-centroids", {"clusters": "twins"}),
        "nuclear": ("global-centroids", {"nuclear_weight": 0.7}),
    },
    Certified: {
        "certified": ("certified", {}),
        "annealed": ("certified", {"annealing": 2.0, "radius_ratio": 0.5, "clusters": 2}),
    },
    Mat: {
        "mat": ("mat", {"so_weight": 3.0, "bibo_weight": 0.5}),
        "ftc": ("mat-ftc", {}),
        "so": ("mat-so", {}),
        "adversarial": ("mat", {"adversarial": True}),
    },
    Mmc: {"mmc": ("mmc", {}), "adversarial": ("at-mmc", {})},
}
# A head that is fitted, not trained.
UNTRAINED = (FittedClusters,)
NAMED = [(kind, case) for kind, cases in CASES.items() for case in cases]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_cases_here_or_is_an_encoder(name):
    found = METHODS[name]
    assert sum(issubclass(found, kind) for kind in CASES) + issubclass(found, UNTRAINED) == (
        0 if issubclass(found, ENCODERS) else 1
    )
    for kind in CASES:
        if issubclass(found, kind):
            # Of its own, or explicitly that of labels: not the base's, which is an error.
            assert issubclass(found, LabelMethod) or "training_objective" in vars(kind)
            assert "training_objective" not in vars(found) or found is kind


@pytest.mark.parametrize("kind", CASES)
def test_the_cases_of_a_method_are_of_recipes_that_train_by_it(kind):
    for recipe, _ in CASES[kind].values():
        assert issubclass(method_class(load_recipe(recipe).method), kind)


def the_run(begun, kind, case):
    """A run, its method and its options; heads on an encoder's features are begun by hand."""
    recipe, changes = CASES[kind][case]
    if kind is not LinearEvaluation:
        run = begun(recipe, **({"model.features": 12} | changes))  # centres need a dimension less than classes
        return run, run.method, run.recipe.method
    run = begun("nominal")
    found = METHODS[recipe]
    given = found.Options(name=recipe)
    return run, found(run.method.context, given), given


def heads_clusters(monkeypatch, run, method, y):
    """Give training the head's clusters, which an attacked image has, in the place of the batch's own."""
    head = run.model.head
    if hasattr(method, "batch_clusters"):
        monkeypatch.setattr(method, "batch_clusters", lambda features, assigned: (head.centroids, head.variance))

    def against_head(loss):
        def found(features, local, classes, *, alpha):
            assigned = nearest_own(features, y, head.centroids, head.classes)
            return loss(features, assigned, head.centroids, head.classes, alpha=alpha, variance=head.variance)

        return found

    # What training has of a class or of a batch, an attack has of the image alone.
    if isinstance(method, ImprovedKL):
        temperature = method.options.temperature
        monkeypatch.setattr(method, "weights_of", lambda logits, y: image_weights(logits, temperature))
    whole = nuat.nuclear_norm
    for where in (nuat, global_centroids):
        monkeypatch.setattr(where, "nuclear_norm", lambda residuals: sum(whole(row) for row in residuals.split(1)))
    monkeypatch.setattr(clustr, "magnet_batch", against_head(magnet))
    monkeypatch.setattr(clustr, "magnet_batch_published", against_head(magnet_published))


def alphas(options):
    """How much of the loss is Magnet's constant alpha, which the attack leaves out with the hinge in log space."""
    if isinstance(options, ClusTR.Options) and options.log_loss:
        return options.alpha * (1 + (options.consistency_weight if options.consistency == "magnet" else 0))
    return options.alpha if isinstance(options, Corral.Options) and options.loss == "magnet" else 0.0


def trains_on_adversarial(options):
    """Whether the terms of one image are the adversarial one's in training too."""
    always = isinstance(
        options, AdversarialTraining.Options | Corral.Options | GlobalCentroids.Options | Mart.Options
    ) or getattr(options, "adversarial", False)
    return always or options.name == "alf"


@pytest.mark.parametrize(("kind", "case"), NAMED, ids=[f"{kind.__name__}: {case}" for kind, case in NAMED])
def test_the_attack_climbs_the_methods_own_loss_of_the_adversarial_image(begun, monkeypatch, kind, case):
    """loss() is made to see x_adv: as the clean image for the terms of one image, as the adversary's for the others."""
    run, method, options = the_run(begun, kind, case)
    run.model.eval()
    rows = next(iter(method.batches())) if kind is ClusTR else torch.arange(24)
    x, y = run.images.float(rows), run.images.labels[rows]
    # Far from x, and a head that is sure of itself, so that no term is lost in rounding.
    x_adv = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(3))]
    if isinstance(run.model.head, LinearHead):
        with torch.no_grad():
            run.model.head.linear.weight.mul_(30)
    heads_clusters(monkeypatch, run, method, y)
    for name in ("adversarial", "one_step"):
        monkeypatch.setattr(method, name, lambda *given, **more: x_adv, raising=name == "adversarial")
    if hasattr(method, "assignments"):
        head = run.model.head
        method.assignments[rows] = nearest_own(run.model.features(x_adv), y, head.centroids, head.classes)
    without = {"consistency_weight": 0.0, "bibo_weight": 0.0, "mse_weight": 0.0, "nuclear_weight": 0.0}
    lone = options.model_copy(update={name: value for name, value in without.items() if hasattr(options, name)})

    def loss(clean, settings):
        method.options = settings
        if kind is LinearEvaluation:
            method.kept = SharedFeatures(run.model, run.images) if settings.name == "slf" else None
            if settings.name == "slf":
                method.kept.block[rows] = run.model.features(clean).detach()
        return float(method.loss(clean, y, rows)[0].detach())

    # Terms of one image at x_adv, and those that compare x with x_adv.
    labelled, compared = loss(x_adv, lone), loss(x, options) - loss(x, lone)
    expected = labelled + compared - alphas(options)
    tolerance = 2e-5 * max(1.0, abs(expected))
    # What takes a term of the wrong image is noticed; training that sees adversarial images alone has one kind.
    for apart, there in ((labelled - loss(x, lone), not trains_on_adversarial(options)), (compared, lone != options)):
        assert (abs(apart) > 20 * tolerance) == there
    training = kind.training_objective(options, run.recipe.threat)
    with torch.no_grad():
        values, logits = prepare(training.objective, run.model, x, y)(x_adv, torch.arange(len(x)))
        assert torch.equal(logits, run.model(x_adv))
        at_clean, _ = prepare(training.objective, run.model, x, y)(x, torch.arange(len(x)))
    if alphas(options):
        assert float(values.min()) > -options.alpha  # no hinge is closed
    assert float(values.mean()) == pytest.approx(expected, rel=0, abs=tolerance)
    assert not torch.allclose(values, at_clean)


def test_a_batch_of_clustr_has_the_size_that_its_sum_is_weighed_by(begun):
    run = begun("clustr", **SUMMED)
    assert len(next(iter(run.method.batches()))) == 24


def test_trades_is_cross_entropy_and_six_times_the_divergence_of_the_adversarial_image(begun):
    run = begun("trades")
    run.model.eval()
    x, y = run.images.float(torch.arange(10)), run.images.labels[:10]
    x_adv = (x + 0.2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    training = method_class(run.recipe.method).training_objective(run.recipe.method, run.recipe.threat)
    with torch.no_grad():
        rows = torch.tensor([7, 2, 5])
        values, _ = prepare(training.objective, run.model, x, y)(x_adv[rows], rows)
        p, q = run.model(x).double().softmax(1), run.model(x_adv).double().softmax(1)
    expected = []
    for i in rows.tolist():
        divergence = sum(p[i, c] * (p[i, c] / q[i, c]).log() for c in range(10))
        expected.append(float(-q[i, y[i]].log() + 6 * divergence))
    assert values.tolist() == pytest.approx(expected, rel=1e-4)
    assert dict(training.weights) == {"consistency": "kl", "consistency_weight": 6.0}


def test_clustr_adds_its_consistency_and_its_cross_entropy_to_magnet_by_hand(begun):
    run = begun("clustr-ce-qtrades", cross_entropy_weight=0.5)
    run.model.eval()
    head, options = run.model.head, run.recipe.method
    assert options.consistency == "cross_entropy"
    x, y = run.images.float(torch.arange(12)), run.images.labels[:12]
    x_adv = (x + 0.2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    training = method_class(options).training_objective(options, run.recipe.threat)
    with torch.no_grad():
        values, _ = prepare(training.objective, run.model, x, y)(x_adv, torch.arange(12))
        clean, moved = run.model(x).double(), run.model(x_adv).double()
        features = run.model.features(x_adv).double()
    expected = []
    for i, label in enumerate(y.tolist()):
        scaled = ((features[i] - head.centroids.double()) ** 2).sum(1) / (2 * head.variance.double())
        own = head.classes == label
        first = scaled[own].min() + (-scaled[~own]).exp().sum().log()
        answers = moved[i].log_softmax(0)
        second = -(clean[i].softmax(0) * answers).sum()
        expected.append(float(first + options.consistency_weight * second - 0.5 * answers[label]))
    assert values.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3)
    weights = dict(training.weights)
    assert (weights["consistency_weight"], weights["cross_entropy_weight"]) == (options.consistency_weight, 0.5)


@pytest.mark.parametrize("name", [name for name in METHODS if issubclass(METHODS[name], ENCODERS)])
def test_an_encoder_has_no_loss_that_a_classifier_could_be_attacked_by(name):
    with pytest.raises(UsageError, match=rf"method '{re.escape(name)}' trains an encoder without a head.*--fit-heads"):
        METHODS[name].training_objective(types.SimpleNamespace(name=name), None)


def test_a_head_that_was_fitted_is_attacked_by_the_cross_entropy_of_its_logits():
    found = METHODS["soft"].training_objective(FittedClusters.Options(name="soft"), None)
    assert found == CROSS_ENTROPY


def test_a_method_that_nobody_knows_or_that_says_nothing_is_an_error_not_cross_entropy(begun):
    with pytest.raises(UsageError, match=r"unknown method 'other'; known: .*nominal"):
        method_class(MethodOptions(name="other"))
    with pytest.raises(UsageError, match="method 'at' has other options than MethodOptions"):
        method_class(MethodOptions(name="at"))

    class Other(Method):
        def loss(self, x, y, rows):
            return F.cross_entropy(self.model(x), y), {}

    with pytest.raises(UsageError, match=r"method 'other' says nothing of the loss.*training_objective\(\) on Other"):
        Other.training_objective(MethodOptions(name="other"), begun("nominal").recipe.threat)
