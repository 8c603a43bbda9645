"""Stage 2 without labels: DeACL, NCP-ACL and their peers against slow twins, their branches and their state."""

import copy
import math

import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import silhouette_score
from torch.nn import functional

from corral.attacks import pgd
from corral.checkpoints import read_checkpoint
from corral.data import load
from corral.data.frequencies import high_frequencies
from corral.data.views import random_views
from corral.errors import CorralError, UsageError
from corral.geometry import kmeans
from corral.models.dual_norm import DualBatchNorm2d, using
from corral.training import Run, Training, load_model, load_recipe, train
from corral.training.features import extract_features, require_differing
from corral.training.methods.deacl import BatchFeatures

SMALL = {"data.train": 120, "model.width": 4, "training.batch_size": 40, "training.epochs": 2}
PEERS = ["deacl", "ncp-acl", "acl", "dynacl", "dynacl-air", "rocl", "advcl", "dynacl++", "dynacl-air++"]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Stage 1: an encoder of the width of SMALL."""
    settings = SMALL | {"data.train": 400, "training.epochs": 8, "training.learning_rate": 3e-3}
    return train("simclr", out=tmp_path_factory.mktemp("first") / "simclr", progress=False, **settings)


@pytest.fixture
def settings(first):
    """What a peer's recipe needs beside its size."""

    def make(name, **more):
        given = dict(SMALL)
        if name in ("deacl", "ncp-acl", "dynacl++", "dynacl-air++"):
            given["training.start"] = str(first)
        if name == "ncp-acl":
            given["method.clusters"] = [6]
        if name == "advcl":
            given |= {"method.labeller": str(first), "method.clusterings": [2, 5]}
        return given | more

    return make


@pytest.fixture
def begun(tmp_path, settings):
    def make(name, **more):
        recipe = load_recipe(name, overrides=settings(name, **more))
        run = Training(recipe, Run(tmp_path / "run"), torch.device("cpu"), progress=False)
        run.begin(resume=False)
        run.model.train()
        return run

    return make


def batch(run, n=12):
    rows = torch.arange(n)
    return run.images.float(rows), run.images.labels[rows], rows


def noise_of(run):
    return torch.Generator().set_state(run.noise.get_state())


def cosine(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float(a @ b / (a.norm() * b.norm()))


def moved_by(run, model, x, y, value, noise):
    """PGD as the recipe describes it, by the public function."""
    inner, eps = run.recipe.method.inner, run.recipe.threat.eps
    return pgd(
        model, x, y, eps=eps, norm="Linf", steps=inner.steps, step_size=inner.step_ratio * eps,
        objective=value, generator=noise, keep="last",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["simclr", *PEERS])
def test_a_step_in_bfloat16_has_the_loss_of_one_in_float32(name, begun):
    run = begun(name)
    rows = next(iter(run.method.batches()))
    x, y = run._batch(rows)
    noise, losses = run.noise.get_state(), []
    for narrow in (False, True):
        run.noise.set_state(noise)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            losses.append(float(run.method.loss(x, y, rows)[0].detach()))
    assert losses[1] != losses[0]
    # Steps up a divergence begin next to the image, where its gradient is small: other roundings, another way up.
    assert losses[1] == pytest.approx(losses[0], rel=0.1 if name.endswith("++") else 0.03, abs=0.03)


@pytest.mark.parametrize("dual", ["none", "clean", "adversarial"])
def test_deacl_is_equation_3_with_the_adversary_of_equation_2(begun, first, dual):
    run = begun("deacl", **{"method.dual_norm": dual, "method.robust_weight": 2.0})
    x, y, rows = batch(run)
    teacher = load_model(first, encoder=True)[0]
    with torch.no_grad():
        kept = teacher.features(x)
    noise = noise_of(run)

    def value(features, _):
        return -functional.cosine_similarity(features, kept, dim=1)

    with using(run.model, "adversarial"):
        x_adv = moved_by(run, run.model, x, y, value, noise)
    assert 0 < float((x_adv - x).abs().max()) <= 0.1 + 1e-6
    loss, metrics = run.method.loss(x, y, rows)
    if dual == "none":
        clean, moved = run.model.features(torch.cat([x, x_adv])).chunk(2)
    else:
        with using(run.model, "clean"):
            clean = run.model.features(x)
        with using(run.model, "adversarial"):
            moved = run.model.features(x_adv)
    faithful = sum(cosine(clean[i], kept[i]) for i in range(12)) / 12
    steady = sum(cosine(moved[i], clean[i]) for i in range(12)) / 12
    assert float(loss.detach()) == pytest.approx(-faithful - 2 * steady, rel=1e-4)
    assert float(metrics["adversarial_to_clean"]) == pytest.approx(steady, rel=1e-4)


def test_the_adversary_of_equation_2_leaves_the_first_encoder_s_features(begun):
    run = begun("deacl")
    x, y, rows = batch(run, 40)
    value = run.method.objective(BatchFeatures(run.method, x, rows))
    noise = noise_of(run)
    moved = moved_by(run, run.model, x, y, value, noise)
    run.model.eval()
    with torch.no_grad():
        before, after = (value(run.model.features(images), y).mean() for images in (x, moved))
        still = value(run.model.features(x + 0.1 * torch.randn(x.shape, generator=noise).sign()), y).mean()
    assert float(before) == pytest.approx(-1, abs=1e-5)  # f2 begins as f1
    assert float(after) > float(still) > float(before)


def ranked(feature, centroids):
    """Centroids from the nearest to the farthest, by one cosine after another."""
    near = [cosine(feature, centroid) for centroid in centroids]
    return sorted(range(len(near)), key=lambda k: -near[k])


@pytest.mark.parametrize("dual", ["none", "clean", "adversarial"])
@pytest.mark.parametrize("neighbour", [2, 4])
def test_ncp_pursues_the_clusters_of_the_augmented_image(begun, neighbour, dual, monkeypatch):
    """Algorithm 1 finds them inside the mini-batch: for the cropped image that is attacked, not for the image as it is.

    Most batches of cropped digits have other clusters than the images that they come from, so that clusters found once
    an epoch cannot pass.
    """
    more = {"method.neighbour": neighbour, "method.clusters": [7], "method.dual_norm": dual, "data.crop": 2}
    run = begun("ncp-acl", **more)
    method = run.method
    assert method.centroids.shape == (7, run.model.features_dim)
    torch.testing.assert_close(method.centroids.norm(dim=1), torch.ones(7))
    rows = torch.arange(40)
    x, y = run._batch(rows)
    assert not torch.equal(x, run.images.float(rows))
    twin = copy.deepcopy(run.model)
    twin.train(dual != "none")  # the loss's own pass, or where that has the adversarial images too one in eval mode
    with using(twin, "clean"), torch.no_grad():
        features = twin.features(x)
        as_they_are = twin.eval().features(run.images.float(rows))
    pursued = []
    monkeypatch.setattr(method, "adversarial", lambda model, x, y, inner, objective: pursued.append(objective) or x)
    method.loss(x, y, rows)
    # The objective's value for a feature names the two centroids: it is the difference of its cosines to them.
    probes = torch.eye(run.model.features_dim)
    moved = 0
    for place, feature in enumerate(features):
        order = ranked(feature, method.centroids)
        own, other = (method.centroids[order[k]] for k in (0, neighbour - 1))
        for probe in probes[:3]:
            value = float(pursued[0](probe.expand(40, -1), y)[place])
            assert value == pytest.approx(cosine(probe, other) - cosine(probe, own), abs=1e-5)
        stored = ranked(as_they_are[place], method.centroids)
        moved += (stored[0], stored[neighbour - 1]) != (order[0], order[neighbour - 1])
    assert moved > 10


def test_clusters_found_once_an_epoch_are_those_of_the_images_as_they_are(begun, monkeypatch):
    run = begun("ncp-acl", **{"method.assignment": "epoch", "method.clusters": [7], "data.crop": 2})
    with using(run.model, "clean"):
        features = extract_features(run.model, run.images)
    for row in range(0, len(features), 7):
        order = ranked(features[row], run.method.centroids)
        assert run.method.stored[row].tolist() == order[:2]
    rows = torch.tensor([3, 50, 7])
    x = run._batch(rows)[0]
    probe = torch.randn(3, run.model.features_dim, generator=torch.Generator().manual_seed(0))
    values = run.method.objective(BatchFeatures(run.method, x, rows))(probe, rows)
    for place, row in enumerate(rows.tolist()):
        own, other = run.method.centroids[run.method.stored[row]]
        assert float(values[place]) == pytest.approx(cosine(probe[place], other) - cosine(probe[place], own), abs=1e-5)


@pytest.mark.parametrize("strategy", ["away", "toward", "both"])
def test_ncp_s_adversary_maximises_equation_4_by_its_strategy(begun, strategy):
    run = begun("ncp-acl", **{"method.strategy": strategy})
    rows = torch.tensor([3, 50, 7])
    batch_features = BatchFeatures(run.method, run.images.float(rows), rows)
    features = torch.randn(3, run.model.features_dim, generator=torch.Generator().manual_seed(0))
    values = run.method.objective(batch_features)(features, rows)
    for place, clean in enumerate(batch_features.clean()):
        order = ranked(clean, run.method.centroids)
        own, other = (cosine(features[place], run.method.centroids[order[k]]) for k in (0, 1))
        expected = {"away": -own, "toward": other, "both": other - own}[strategy]
        assert float(values[place]) == pytest.approx(expected, abs=1e-5)


def test_ncp_s_loss_and_gradient_are_equation_3_whose_clean_pass_is_made_once(begun):
    """The pass that names the clusters is the loss's own, made before the attack: its gradient must survive it."""
    run = begun("ncp-acl")
    rows = torch.arange(20)
    x, y = run._batch(rows)
    twin, kept = copy.deepcopy(run.model), run.method.teacher.features(x).detach()
    noise = noise_of(run)
    loss, _ = run.method.loss(x, y, rows)
    loss.backward()
    with using(twin, "clean"):
        clean = twin.features(x)
    pairs = [[run.method.centroids[k] for k in ranked(feature, run.method.centroids)[:2]] for feature in clean]
    own, other = (torch.stack(part) for part in zip(*pairs, strict=True))

    def value(features, _):
        return functional.cosine_similarity(features, other) - functional.cosine_similarity(features, own)

    with using(twin, "adversarial"):
        x_adv = moved_by(run, twin, x, y, value, noise)
        moved = twin.features(x_adv)
    expected = -functional.cosine_similarity(clean, kept).mean() - 6 * functional.cosine_similarity(moved, clean).mean()
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    gradients = zip(run.model.backbone.parameters(), twin.backbone.parameters(), strict=True)
    for ours, theirs in gradients:
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
    one, other = (model.state_dict() for model in (run.model, twin))
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6) for name in one if "running" in name)


def test_ncp_s_checkpoint_of_another_assignment_is_refused(begun):
    """Those of earlier versions, with each image's own cluster, too: resuming would mix two ways to pursue."""
    run = begun("ncp-acl")
    state = run.method.tensors()
    run.method.load(state)
    rows = torch.zeros(len(run.images), dtype=torch.int64)
    for more in ({"stored": torch.stack([rows, rows + 1], 1)}, {"own": rows, "neighbours": rows + 1}):
        with pytest.raises(ValueError, match="assigned in another way: train the run anew"):
            run.method.load(state | more)
    with pytest.raises(ValueError, match="held must say of every cluster"):
        run.method.load(state | {"held": torch.zeros(6, dtype=torch.bool)})


def test_ncp_chooses_the_candidate_of_the_largest_silhouette_and_keeps_it(begun):
    run = begun("ncp-acl", **{"method.clusters": [12, 3, 6]})
    with using(run.model, "clean"):
        features = extract_features(run.model, run.images)
    for seed in range(3):
        run.order.manual_seed(seed)
        run.method.start()
        chosen, widths, generator = len(run.method.centroids), {}, torch.Generator().manual_seed(seed)
        for k in (3, 6, 12):  # the same seedings, and scikit-learn's widths
            found = kmeans(features, k, spherical=True, seeding="afk-mc2", restarts=3, generator=generator)
            widths[k] = silhouette_score(features.double().numpy(), found.assignments.numpy(), metric="cosine")
        assert chosen == max(widths, key=lambda k: widths[k]), widths
    run.method.refit(chosen)
    assert run.method.after_epoch()["clusters"] == chosen


def test_clean_and_adversarial_batches_leave_their_statistics_apart(begun):
    run = begun("ncp-acl")
    layer = next(module for module in run.model.modules() if isinstance(module, DualBatchNorm2d))
    before = layer.running_mean.clone(), layer.adversarial.running_mean.clone()
    assert torch.equal(*before)
    x, y, rows = batch(run, 40)
    run.method.loss(x, y, rows)
    twin = torch.nn.BatchNorm2d(layer.num_features).train()
    twin.load_state_dict({**layer.adversarial.state_dict(), "running_mean": before[0]}, strict=False)
    inputs = []
    handle = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    with using(run.model, "clean"), torch.no_grad():
        run.model.eval()
        run.model.features(x)
    handle.remove()
    twin(inputs[0])
    torch.testing.assert_close(layer.running_mean, twin.running_mean)
    assert not torch.equal(layer.running_mean, layer.adversarial.running_mean)


@pytest.mark.parametrize("branch", ["clean", "adversarial"])
def test_the_saved_encoder_is_the_branch_that_the_recipe_names(settings, tmp_path, branch):
    given = settings("ncp-acl", **{"method.dual_norm": branch, "training.epochs": 1})
    run = Training(load_recipe("ncp-acl", overrides=given), Run(tmp_path / "run"), torch.device("cpu"), progress=False)
    run.begin(resume=False)
    run.execute()
    saved = load_model(tmp_path / "run", encoder=True)[0]
    assert not any(isinstance(module, DualBatchNorm2d) for module in saved.modules())
    x = run.images.float(torch.arange(10))
    run.model.eval()
    features = {}
    for name in ("clean", "adversarial"):
        with using(run.model, name), torch.no_grad():
            features[name] = run.model.features(x)
    other = "clean" if branch == "adversarial" else "adversarial"
    assert torch.equal(saved.features(x), features[branch])
    assert not torch.allclose(saved.features(x), features[other])


def share(embeddings, anchor, positives, n, temperature=0.5):
    """-log of the positives' part among all other embeddings of `anchor`, by a loop."""
    weights = {
        other: math.exp(cosine(embeddings[anchor], embeddings[other]) / temperature)
        for other in range(n)
        if other != anchor
    }
    return -math.log(sum(weights[p] for p in positives) / sum(weights.values()))


class Both(torch.nn.Module):
    """First views by one network, second views by another."""

    def __init__(self, one, two):
        super().__init__()
        self.one, self.two = one, two

    def forward(self, images):
        n = len(images) // 2
        return torch.cat([self.one(images[:n]), self.two(images[n:])])


@pytest.mark.parametrize("target", [0.0, 0.75])
def test_dynacl_weighs_two_nt_xents_by_the_strength_of_its_views(begun, target):
    run = begun("dynacl", **{"training.epochs": 6, "method.decay_every": 2, "method.target": target})
    strengths = []
    for _ in range(6):
        strengths.append(run.method.strength)
        run.method.after_epoch()
    assert strengths == pytest.approx([1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3])
    run.method.epochs_done = 4
    n = 6
    x, y, rows = batch(run, n)
    noise = noise_of(run)
    weak = run.recipe.method.views.augmentation().weakened(1 / 3)
    views = torch.cat([random_views(x, weak, generator=noise) for _ in range(2)])

    def value(embeddings, _):
        # NT-Xent of every embedding, its twin n places on.
        units = functional.normalize(embeddings, dim=1)
        logits = (units @ units.T / 0.5).fill_diagonal_(-torch.inf)
        return -logits.log_softmax(1)[torch.arange(2 * n), (torch.arange(2 * n) + n) % (2 * n)]

    method = run.method
    second = method.embedder
    if target:  # another network's by now: all of its numbers are of its own
        second = method.target
        with torch.no_grad():
            for tensor in second.parameters():
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))

    both = Both(method.embedder, second) if target else method.embedder
    with using(both, "adversarial"):
        moved = moved_by(run, both, views, torch.cat([y, y]), value, noise)
    loss, _ = method.loss(x, y, rows)  # before the twin's passes move the statistics that the attack sees
    with using(both, "adversarial"):
        adversarial = both(moved)
    with using(both, "clean"):
        clean = both(views)
    each = [
        sum(share(embeddings, i, [(i + n) % (2 * n)], 2 * n) for i in range(2 * n)) / (2 * n)
        for embeddings in (clean, adversarial)
    ]
    weight = 2 / 3 * (1 - 1 / 3)
    assert float(loss.detach()) == pytest.approx(((1 - weight) * each[0] + (1 + weight) * each[1]) / 2, rel=1e-3)


def test_air_adds_two_divergences_of_embeddings_by_the_original_images(begun):
    """The originals are a batch of their own, with its own statistics; shares by loops over the batch."""
    run = begun("dynacl-air")
    n = 6
    x, y, rows = batch(run, n)
    noise, method = noise_of(run), run.method
    views = torch.cat([random_views(x, run.recipe.method.views.augmentation(), generator=noise) for _ in range(2)])
    state = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    before = run.noise.get_state()
    found = float(method.loss(x, y, rows)[0].detach())
    # The same without the two terms, from the same state and noise.
    run.model.load_state_dict(state)
    run.noise.set_state(before)
    method.options = method.options.model_copy(update={"invariance": 0.0})
    without = float(method.loss(x, y, rows)[0].detach())

    def disagree(embeddings, _):
        units = functional.normalize(embeddings, dim=1)
        logits = (units @ units.T / 0.5).fill_diagonal_(-torch.inf)
        return -logits.log_softmax(1)[torch.arange(2 * n), (torch.arange(2 * n) + n) % (2 * n)]

    run.model.load_state_dict(state)
    with using(run.model, "adversarial"):
        moved = moved_by(run, method.embedder, views, torch.cat([y, y]), disagree, noise)
        adversarial = method.embedder(moved).chunk(2)
    with using(run.model, "clean"):
        clean, original = method.embedder(views).chunk(2), method.embedder(x)

    def shares(one, other):
        values = [math.exp(cosine(a, b) / 0.5) for a, b in zip(one, other, strict=True)]
        return [value / sum(values) for value in values]

    first, second = (shares(view, original) for view in clean)
    standard = sum(p * math.log(p / q) for p, q in zip(first, second, strict=True))
    both = [
        [p * q for p, q in zip(shares(bad, original), shares(bad, good), strict=True)]
        for bad, good in zip(adversarial, clean, strict=True)
    ]
    robust = sum(p * math.log(p / q) for p, q in zip(*both, strict=True))
    assert found - without == pytest.approx(0.5 * (standard + robust) / 2, abs=2e-6)
    assert abs(found - without) > 2e-5


def test_the_target_follows_the_weights_by_its_decay_and_is_what_is_saved(begun):
    run = begun("dynacl", **{"method.target": 0.75})
    parameters = dict(run.model.backbone.named_parameters())
    name = next(iter(parameters))
    trained, hidden = parameters[name], run.method.projection.layers[0].weight
    expected = [trained.detach().clone(), hidden.detach().clone()]
    for step in range(3):
        with torch.no_grad():
            trained.add_(step + 1.0)
            hidden.mul_(2.0)
        run.method.after_step()
        expected = [0.75 * old + 0.25 * new.detach() for old, new in zip(expected, (trained, hidden), strict=True)]
    torch.testing.assert_close(run.method.weights()[f"backbone.{name}"], expected[0])
    torch.testing.assert_close(run.method.target[1].layers[0].weight, expected[1])
    assert not torch.allclose(trained, expected[0])  # the weights in training stay as they are


def test_the_target_learns_by_no_gradient_and_has_statistics_of_second_views_alone(begun):
    run = begun("dynacl", **{"method.target": 0.75, "training.epochs": 6})
    x, y, rows = batch(run)
    noise = noise_of(run)
    views = [random_views(x, run.recipe.method.views.augmentation(), generator=noise) for _ in range(2)]
    method = run.method
    norms = [next(m for m in net.modules() if isinstance(m, DualBatchNorm2d)) for net in (run.model, method.target)]
    stem = next(m for m in run.model.backbone.modules() if isinstance(m, torch.nn.Conv2d))
    before = [norm.running_mean.clone() for norm in norms]
    run.method.loss(x, y, rows)[0].backward()
    assert all(tensor.grad is None for tensor in method.target.parameters())
    assert all(tensor.grad is not None for tensor in run.model.backbone.parameters())
    for norm, old, view in zip(norms, before, views, strict=True):
        with torch.no_grad():
            mean = stem(run.model.normalisation(view)).mean((0, 2, 3))
        torch.testing.assert_close(norm.running_mean, 0.9 * old + 0.1 * mean, rtol=1e-4, atol=1e-5)


def test_rocl_has_the_adversarial_self_among_its_positives(begun):
    run = begun("rocl", **{"method.regularisation": 0.25})
    n = 6
    x, y, rows = batch(run, n)
    noise = noise_of(run)
    augmentation = run.recipe.method.views.augmentation()
    one, two = (random_views(x, augmentation, generator=noise) for _ in range(2))
    embedder = run.method.embedder
    embedder.eval()
    with torch.no_grad():
        target = functional.normalize(embedder(two), dim=1)
    embedder.train()

    def value(embeddings, _):
        units = torch.cat([functional.normalize(embeddings, dim=1), target])
        logits = (units @ units.T / 0.5).fill_diagonal_(-torch.inf)
        losses = -logits.log_softmax(1)[torch.arange(2 * n), (torch.arange(2 * n) + n) % (2 * n)]
        return losses[:n] + losses[n:]

    moved = moved_by(run, embedder, one, y, value, noise)
    loss, _ = run.method.loss(x, y, rows)
    embeddings = embedder(torch.cat([one, two, moved]))
    together = sum(share(embeddings, i, [i + n, i + 2 * n], 3 * n) for i in range(n)) / n
    pair = torch.cat([embeddings[2 * n :], embeddings[n : 2 * n]])
    regular = sum(share(pair, i, [(i + n) % (2 * n)], 2 * n) for i in range(2 * n)) / (2 * n)
    assert float(loss.detach()) == pytest.approx(together + 0.25 * regular, rel=1e-3)


def test_advcl_contrasts_four_views_and_reads_pseudo_labels(begun, first):
    run = begun("advcl")
    method, n = run.method, 6
    features = extract_features(load_model(first, encoder=True)[0], run.images)
    for labels, k in zip(method.labels, (2, 5), strict=True):
        means = torch.stack([features[labels == cluster].mean(0) for cluster in range(k)])
        assert torch.equal(torch.cdist(features, means).argmin(1), labels)  # a fixed point of Lloyd's iterations
    x, y, rows = batch(run, n)
    noise = noise_of(run)
    augmentation = run.recipe.method.views.augmentation()
    views = [random_views(x, augmentation, generator=noise) for _ in range(2)]
    clean = torch.cat([*views, high_frequencies(x, least=2.0)])
    run.model.eval()
    with using(run.model, "clean"), torch.no_grad():
        held = functional.normalize(method.embedder(clean), dim=1)
    run.model.train()

    def each(units):
        """(4 n,) mean over the positives of -log of each one's share."""
        logits = (units @ units.T / 0.5).fill_diagonal_(-torch.inf)
        logs = logits.log_softmax(1)
        places = torch.arange(4 * n)
        return -torch.stack([logs[places, (places + shift * n) % (4 * n)] for shift in (1, 2, 3)]).mean(0)

    def contrast(embeddings, _):
        return each(torch.cat([functional.normalize(embeddings, dim=1), held])).view(4, n).sum(0)

    def misread(found, _):
        own = method.labels[:, :n]
        logits = [head(found) for head in method.heads]
        return sum(functional.cross_entropy(z, t, reduction="none") for z, t in zip(logits, own, strict=True)) / 2

    with using(run.model, "adversarial"):
        moved = moved_by(run, method.embedder, x, y, contrast, noise)
        misled = moved_by(run, run.model, x, y, misread, noise)
    loss, _ = method.loss(x, y, rows)
    with using(run.model, "adversarial"):
        adversarial, cross_entropy = method.embedder(moved), misread(run.model.features(misled), y).mean()
    with using(run.model, "clean"):
        three = [method.embedder(part) for part in (*views, high_frequencies(x, least=2.0))]  # each a batch of its own
    units = functional.normalize(torch.cat([adversarial, *three]), dim=1)
    expected = 0.5 / 0.07 * each(units).mean() + 0.2 * cross_entropy
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-3)


def test_post_processing_is_trades_toward_clusters_of_its_own_features(begun, first):
    run = begun("dynacl++", **{"method.clusters": 4})
    method = run.method
    features = extract_features(load_model(first, encoder=True)[0], run.images)
    means = torch.stack([features[method.labels == cluster].mean(0) for cluster in range(4)])
    assert torch.equal(torch.cdist(features, means).argmin(1), method.labels)
    # The probe was fitted: it reads clusters of features as they are.
    assert float((method.probe(features).argmax(1) == method.labels).float().mean()) > 0.8
    x, y, rows = batch(run)
    classifier, noise = torch.nn.Sequential(run.model, method.probe), noise_of(run)
    classifier.eval()
    with torch.no_grad():
        clean = classifier(x).log_softmax(1)
    classifier.train()

    def value(logits, _):
        return (clean.exp() * (clean - logits.log_softmax(1))).sum(1)

    moved = moved_by(run, classifier, x, y, value, noise)
    loss, _ = method.loss(x, y, rows)
    p, q = classifier(x).log_softmax(1), classifier(moved).log_softmax(1)
    expected = functional.nll_loss(p, method.labels[rows]) + 6 * (p.exp() * (p - q)).sum(1).mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-3)


@pytest.mark.parametrize("name", PEERS)
def test_a_resumed_second_stage_ends_with_the_same_bits_and_labels_play_no_part(settings, tmp_path, monkeypatch, name):
    """Two runs: a whole one, and one with the labels turned round that is cut after its first epoch."""
    given = settings(name)
    whole = train(name, out=tmp_path / "whole", progress=False, **given)
    calls, epoch, prepared = [], Training._epoch, Training.begin

    def stopped(self, bar):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return epoch(self, bar)

    def turned(self, **options):
        self.images.labels.copy_(self.images.labels.flip(0))
        prepared(self, **options)

    monkeypatch.setattr(Training, "begin", turned)
    monkeypatch.setattr(Training, "_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(name, out=tmp_path / "cut", progress=False, **given)
    monkeypatch.setattr(Training, "_epoch", epoch)
    cut = train(name, out=tmp_path / "cut", progress=False, resume=True, **given)
    one, other = (read_checkpoint(Run(path).state_file, kind="training")[0] for path in (whole, cut))
    assert one.keys() == other.keys()
    assert all(torch.equal(other[key], tensor) for key, tensor in one.items())
    kept = {"deacl": "teacher", "ncp-acl": "centroids", "advcl": "labels", "dynacl": "target", "dynacl++": "probe"}
    assert any(key.startswith(f"method.{kept.get(name, '')}") for key in one)
    saved = [read_checkpoint(Run(path).model_file, kind="model")[0] for path in (whole, cut)]
    assert all(torch.equal(saved[1][key], tensor) for key, tensor in saved[0].items())


def steadiness(folder):
    """Mean cosine of test images' features before and after PGD away from what they are."""
    model, x = load_model(folder, encoder=True)[0], load("digits").test.float(torch.arange(100))
    kept = functional.normalize(model.features(x).detach(), dim=1)

    def value(features, _):
        return -(functional.normalize(features, dim=1) * kept).sum(1)

    moved = pgd(model, x, torch.zeros(100, dtype=torch.int64), eps=0.1, steps=10, step_size=0.025, objective=value,
                generator=torch.Generator().manual_seed(0), keep="last")  # fmt: skip
    return -float(value(model.features(moved).detach(), None).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "epochs"), [("deacl", 4), ("ncp-acl", 4), ("acl", 4), ("rocl", 4), ("advcl", 12), ("dynacl++", 4)]
)
def test_a_peer_s_features_are_steadier_than_stage_1_s(settings, first, tmp_path, name, epochs):
    more = {"data.train": 200, "training.epochs": epochs, "training.learning_rate": 2e-3}
    folder = train(name, out=tmp_path / "run", progress=False, **settings(name, **more))
    assert load_model(folder, encoder=True)[1].head == {"name": "features"}
    assert steadiness(folder) > steadiness(first)


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("deacl", {"training.start": None}, "method 'deacl' begins from trained weights: set training.start"),
        ("deacl", {"training.warm_start.epochs": 1}, "'deacl' uses no labels: leave warm_start.epochs 0"),
        ("deacl", {"method.dual_norm": "both"}, "dual_norm"),
        ("ncp-acl", {"method.clusters": [200]}, "method.clusters 200 needs more training images"),
        ("ncp-acl", {"method.clusters": [6, 6]}, "clusters must be different"),
        ("ncp-acl", {"method.clusters": [1]}, "clusters"),
        ("ncp-acl", {"method.neighbour": 7}, "neighbour 7 is beyond the 6 clusters"),
        ("ncp-acl", {"method.strategy": "sideways"}, "strategy"),
        ("acl", {"method.reweight": 0.5}, "reweight follows the strength of views: set decay_every"),
        ("dynacl", {"method.target": 1.0}, "target"),
        ("advcl", {"method.labeller": None}, "needs an encoder for pseudo-labels: set method.labeller"),
        ("advcl", {"method.clusterings": [500]}, "method.clusterings 500 is more than the 120 training images"),
        ("dynacl++", {"method.clusters": 500}, "method.clusters 500 is more than the 120 training images"),
        ("aff", {}, "method 'aff' begins from trained weights"),
        ("acl", {"model.backbone": "convnet"}, "dual_norm needs a backbone with BatchNorm"),
    ],
)
def test_what_cannot_be_is_one_line(settings, tmp_path, name, more, words):
    given = {key: value for key, value in settings(name, **more).items() if value is not None}
    with pytest.raises(UsageError, match=words):
        train(name, out=tmp_path / "run", progress=False, **given)
    assert not (tmp_path / "run").exists()


def test_a_labeller_of_other_images_is_refused(settings, tmp_path):
    few = {"training.epochs": 1, "training.warm_start.epochs": 0, "data.train": 60}
    other = train("corral", data="toy-moons", out=tmp_path / "other", progress=False, **few)
    with pytest.raises(UsageError, match=r"method.labeller .* takes images of .*name an encoder of the same images"):
        train("advcl", out=tmp_path / "run", progress=False, **settings("advcl", **{"method.labeller": str(other)}))


@pytest.mark.parametrize("name", ["deacl", "ncp-acl", "dynacl++", "dynacl-air++"])
def test_an_encoder_that_tells_no_images_apart_is_refused(first, settings, tmp_path, name):
    state = load_model(first, encoder=True)[0].backbone.state_dict()
    dead = tmp_path / "dead.safetensors"
    save_file({key: torch.zeros_like(tensor) for key, tensor in state.items()}, dead)
    with pytest.raises(CorralError, match=r"training.start: all images have the same features, .* name another"):
        train(name, out=tmp_path / "run", progress=False, **settings(name, **{"training.start": str(dead)}))
    assert not (tmp_path / "run").exists()


def test_a_labeller_that_tells_no_images_apart_is_refused(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("corral.training.methods.advcl.features_block", lambda _, images: torch.ones(len(images), 4))
    with pytest.raises(CorralError, match=r"method.labeller .*simclr: all images have the same features"):
        train("advcl", out=tmp_path / "run", progress=False, **settings("advcl"))


@pytest.mark.parametrize("wild", [torch.inf, torch.nan, 1e25])
def test_features_that_cannot_be_measured_are_refused(wild):
    with pytest.raises(CorralError, match="runs/a: the features are not finite or too large to measure"):
        require_differing(torch.tensor([[1.0], [wild]]), "runs/a")
    require_differing(torch.zeros(1, 3), "of a single image nothing is to be told")


def test_an_encoder_is_asked_about_images_of_every_part_of_the_set(begun, monkeypatch):
    """Folders are in the order of their classes: equal images of the first one say nothing of the encoder."""
    run = begun("deacl")
    run.images.pixels[:60] = 0
    monkeypatch.setattr("corral.training.methods.deacl.ASKED", 30)
    asked = []

    def seen(features, encoder):
        asked.append(features)
        require_differing(features, encoder)

    monkeypatch.setattr("corral.training.methods.deacl.require_differing", seen)
    run.method.start()
    (features,) = asked
    blank = (features == features[:1]).all(1)
    assert (len(features), int(blank.sum())) == (30, 15)  # half of what is asked, as half of the set


def test_fewer_directions_than_clusters_are_one_line(begun, monkeypatch):
    run = begun("ncp-acl", **{"method.clusters": [6, 8]})
    features = torch.eye(3)[torch.arange(len(run.images)) % 3]
    monkeypatch.setattr(run.method, "_features", lambda: features)
    with pytest.raises(CorralError, match="the points have fewer directions than 6 clusters: ask for fewer clusters"):
        run.method.start()


def test_equal_features_have_no_neighbouring_cluster(begun, monkeypatch):
    run = begun("ncp-acl")
    monkeypatch.setattr(run.method, "_features", lambda: torch.ones(len(run.images), 4))
    with pytest.raises(CorralError, match="have one direction, so that there is no neighbouring cluster"):
        run.method.refit(6)


def test_a_neighbour_is_another_cluster_where_features_are_fewer_than_clusters(begun, monkeypatch):
    run = begun("ncp-acl")
    features = torch.eye(3)[torch.arange(len(run.images)) % 3]
    monkeypatch.setattr(run.method, "_features", lambda: features)
    run.method.refit(6)
    method = run.method
    own, other = method.centroids[method.nearest(features)].unbind(1)
    assert torch.equal(own, features)
    assert float((own * other).sum(1).abs().max()) == 0


def test_a_resumed_second_stage_writes_the_same_file(first, tmp_path, killed):
    """Also where its images have another mean than those that the encoder came from."""
    settings = SMALL | {"data.train": 60, "training.start": str(first)}
    whole = train("deacl", out=tmp_path / "whole", progress=False, **settings)
    with killed():
        train("deacl", out=tmp_path / "cut", progress=False, **settings)
    cut = train("deacl", out=tmp_path / "cut", resume=True, progress=False, **settings)
    assert load_model(cut, encoder=True)[1] == load_model(whole, encoder=True)[1]
    assert load_model(cut, encoder=True)[1].mean == load_model(first, encoder=True)[1].mean
    own = train("simclr", out=tmp_path / "own", progress=False, **(SMALL | {"data.train": 60}))
    assert load_model(own, encoder=True)[1].mean != load_model(cut, encoder=True)[1].mean


def test_an_encoder_s_checkpoint_is_no_start(begun, first, settings, tmp_path):
    folder = train("dynacl", out=tmp_path / "dynacl", progress=False, **settings("dynacl"))
    start = {"training.start": str(Run(folder).state_file)}
    with pytest.raises(CorralError, match=r"of an encoder in training, with two BatchNorms .*finish that run"):
        train("deacl", out=tmp_path / "run", progress=False, **(settings("deacl") | start))


def test_a_filter_that_leaves_nothing_is_refused(begun):
    with pytest.raises(UsageError, match=r"method.frequency 6 is above the highest of 8×8 images, 5\.7: lower it"):
        begun("advcl", **{"method.frequency": 6.0})
