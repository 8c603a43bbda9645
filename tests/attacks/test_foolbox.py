"""An independent library at equal budget: corral's PGD leaves no more standing than foolbox's, on real digits."""

import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from corral.attacks import pgd
from corral.geometry import class_kmeans
from corral.models import MLP, Classifier, ClusterHead, LinearHead
from corral.models.heads import feature_variance

with warnings.catch_warnings():
    # foolbox imports a name that scipy has deprecated.
    warnings.filterwarnings("ignore", category=DeprecationWarning, message="Please import")
    foolbox = pytest.importorskip("foolbox")

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
