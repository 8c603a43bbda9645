"""Centroids of the whole training set: the simplex by an independent Procrustes, the running means by a slow twin."""

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes

import corral
from corral.attacks.objectives import prepare
from corral.errors import UsageError
from corral.geometry import fitted_simplex, max_mahalanobis_centres, turned_simplex
from corral.models import ClusterHead
from corral.models.heads import HEADS
from corral.training.features import extract_features
from corral.training.start import prepare_data


@pytest.mark.parametrize(("classes", "dimension"), [(2, 1), (3, 2), (4, 9), (10, 9), (10, 40)])
def test_the_simplex_is_the_nearest_of_all_turned_and_scaled_ones(classes, dimension):
    torch.manual_seed(classes)
    points = torch.randn(classes, dimension, dtype=torch.float64) + 3
    found, radius = fitted_simplex(points)
    standard = max_mahalanobis_centres(classes, dimension).double().numpy()
    centred = (points - points.mean(0)).numpy()
    turn, scale = orthogonal_procrustes(standard, centred)
    expected = points.mean(0).numpy() + scale / classes * standard @ turn
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)  # the centres are float32
    assert float(radius) == pytest.approx(scale / classes, abs=1e-6)
    best = float((found - points).square().sum())
    for seed in range(200):
        generator = np.random.default_rng(seed)
        turned = np.linalg.qr(generator.normal(size=(dimension, dimension)))[0]
        other = points.mean(0).numpy() + generator.uniform(0, 3) * standard @ turned
        assert best <= ((other - points.numpy()) ** 2).sum() + 1e-9


def test_points_on_a_simplex_are_their_own():
    points = 2.5 * max_mahalanobis_centres(5, 7) @ torch.linalg.qr(torch.randn(7, 7))[0] + 1
    found, radius = fitted_simplex(points)
    torch.testing.assert_close(found, points, atol=1e-5, rtol=1e-5)
    assert float(radius) == pytest.approx(2.5, abs=1e-4)


@pytest.mark.parametrize("clusters", ["clean", "twins"])
def test_the_means_are_those_of_a_twin_over_images(begun, clusters):
    run = begun(
        "global-centroids",
        **{
            "model.features": 16,
            "method.clusters": clusters,
            "method.momentum": 0.75,
            "method.shrinkage": 0.25,
            "method.length": 0.0,
        },
    )
    method, indices = run.method, torch.arange(30)
    x, y = run._batch(indices)
    clean, adversarial = method.clean_means.double(), method.adversarial_means.double()
    torch.testing.assert_close(clean, adversarial)
    images = run.images
    features = extract_features(run.model, images).double()
    for label in range(10):
        torch.testing.assert_close(clean[label], features[images.labels == label].mean(0), rtol=1e-4, atol=1e-5)
    made, original = [], type(method).adversarial
    type(method).adversarial = lambda self, *a: (made.append(original(self, *a)), made[-1])[1]
    try:
        method.loss(x, y, indices)
    finally:
        type(method).adversarial = original
    run.model.eval()
    seen = run.model.features(x).detach().double()
    run.model.train()
    moved = run.method.seen[1].double()
    method.after_step()
    for label in range(10):
        mine = y == label
        if not mine.any():
            continue
        torch.testing.assert_close(
            method.clean_means[label].double(), 0.75 * clean[label] + 0.25 * seen[mine].mean(0), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            method.adversarial_means[label].double(), 0.75 * adversarial[label] + 0.25 * moved[mine].mean(0),
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip
    vertices, radius = fitted_simplex(method.clean_means)
    expected = 0.75 * method.clean_means + 0.25 * vertices
    torch.testing.assert_close(run.model.head.centroids[:: method.clusters], expected)
    assert run.model.head.centroids.shape[0] == (20 if clusters == "twins" else 10)
    assert float(run.model.head.variance) == pytest.approx(float(radius) ** 2, rel=1e-5)
    assert run.model.head.classes.tolist() == [label for label in range(10) for _ in range(method.clusters)]


def test_logits_do_not_see_the_scale_of_the_features(begun):
    run = begun("global-centroids", **{"model.features": 16, "method.length": 0.0})
    method, head = run.method, run.model.head
    features = torch.randn(20, 16)
    before = head(features).log_softmax(1)
    method._place(100 * method.clean_means, method.adversarial_means)
    torch.testing.assert_close(head(100 * features).log_softmax(1), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("more", [{}, {"training.weight_averaging": 0.9}, {"method.consistency_weight": 6.0}])
def test_a_saved_network_has_the_means_of_its_own_features(tiny, more):
    run = tiny("global-centroids", **{"method.shrinkage": 0.0, "method.length": 0.0, **more})
    images = prepare_data(run.recipe, root=None, data=corral.data.load("digits"))[1]
    features = extract_features(run.model, images)
    for label in range(10):
        torch.testing.assert_close(
            run.model.head.centroids[label], features[images.labels == label].mean(0), rtol=1e-4, atol=1e-4
        )


def test_a_run_that_was_cut_short_ends_with_the_bits_of_one_that_was_not(tiny, killed):
    more = {
        "training.warm_start.epochs": 0, "method.clusters": "twins", "training.weight_averaging": 0.9,
        "training.class_targets": 0.2, "method.consistency_weight": 1.0,
    }  # fmt: skip
    whole = tiny("global-centroids", out="whole", **more).model.state_dict()
    with killed():
        tiny("global-centroids", out="cut", **more)
    resumed = tiny("global-centroids", out="cut", resume=True, **more).model.state_dict()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_too_few_features_for_a_simplex_are_refused(tiny):
    with pytest.raises(UsageError, match="needs 9 features or more"):
        tiny("global-centroids", **{"model.features": 8})


def test_class_targets_are_the_mean_predictions_of_the_classes(begun):
    run = begun("at", **{"training.class_targets": 0.25, "training.label_smoothing": 0.1, "training.epochs": 1})
    y = torch.tensor([3, 0])
    smoothed = torch.nn.functional.one_hot(y, 10) * 0.9 + 0.01
    torch.testing.assert_close(run.method.targets(y), smoothed)  # as long as nothing was measured
    run.epoch = run.total_epochs - 1
    from corral.training.ingredients.soft_labels import class_predictions

    found = class_predictions(run.model, run.images, 10)
    run.model.eval()
    for label in (0, 3):
        mine = run.images.float(torch.nonzero(run.images.labels == label)[:, 0])
        torch.testing.assert_close(found[label], run.model(mine).softmax(1).mean(0))
    run.context.soft.class_means = found
    expected = 0.9 * (0.75 * torch.nn.functional.one_hot(y, 10) + 0.25 * found[y]) + 0.01
    torch.testing.assert_close(run.method.targets(y), expected)


def test_the_simplex_head_decides_by_the_nearest_vertex_and_trains_its_scale(tiny):
    run = tiny("at", **{"model.head": {"name": "simplex", "scale": 3.0}})
    head = run.model.head
    assert type(head) is ClusterHead
    torch.testing.assert_close(head.centroids, turned_simplex(10, head.features_dim))
    features = torch.randn(50, head.features_dim)
    scale = float(1 / head.effective_variance)
    assert scale != pytest.approx(3.0, abs=1e-4)
    expected = (scale * features @ head.centroids.T).log_softmax(1)
    torch.testing.assert_close(head(features).log_softmax(1), expected, rtol=1e-4, atol=1e-4)
    nearest = torch.cdist(features, head.centroids).argmin(1)
    assert torch.equal(head(features).argmax(1), nearest)
    assert bool((head.certified_radius(features) >= 0).all())


def test_a_cosine_head_on_a_simplex_keeps_it_and_trains_its_scale(tiny):
    run = tiny("at", **{"model.head": {"name": "cosine", "fixed": True, "trained_scale": True}})
    head = run.model.head
    torch.testing.assert_close(head.centroids, turned_simplex(10, head.features_dim))
    features = torch.randn(20, head.features_dim)
    cosines = torch.nn.functional.normalize(features) @ head.centroids.T
    torch.testing.assert_close(head(features), head.log_scale.exp() * cosines)
    assert float(head.log_scale.detach().exp()) != 10.0
    with pytest.raises(ValueError, match="one a class"):
        HEADS["cosine"](16, 10, fixed=True, clusters_per_class=2)


def test_the_attack_on_its_consistency_climbs_both_terms_by_hand(begun):
    run = begun("global-centroids", **{"model.features": 12, "method.consistency_weight": 5.0})
    run.model.eval()
    x, y = run.images.float(torch.arange(10)), run.images.labels[:10]
    x_adv = (x + 0.2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    training = type(run.method).training_objective(run.recipe.method, run.recipe.threat)
    with torch.no_grad():
        values, _ = prepare(training.objective, run.model, x, y)(x_adv, torch.arange(10))
        p, q = run.model(x).double().softmax(1), run.model(x_adv).double().softmax(1)
    expected = -q[torch.arange(10), y].log() + 5 * (p * (p / q).log()).sum(1)
    torch.testing.assert_close(values.double(), expected, rtol=1e-4, atol=1e-5)
    assert dict(training.weights) == {"consistency_weight": 5.0, "nuclear_weight": 0.0}


def test_the_nuclear_term_is_the_sum_of_the_residuals_singular_values(begun):
    run = begun("global-centroids", **{"model.features": 12, "method.nuclear_weight": 0.7})
    method, rows = run.method, torch.arange(20)
    x, y = run._batch(rows)
    made = x + 0.01
    method.adversarial = lambda *_: made
    run.model.eval()
    loss, _ = method.loss(x, y, rows)
    head, features = run.model.head, run.model.features(made).detach()
    residuals = (features - head.centroids[y]) / head.variance.sqrt()
    values = np.linalg.svd(residuals.double().numpy(), compute_uv=False)
    expected = torch.nn.functional.cross_entropy(head(features), y) + 0.7 * float(values.sum()) / 20
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("classes", "dimension"), [(2, 1), (10, 9), (10, 64), (100, 512)])
def test_a_turned_simplex_is_regular_and_uses_every_coordinate(classes, dimension):
    found = turned_simplex(classes, dimension)
    expected = torch.full((classes, classes), -1 / (classes - 1)).fill_diagonal_(1)
    torch.testing.assert_close(found @ found.T, expected, atol=1e-5, rtol=0)
    assert bool((found.abs().amax(0) > 0).all())
    assert torch.equal(found, turned_simplex(classes, dimension))


@pytest.mark.parametrize("length", [0.0, 2.0])
@pytest.mark.parametrize("clusters", ["clean", "twins"])
def test_moving_all_features_changes_no_loss_and_has_no_gradient(begun, length, clusters):
    more = {"method.length": length, "method.clusters": clusters, "method.shrinkage": 0.3}
    run = begun("global-centroids", **{"model.features": 12, **more})
    method, y = run.method, torch.arange(40) % 10
    torch.manual_seed(0)
    clean, moved = (torch.randn(40, 12, requires_grad=True) for _ in range(2))
    head = method._with_gradient(clean, moved, y)
    torch.testing.assert_close(head.centroids, run.model.head.centroids)  # the running means, to the value
    torch.nn.functional.cross_entropy(head(moved), y).backward()
    together = clean.grad.sum(0) + moved.grad.sum(0)
    assert float(together.norm()) < 1e-4 * float(moved.grad.sum(0).norm())


def test_a_length_puts_the_centroids_at_that_distance(begun):
    run = begun("global-centroids", **{"model.features": 12, "method.length": 2.0, "method.shrinkage": 1.0})
    head, means = run.model.head, run.method.clean_means
    torch.testing.assert_close((head.centroids - means.mean(0)).norm(dim=1), torch.full((10,), 2.0))
    assert float(head.variance) == pytest.approx(4.0)
    direction = (fitted_simplex(means)[0] - means.mean(0)).sign()
    assert torch.equal((head.centroids - means.mean(0)).sign(), direction)
