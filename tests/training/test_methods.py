"""Each row of docs/method.md, and each published method, against a slow twin written from that page."""

import inspect
import math
import re
import sys

import pytest
import torch
from tests import oracles
from torch import nn

from corral.attacks import pgd
from corral.checkpoints import read_checkpoint
from corral.models import ClusterHead, FeaturesHead, PublishedHead
from corral.training import Run, Training, load_model, load_recipe
from corral.training.features import extract_features
from corral.training.methods.base import METHODS
from corral.training.methods.clusters import ClusterMethod
from corral.training.methods.clustr import LOGIT_CONSISTENCIES, SCORE_CONSISTENCIES, scored

HEAD = {"adversary": "head", "temperature_learning_rate": 0.0}
ROWS = {
    "A": HEAD | {"loss": "magnet", "centroids": "adversarial_batch"},
    "B": {"loss": "magnet", "temperature_learning_rate": 0.0},
    "C": HEAD,
    "C'": {"temperature_learning_rate": 0.02},
    "C' nearest, temperature": {"temperature": 0.5, "rule": "nearest"},
    "toward the rival": {"clusters": 2, "adversary": "toward"},
    "D": HEAD | {"centroids": "learned"},
    "E": HEAD | {"centroids": "learned", "pull": 0.1},
}


def batch(run, count=40):
    rows = torch.arange(count)
    return run.images.float(rows), run.images.labels[rows], rows


def means_twin(features, assigned, fallback):
    centroids = oracles.cluster_means(features, assigned, len(fallback), fallback)
    return centroids, oracles.cluster_variance(features, assigned, centroids)


def attack(run, head, x, y, objective="cross_entropy"):
    inner, eps = run.recipe.method.inner, run.recipe.threat.eps
    return pgd(
        run.model.with_head(head) if head is not None else run.model,
        x,
        y,
        eps=eps,
        steps=inner.steps,
        step_size=inner.step_ratio * eps,
        objective=objective,
        generator=run.noise,
        keep="last",
        mode=inner.mode,
    )


def toward_rivals_twin(run, centroids, x, y):
    """PGD from each image's nearest own centroid toward the nearest of another class."""
    classes, chosen = run.model.head.classes.tolist(), []
    for feature, label in zip(run.model.features(x).detach(), y.tolist(), strict=True):
        apart = [float(((feature - centroid) ** 2).sum()) for centroid in centroids]
        own = min((k for k in range(len(classes)) if classes[k] == label), key=apart.__getitem__)
        rival = min((k for k in range(len(classes)) if classes[k] != label), key=apart.__getitem__)
        chosen.append((own, rival))

    def value(features, _):
        return torch.stack(
            [
                ((f - centroids[o]) ** 2).sum() - ((f - centroids[r]) ** 2).sum()
                for f, (o, r) in zip(features, chosen, strict=True)
            ]
        )

    return attack(run, FeaturesHead(run.model.features_dim), x, y, value)


def corral_twin(run, x, y, rows):
    """docs/method.md, section 4, rows A to E."""
    config, head = run.recipe.method, run.model.head
    assigned, classes = run.method.assignments[rows], head.classes
    temperature = torch.tensor(config.temperature)
    scale = head.variance
    if config.centroids == "clean_batch":
        centroids, scale = means_twin(run.model.features(x), assigned, head.centroids)
    elif config.centroids == "learned":
        centroids = head.centroids
    if config.adversary == "toward":
        moved = toward_rivals_twin(run, centroids.detach(), x, y)
    else:
        on_batch = config.adversary == "batch"
        moved = attack(run, head.with_centroids(centroids.detach(), scale.detach()) if on_batch else head, x, y)
    features = run.model.features(moved)
    if config.centroids == "adversarial_batch":
        centroids, scale = means_twin(features, assigned, head.centroids)
    if config.centroids == "learned":
        own = [[k for k, c in enumerate(classes.tolist()) if c == label] for label in y.tolist()]
        nearest = [
            min(ks, key=lambda k: float(((f - centroids[k]) ** 2).sum()))
            for f, ks in zip(features.detach(), own, strict=True)
        ]
        assigned = torch.tensor(nearest)
    if config.loss == "magnet":
        losses = oracles.magnet(features, assigned, centroids, classes, alpha=config.alpha, variance=scale)
    else:
        logits = oracles.class_scores(features, centroids, classes, scale * temperature, config.rule)
        losses = -logits.log_softmax(1)[torch.arange(len(y)), y]
    pull = ((features - centroids[assigned]) ** 2).sum(1) / (2 * scale)
    return (losses + config.pull * pull).mean()


def gradients(run, loss):
    parameters = list(run.model.backbone.parameters())
    return torch.cat([g.double().flatten() for g in torch.autograd.grad(loss, parameters)])


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_method_equals_its_slow_twin_in_value_and_gradient(begun, row):
    run = begun("corral", **ROWS[row] | {"method.inner.steps": 2})
    x, y, rows = batch(run)
    state = run.noise.get_state()
    loss, metrics = run.method.loss(x, y, rows)
    run.noise.set_state(state)
    twin = corral_twin(run, x, y, rows)
    assert float(loss.detach()) == pytest.approx(float(twin.detach()), rel=1e-4)
    torch.testing.assert_close(gradients(run, loss), gradients(run, twin), rtol=2e-3, atol=1e-4)
    assert 0 <= float(metrics["adversarial_accuracy"]) <= 1


def test_learned_centroids_and_temperature_get_gradients_only_where_they_are_learned(begun):
    run = begun("corral", **ROWS["D"])
    loss, _ = run.method.loss(*batch(run))
    assert all(float(g.abs().sum()) > 0 for g in torch.autograd.grad(loss, run.method.learned()))
    scaled = begun("corral", **ROWS["C'"])
    ((parameter, rate),) = scaled.method.parameters()
    assert parameter is scaled.model.head.log_temperature
    assert rate == 0.02
    assert scaled.method.learned() == []
    assert scaled.optimiser.param_groups[1]["lr"] == 0.02


def published_magnet_twin(features, assigned, centroids, classes, variance, alpha):
    distances = ((features.double()[:, None] - centroids.double()) ** 2).sum(2) / (2 * variance.double())
    own = (-distances[torch.arange(len(features)), assigned] - alpha).exp()
    rivals = ((-distances).exp() * (classes[assigned][:, None] != classes)).sum(1)
    return (-(own / (rivals + 1e-8) + 1e-8).log()).clamp(min=0)


def consistency_twin(kind, numerics, head, features, adversarial):
    """(n,) docs/method.md, section 3, by the letter; in the released numerics p is Eq. 4, q the softmax of scores."""
    if kind == "features_mse":
        return ((features - adversarial) ** 2).mean(1)
    scores, others = head(features), head(adversarial)
    if numerics in LOG_SCORES:
        p, q = scores.softmax(1), others.softmax(1)
    else:
        p, q = scores / scores.sum(1, keepdim=True), others.softmax(1)
    if kind == "mse":
        return ((p - (q if numerics in LOG_SCORES else others / others.sum(1, keepdim=True))) ** 2).mean(1)
    own = sum(torch.where(p > 0, p * p.clamp_min(1e-30).log(), 0 * p).unbind(1)) if kind == "kl" else 0
    return own - sum((p * q.log()).unbind(1))


class Features(nn.Module):
    """The model's features in the place of its logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.features(x)


def clustr_twin(run, x, y, rows):
    """ClusTR's and its critique's formulas; means, variances and Magnet by loops in float64."""
    config, head = run.recipe.method, run.model.head
    features = run.model.features(x)
    ids = run.method.assignments[rows]
    present = ids.unique()
    local = torch.tensor([present.tolist().index(i) for i in ids.tolist()])
    classes = head.classes[present]

    def magnet(features, alpha=config.alpha):
        twin = oracles.magnet if config.numerics in LOG_LOSS else published_magnet_twin
        clusters = means_twin(features, local, torch.zeros(len(present), 8))
        return twin(features, local, clusters[0], classes, alpha=alpha, variance=clusters[1])

    total = magnet(features).mean()
    moved = head
    if config.centroids == "batch":
        # The same batch's clusters decide here too; those without a member keep the epoch's centroid.
        moved = head.with_centroids(*means_twin(features, ids, head.centroids))
    fixed = moved.with_centroids(moved.centroids.detach(), moved.variance.detach())
    if config.numerics not in LOG_SCORES:
        moved, fixed = (PublishedHead(one, nearest=config.nearest) for one in (moved, fixed))
    if config.consistency != "none":
        clean = features.detach()

        def aim(adversarial, _):
            if config.consistency == "magnet":  # a large alpha leaves no hinge in log space
                return magnet(adversarial, alpha=1e3 if config.numerics in LOG_LOSS else config.alpha)
            return consistency_twin(config.consistency, config.numerics, fixed, clean, adversarial)

        inner, eps = config.inner, run.recipe.threat.eps
        options = {"steps": inner.steps, "step_size": inner.step_ratio * eps, "keep": "last", "mode": inner.mode}
        x_adv = pgd(Features(run.model), x, y, eps=eps, objective=aim, generator=run.noise, **options)
        assert float((x_adv - x).abs().max()) <= eps + 1e-6
        adversarial = run.model.features(x_adv)
        if config.consistency == "magnet":
            terms = magnet(adversarial)
        else:
            terms = consistency_twin(config.consistency, config.numerics, moved, features, adversarial)
        total = total + config.consistency_weight * (
            terms.sum() if config.consistency_reduction == "sum" else terms.mean()
        )
    if config.cross_entropy_weight > 0:
        own = moved(features).softmax(1)[torch.arange(len(y)), y]
        total = total - config.cross_entropy_weight * own.log().mean()
    return total


NUMERICS = ("log", "published", "published_log_loss", "published_log_scores")
LOG_LOSS, LOG_SCORES = {"log", "published_log_loss"}, {"log", "published_log_scores"}
CONSISTENT = {"consistency_weight": 8.0}
CLUSTR = {
    "none": {},
    "qtrades": CONSISTENT | {"consistency": "cross_entropy"},
    "qtrades, released centroids": CONSISTENT | {"consistency": "cross_entropy", "centroids": "epoch"},
    "kl, summed": CONSISTENT | {"consistency": "kl", "consistency_reduction": "sum", "method.inner.steps": 3},
    "mse": CONSISTENT | {"consistency": "mse"},
    "mse of features": CONSISTENT | {"consistency": "features_mse"},
    "ce": {"cross_entropy_weight": 2.0},
    "ce, mse, released centroids": CONSISTENT
    | {"consistency": "mse", "cross_entropy_weight": 2.0, "centroids": "epoch"},
    "adv": CONSISTENT | {"consistency": "magnet"},
}


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("variant", CLUSTR)
def test_clustr_and_its_variants_equal_their_slow_twin_in_value_and_gradient(begun, numerics, variant):
    run = begun("clustr", numerics=numerics, alpha=6.0, **CLUSTR[variant])
    rows = next(iter(run.method.batches()))
    x, y = run.images.float(rows), run.images.labels[rows]
    state = run.noise.get_state()
    loss, metrics = run.method.loss(x, y, rows)
    run.noise.set_state(state)
    twin = clustr_twin(run, x, y, rows)
    assert float(loss.detach()) == pytest.approx(float(twin.detach()), rel=1e-4)
    found, expected = gradients(run, loss), gradients(run, twin)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4 * float(expected.abs().max()))
    assert float(expected.abs().max()) > 0
    weights = {"magnet": 1.0, "consistency": run.recipe.method.consistency_weight}
    weights |= {"cross_entropy": run.recipe.method.cross_entropy_weight}
    if run.recipe.method.consistency_reduction == "mean":
        assert sum(weights[name] * float(value) for name, value in metrics.items()) == pytest.approx(
            float(loss.detach()), rel=1e-5
        )


@pytest.mark.parametrize("numerics", ["log", "published"])
def test_cross_entropy_and_kl_have_the_same_adversary(begun, numerics):
    """The critique's TRADES_1 attacks by KL and trains by cross-entropy: with p(x) fixed they differ by a constant."""
    run = begun("clustr", numerics=numerics)
    consistencies = LOGIT_CONSISTENCIES if numerics == "log" else SCORE_CONSISTENCIES
    x, _, rows = batch(run)
    with torch.no_grad():
        clean = run.model.features(x)
        moved = run.model.head.with_centroids(*run.method.batch_clusters(clean, run.method.assignments[rows]))
        head = scored(run.recipe.method, moved).double()
        clean = clean.double()
        near = clean + 0.01 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slopes = []
    for name in ("cross_entropy", "kl"):
        moved = near.clone().requires_grad_()
        value = consistencies[name](head(clean), head(moved)).sum()
        slopes.append(torch.autograd.grad(value, moved)[0])
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


def test_a_batch_without_two_of_one_cluster_takes_the_head_s_variance(begun):
    """Its own is 0, and the gradient of the temperature would be 0 × inf: the last batch of an epoch may be such."""
    run = begun("corral")
    method, assigned = run.method, run.method.assignments
    alone = torch.stack([(assigned == cluster).nonzero()[0, 0] for cluster in (0, 3, 7)])
    pair = torch.cat([alone, (assigned == 3).nonzero()[1]])
    for rows in (alone, pair):
        x, y = run.images.float(rows), run.images.labels[rows]
        features = run.model.features(x).detach()
        centroids, variance = method.batch_clusters(features, assigned[rows])
        own = (features - centroids[assigned[rows]]).square().sum() / (len(rows) - 1)
        assert float(variance) == float(run.model.head.variance if rows is alone else own)
        run.model.zero_grad()
        method.loss(x, y, rows)[0].backward()
        gradients = [weight.grad for weight in run.model.parameters() if weight.grad is not None]
        assert run.model.head.log_temperature.grad is not None
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


@pytest.mark.parametrize("kind", ["cross_entropy", "kl", "mse", "features_mse", "magnet"])
def test_a_step_of_the_consistency_adversary_raises_what_the_loss_lowers(begun, kind):
    overrides = CONSISTENT | {"consistency": kind}
    run = begun("clustr", **overrides, alpha=30.0)
    rows = next(iter(run.method.batches()))
    x, y = run.images.float(rows), run.images.labels[rows]
    reached = {}
    for steps in (1, 5):
        inner = run.recipe.method.inner.model_copy(update={"steps": steps, "step_ratio": 0.25 if steps > 1 else 1e-9})
        run.method.options = run.method.options.model_copy(update={"inner": inner})
        state = run.noise.get_state()
        reached[steps] = float(run.method.loss(x, y, rows)[1]["consistency"])
        run.noise.set_state(state)
    assert reached[5] > reached[1]  # than the random point it starts from
    assert all(module.training for module in run.model.modules())


def test_nominal_and_at_are_cross_entropy_of_clean_and_adversarial_images(begun):
    for recipe in ("nominal", "at"):
        run = begun(recipe)
        x, y, rows = batch(run)
        state = run.noise.get_state()
        loss, metrics = run.method.loss(x, y, rows)
        run.noise.set_state(state)
        seen = x if recipe == "nominal" else attack(run, None, x, y)
        probabilities = run.model(seen).softmax(1)
        naive = sum(-math.log(float(p[label].detach())) for p, label in zip(probabilities, y, strict=True)) / len(y)
        assert float(loss.detach()) == pytest.approx(naive, rel=1e-5)
        right = float((probabilities.argmax(1) == y).float().mean())
        assert [float(value) for value in metrics.values()] == [right]


@pytest.mark.parametrize("recipe", ["clustr", "corral"])
def test_after_training_the_centroids_are_means_of_their_members_and_the_variance_its_formula(tiny, recipe):
    inner = {"method.inner.steps": 1, "method.clusters": 2}
    folder = tiny(recipe, **inner)
    model, spec, _ = load_model(folder)
    saved, _ = read_checkpoint(Run(folder).state_file, kind="training")
    tiny_recipe = load_recipe(folder)
    run = Training(tiny_recipe, Run(folder), torch.device("cpu"), progress=False)
    with torch.no_grad():
        features = model.features(run.images.float()).double()
    members, head, labels = saved["method.assignments"], model.head, run.images.labels
    assert spec.head["clusters"] == 20
    for cluster, centroid in enumerate(head.centroids):
        own = features[members == cluster]
        assert set(labels[members == cluster].tolist()) == {int(head.classes[cluster])}
        torch.testing.assert_close(own.mean(0), centroid.double(), rtol=1e-4, atol=1e-5)
    nearest = [
        min(float(((f - mu) ** 2).sum()) for mu, c in zip(head.centroids, head.classes, strict=True) if c == label)
        for f, label in zip(features, labels, strict=True)
    ]
    assert float(head.variance) == pytest.approx(sum(nearest) / (len(nearest) - 1), rel=1e-4)


def test_learned_centroids_become_the_head_as_they_are(begun):
    run = begun("corral", **ROWS["D"])
    with torch.no_grad():
        run.method.map.weight.add_(0.3)
        run.method.map.log_variance.add_(0.5)
    expected = run.method.map.weight.detach() * run.method.map.log_variance.detach().exp()
    numbers = run.method.after_epoch()
    assert torch.equal(run.model.head.centroids, expected)
    assert float(run.model.head.variance) == pytest.approx(numbers["variance"])


def test_features_are_those_of_eval_mode_and_the_mode_is_restored():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.5)
            self.features_dim = 64

        def forward(self, x):
            return self.drop(self.norm(x)).flatten(1)

    from corral.data import load
    from corral.models import Classifier, LinearHead

    images = load("digits").train
    model = Classifier(Noisy(), LinearHead(64, 10), [0.3], [0.4])
    model.train()
    model.backbone.drop.eval()
    flags = [module.training for module in model.modules()]
    found = extract_features(model, images, batch_size=100)
    assert [module.training for module in model.modules()] == flags
    assert not found.requires_grad
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(found, model.features(images.float()))


def test_features_that_are_not_finite_are_one_line(begun):
    from corral.errors import CorralError

    run = begun("corral")
    assert isinstance(run.method, ClusterMethod)
    assert isinstance(run.model.head, ClusterHead)
    with torch.no_grad():
        next(iter(run.model.backbone.parameters())).fill_(1e38)
    with pytest.raises(CorralError, match="features are not finite or too large to measure: lower the learning rate"):
        run.method.after_epoch()


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].__module__.startswith("corral.")])
def test_every_option_of_a_method_is_read(name: str) -> None:
    """By the modules of its class and of those that it builds on: an option that nothing reads lies to its user."""
    method = METHODS[name]
    modules = {base.__module__ for base in method.__mro__ if base.__module__.startswith("corral.")}
    source = "\n".join(inspect.getsource(sys.modules[module]) for module in modules)
    options = method.Options.model_fields.keys() - {"name"}
    assert [one for one in options if not re.search(rf"\b(options|method)\.{one}\b", source)] == []
