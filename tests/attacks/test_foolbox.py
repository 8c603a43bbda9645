"""Independent libraries on real digits: corral's attacks are no weaker, and theirs take its classifiers."""

import warnings
from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from corral.attacks import pgd
from corral.attacks.apgd.attack import apgd
from corral.attacks.carlini_wagner import carlini_wagner
from corral.attacks.ddn import ddn
from corral.attacks.deepfool import deepfool
from corral.attacks.fgsm import fgsm
from corral.geometry import class_kmeans
from corral.models import MLP, Classifier, ClusterHead, LinearHead
from corral.models.variance import feature_variance

with warnings.catch_warnings():
    # foolbox imports a name that scipy has deprecated.
    warnings.filterwarnings("ignore", category=DeprecationWarning, message="Please import")
    foolbox = pytest.importorskip("foolbox")

pyautoattack = pytest.importorskip("pyautoattack")

STEPS, RELATIVE_STEP = 20, 0.125
THREATS = {"Linf": 0.08, "L2": 0.45}


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1), torch.tensor(data.target)


@pytest.fixture(scope="module")
def linear(digits):
    """A small perceptron trained in a second."""
    images, labels = digits
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(MLP(64, (64,), 16), LinearHead(16, 10), [0.3], [0.37])
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images[:1200]), labels[:1200]).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def clusters(digits, linear):
    """The same features behind a cluster head."""
    images, labels = digits
    with torch.no_grad():
        features = linear.features(images[:1200])
    found = class_kmeans(features, labels[:1200], 2, num_classes=10, generator=torch.Generator().manual_seed(0))
    variance = feature_variance(features, labels[:1200], found.centroids, found.classes)
    return linear.with_head(ClusterHead(found.centroids, found.classes, variance)).eval()


def foolbox_robust(model, x, y, norm, seeds, *, random_start):
    """Per example, whether foolbox's PGD (cross-entropy, last iterate) fails under every seed."""
    kind = foolbox.attacks.LinfPGD if norm == "Linf" else foolbox.attacks.L2PGD
    attack = kind(rel_stepsize=RELATIVE_STEP, steps=STEPS, random_start=random_start)
    robust = torch.ones(len(x), dtype=torch.bool)
    for seed in range(seeds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
            _, _, success = attack(wrapped, x, y, epsilons=THREATS[norm])
        robust &= ~success
    return robust


def corral_robust(model, x, y, norm, restarts, *, random_start):
    found = pgd(
        model,
        x,
        y,
        eps=THREATS[norm],
        norm=norm,
        steps=STEPS,
        step_size=RELATIVE_STEP * THREATS[norm],
        restarts=restarts,
        random_start=random_start,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        return model(found).argmax(1) == y


@pytest.mark.parametrize("kind", ["linear", "clusters"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_from_the_same_start_corral_breaks_every_image_that_foolbox_breaks(digits, kind, norm, request):
    model = request.getfixturevalue(kind)
    x, y = (part[1200:1500] for part in digits)
    theirs = foolbox_robust(model, x, y, norm, 1, random_start=False)
    ours = corral_robust(model, x, y, norm, 1, random_start=False)
    clean = float((model(x).argmax(1) == y).float().mean())
    assert clean > 0.85
    assert 0.1 < float(theirs.float().mean()) < clean - 0.1  # the attack neither fails nor breaks everything
    assert not bool((ours & ~theirs).any())
    assert float((ours != theirs).float().mean()) <= 0.01  # the same iterates, but any of them counts


@pytest.mark.parametrize("kind", ["linear", "clusters"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_from_random_starts_corral_leaves_no_more_standing_at_equal_budget(digits, kind, norm, request):
    model = request.getfixturevalue(kind)
    x, y = (part[1200:1500] for part in digits)
    theirs = foolbox_robust(model, x, y, norm, 3, random_start=True)
    ours = corral_robust(model, x, y, norm, 3, random_start=True)
    # The starts differ: one image in a hundred may go the other way.
    assert float(ours.float().mean()) <= float(theirs.float().mean()) + 0.01


@pytest.mark.parametrize("kind", ["linear", "clusters"])
def test_classifiers_go_through_foolbox_as_they_are(digits, kind, request):
    model = request.getfixturevalue(kind)
    x, y = (part[1200:1250] for part in digits)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    with torch.no_grad():
        assert torch.equal(wrapped(x), model(x))
        assert foolbox.utils.accuracy(wrapped, x, y) == pytest.approx(float((model(x).argmax(1) == y).float().mean()))


@pytest.mark.parametrize("kind", ["linear", "clusters"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_fgsm_breaks_exactly_the_images_that_foolbox_s_breaks(digits, kind, norm, request):
    model = request.getfixturevalue(kind)
    x, y = (part[1200:1500] for part in digits)
    attack = foolbox.attacks.LinfFastGradientAttack() if norm == "Linf" else foolbox.attacks.L2FastGradientAttack()
    found, _, success = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=THREATS[norm])
    ours = fgsm.outcome(model, x, y, eps=THREATS[norm], norm=norm)
    right = ours.step != 0
    assert torch.equal(ours.broken, success)
    assert torch.allclose(ours.x_adv[right], found[right], atol=1e-5)


FOOLBOX = {
    "ddn": (ddn.outcome, lambda: foolbox.attacks.DDNAttack(steps=100)),
    "deepfool": (deepfool.outcome, foolbox.attacks.L2DeepFoolAttack),
    # The same 9 searches of few steps for both sides, or the test would take minutes.
    "carlini_wagner": (
        partial(carlini_wagner.outcome, steps=40),
        lambda: foolbox.attacks.L2CarliniWagnerAttack(steps=40, abort_early=False, initial_const=0.1),
    ),
}


@pytest.mark.parametrize("kind", ["linear", "clusters"])
@pytest.mark.parametrize("name", FOOLBOX)
def test_minimal_norms_are_no_larger_than_foolbox_s(digits, kind, name, request):
    model = request.getfixturevalue(kind)
    x, y = (part[1200:1216] for part in digits)
    ours, attack = FOOLBOX[name]
    found, _, _ = attack()(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
    with torch.no_grad():
        theirs = (model(found).argmax(1) != y) & (model(x).argmax(1) == y)
    mine = ours(model, x, y)
    assert bool(theirs.any())
    assert not bool((theirs & ~mine.broken).any())
    # Foolbox's DeepFool is the same walk, but clips where corral's goes round the box: 1% to either side.
    slack = 1.01 if name == "deepfool" else 1.0
    assert float(mine.distances[theirs].mean()) <= slack * float((found - x).flatten(1).norm(dim=1)[theirs].mean())


@pytest.mark.slow
def test_a_cluster_classifier_goes_through_the_whole_public_autoattack_as_it_is(digits, clusters):
    x, y = (part[1200:1208] for part in digits)
    attack = pyautoattack.AutoAttack(clusters, norm="Linf", eps=0.1, version="standard", seed=0)
    found, labels = attack.run_standard_evaluation(x, y, batch_size=8)
    with torch.no_grad():
        assert torch.equal(clusters(found).argmax(1), labels)
        clean = clusters(x).argmax(1) == y
    robust = labels == y
    assert float((found - x).abs().max()) <= 0.1 * (1 + 1e-5)
    assert 0 < int(robust.sum()) < int(clean.sum())
    # Two of the four attacks, corral's own, leave no more standing on the same model, images and budget.
    untargeted, targeted = (apgd.outcome(clusters, x, y, eps=0.1, targets=targets) for targets in (0, 9))
    assert int((~untargeted.broken & ~targeted.broken).sum()) <= int(robust.sum())


class TinyNet(nn.Module):
    """A module that knows nothing of corral, in train mode and with frozen weights."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten())
        self.last = nn.Linear(144, 10)

    def forward(self, x):
        return self.last(self.body(x))


def test_corral_s_attacks_take_any_module_and_leave_it_as_it_was(digits):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TinyNet().train().requires_grad_(False)
    x, _ = (part[1200:1216] for part in digits)
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for outcome in (
        fgsm.outcome(model, x, y, eps=0.1),
        apgd.outcome(model, x, y, eps=0.1, steps=10),
        ddn.outcome(model, x, y, steps=20),
        deepfool.outcome(model, x, y),
        carlini_wagner.outcome(model, x, y, steps=20, searches=2),
    ):
        assert bool(outcome.broken.any())
        with torch.no_grad():
            assert torch.equal(model.eval()(outcome.x_adv).argmax(1) != y, outcome.broken)
        model.train()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
