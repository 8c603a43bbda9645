"""MAT and MMC against slow twins, their centres as a head, and what they refuse."""

import numpy as np
import pytest
import torch

from corral.attacks import pgd
from corral.errors import UsageError
from corral.geometry import max_mahalanobis_centres
from corral.models import ClusterHead, FeaturesHead
from corral.training import Run, Training, load_recipe, read_metrics, train

SMALL = {"data.train": 300, "model.width": 4, "model.features": 12}


def started(recipe, tmp_path, **settings):
    run = Training(
        load_recipe(recipe, overrides=SMALL | settings),
        Run(tmp_path / "run"),
        torch.device("cpu"),
        progress=False,
    )
    run.begin(resume=False)
    run.model.train()
    return run


def batch(run, count=20):
    rows = torch.arange(count)
    return run.images.float(rows), run.images.labels[rows], rows


def cosine(a, b):
    return (a @ b) / (a.norm() * b.norm())


def noise_like(run):
    return torch.Generator().set_state(run.noise.get_state())


def attacked(run, x, y, generator, objective):
    """PGD of the recipe's inner adversary on the features, as the method should run it."""
    inner, eps = run.recipe.method.inner, run.recipe.threat.eps
    return pgd(
        run.model.with_head(FeaturesHead(run.model.features_dim)),
        x,
        y,
        eps=eps,
        steps=inner.steps,
        step_size=inner.step_ratio * eps,
        objective=objective,
        generator=generator,
        keep="last",
        mode=inner.mode,
    )


def cosine_distances(a, b):
    return torch.stack([1 - cosine(left, right) for left, right in zip(a, b, strict=True)])


@pytest.mark.parametrize("so_weight", [0.0, 0.7])
@pytest.mark.parametrize("bibo_weight", [0.0, 2.5])
@pytest.mark.parametrize("adversarial", [False, True])
def test_mat_s_loss_is_that_of_equation_9(tmp_path, so_weight, bibo_weight, adversarial):
    run = started(
        "mat",
        tmp_path,
        **{"method.so_weight": so_weight, "method.bibo_weight": bibo_weight, "method.adversarial": adversarial},
    )
    x, y, rows = batch(run)
    centres = max_mahalanobis_centres(10, 12)
    generator = noise_like(run)
    other = aimed = x
    if bibo_weight > 0:
        with torch.no_grad():
            run.model.eval()
            clean = run.model.features(x)
            run.model.train()
        other = attacked(run, x, y, generator, lambda f, _: cosine_distances(clean, f))
    if adversarial:
        aimed = attacked(run, x, y, generator, lambda f, labels: cosine_distances(f, centres[labels]))
    features = run.model.features(aimed)
    total = 0.0
    for f, label in zip(features, y.tolist(), strict=True):
        feature = f.detach().requires_grad_(True)
        distance = 1 - cosine(feature, centres[label])
        (gradient,) = torch.autograd.grad(distance, feature)
        total += float(distance.detach() + so_weight * gradient.norm()) / len(y)
    if bibo_weight > 0:
        total += bibo_weight * float(cosine_distances(run.model.features(x), run.model.features(other)).mean().detach())
    loss, _ = run.method.loss(x, y, rows)
    assert float(loss.detach()) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("recipe", ["mmc", "at-mmc"])
def test_mmc_s_loss_is_that_of_equation_2(tmp_path, recipe):
    run = started(recipe, tmp_path)
    x, y, rows = batch(run)
    centres = max_mahalanobis_centres(10, 12, length=10.0)

    def half_squares(features, labels):
        return torch.stack([((f - centres[label]) ** 2).sum() / 2 for f, label in zip(features, labels, strict=True)])

    aimed = attacked(run, x, y, noise_like(run), half_squares) if recipe == "at-mmc" else x
    expected = half_squares(run.model.features(aimed), y).mean()
    loss, _ = run.method.loss(x, y, rows)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "attacks"), [("mat-so", 0), ("mat-ftc", 0), ("mmc", 0), ("mat-bibo", 1), ("mat", 1), ("at-mmc", 1)]
)
def test_as_many_attacks_as_the_loss_has_maxima(tmp_path, monkeypatch, recipe, attacks):
    run, made = started(recipe, tmp_path), []
    search = run.method.adversarial
    monkeypatch.setattr(run.method, "adversarial", lambda *given: (made.append(given), search(*given))[1])
    run.method.loss(*batch(run))
    assert len(made) == attacks


def test_the_largest_logit_is_the_largest_cosine_and_the_nearest_centre(tmp_path):
    """MAT Eqs. 5 and 11."""
    run = started("mat", tmp_path, **{"method.centres.length": 3.0})
    head = run.model.head
    assert isinstance(head, ClusterHead)
    features = 5 * torch.randn(400, 12, generator=torch.Generator().manual_seed(0))
    decided = head(features).argmax(1)
    cosines = torch.stack([torch.stack([cosine(f, mu) for mu in head.centroids]) for f in features])
    assert torch.equal(decided, cosines.argmax(1))
    assert torch.equal(decided, torch.cdist(features.double(), head.centroids.double()).argmin(1))


def test_logits_differ_from_inner_products_by_a_constant_alone(tmp_path):
    """Sec. 3.3: a plain linear layer of the centres, without bias, stands in."""
    run = started("mat", tmp_path)
    features = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    difference = run.model.head(features) - features @ run.model.head.centroids.T
    torch.testing.assert_close(difference, difference[:, :1].expand(-1, 10), rtol=0, atol=1e-5)


def test_centres_stay_where_they_are(tmp_path):
    run = started("mat", tmp_path, **{"training.epochs": 1})
    before = run.model.head.centroids.clone()
    run.execute()
    assert torch.equal(run.model.head.centroids, before)


def test_too_few_features_are_refused_before_training(tmp_path):
    with pytest.raises(UsageError, match=r"method.centres.placing 'simplex': 10 classes need at least 9 dimensions"):
        started("mat", tmp_path, **{"model.features": 5})
    run = started("mat", tmp_path / "packed", **{"model.features": 5, "method.centres.placing": "packed"})
    assert run.model.head.centroids.shape == (10, 5)


@pytest.mark.parametrize("name", ["mmc", "at-mmc"])
def test_on_cifar10_s_network_the_rate_is_one_that_the_centre_loss_bears(name, tmp_path):
    """Squared distances to centres of length 10 are steep: at 0.1 the loss is not finite after five steps."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (256, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(256) % 10
    sets = {"train_images": images, "train_labels": labels, "test_images": images[:20], "test_labels": labels[:20]}
    np.savez(tmp_path / "images.npz", **sets)
    settings = {
        "data.validation": 0,
        "data.crop": 0,
        "data.flip": False,
        "method.inner.steps": 1,
        "training.epochs": 2,
        "training.batch_size": 32,
        "training.schedule": "constant",
        "training.milestones": [],
    }
    recipe = load_recipe(load_recipe(name, data="cifar10"), data=f"npz:{tmp_path / 'images.npz'}", overrides=settings)
    assert (recipe.model.backbone, recipe.model.depth, recipe.model.features) == ("resnet-cifar", 32, 256)
    folder = train(recipe, out=tmp_path / "run", device="cpu", progress=False)
    # Labels of noise are not learned in 16 steps: the best so far is the centres' mean, 0, half of 10^2 from each.
    assert read_metrics(Run(folder).metrics_file)[-1]["loss"] == pytest.approx(50, abs=5)
