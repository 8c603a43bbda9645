"""What any method can be trained with: each against a slow twin, or a hand value; off, nothing changes."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import corral
from corral.data.augment import cutmix, cutout
from corral.errors import UsageError
from corral.geometry import class_kmeans
from corral.training import Run, load_recipe
from corral.training.features import extract_features
from corral.training.ingredients.averaging import WeightAverage
from corral.training.ingredients.perturbation import moved, perturbed_weights
from corral.training.ingredients.soft_labels import SoftLabels
from corral.training.optimisers import schedule
from corral.training.recipes.recipe import TrainingConfig, WeightAveraging


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def walk(model, steps):
    """Random moves of all numbers of a model, as training makes them; every state, in float64."""
    states = []
    for step in range(steps):
        torch.manual_seed(step)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight))
        model(torch.randn(8, 3) + step)
        states.append({name: tensor.double().clone() for name, tensor in model.state_dict().items()})
        yield states


def test_the_exponential_mean_is_that_of_its_recursion():
    model, tau = small(), 0.6
    mean = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}
    average = WeightAverage({"model": model}, WeightAveraging(decay=tau))
    for t, states in enumerate(walk(model, 12)):
        average.after_step()
        decay = min(tau, (1 + t) / (10 + t))  # reaches 0.6 at t = 12.5: both branches below
        mean = {name: decay * mean[name] + (1 - decay) * now for name, now in states[-1].items()}
    with average.swapped():
        for name, tensor in model.state_dict().items():
            expected = states[-1][name] if "num_batches" in name else mean[name]
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(now.double(), states[-1][name]) for name, now in model.state_dict().items())


@pytest.mark.parametrize(("t", "decay"), [(0, 0.1), (8, 0.5), (90, 0.91), (10**6, 0.999)])
def test_the_decay_warms_up(t, decay):
    average = WeightAverage({"model": nn.Linear(1, 1)}, WeightAveraging(decay=0.999))
    found = average._averaged(
        torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), torch.tensor(t + 1)
    )
    assert float(found) == pytest.approx(decay, abs=1e-6)


def test_the_equal_mean_is_that_of_the_ends_of_its_epochs():
    model = small()
    average = WeightAverage({"model": model}, WeightAveraging(swa_from=3))
    for epoch, found in enumerate(walk(model, 5), 1):
        states = found
        average.after_step()
        assert average.begun == (epoch > 3)
        average.after_epoch(epoch)
    with average.swapped():
        for name, tensor in model.state_dict().items():
            expected = states[-1][name] if "num_batches" in name else sum(one[name] for one in states[2:]) / 3
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)


AVERAGED = {"training.weight_averaging": 0.9, "training.warm_start.epochs": 0}


@pytest.mark.parametrize("recipe", ["at", "corral", "certified"])
def test_averaging_leaves_training_as_it_is_and_saves_the_mean_with_its_own_clusters(tiny, recipe):
    plain = tiny(recipe, out="plain", **{"training.warm_start.epochs": 0})
    run = tiny(recipe, out="mean", **AVERAGED)
    own, other = ({k: t for k, t in _state(one).items() if k.startswith("model.")} for one in (run, plain))
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    saved, last = run.model.state_dict(), plain.model.state_dict()
    assert not all(torch.equal(saved[name], last[name]) for name in saved)
    average = {
        key.removeprefix("average.module.model."): tensor
        for key, tensor in _state(run).items()
        if key.startswith("average.module.model.backbone")
    }
    assert all(torch.equal(saved[name], tensor) for name, tensor in average.items())
    if recipe == "corral":
        data = corral.data.load("digits")
        subset = corral.training.start.prepare_data(run.recipe, root=None, data=data)[1]
        features = extract_features(run.model, subset)
        found = class_kmeans(
            features, subset.labels, run.recipe.method.clusters, num_classes=10,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        torch.testing.assert_close(run.model.head.centroids, found.centroids)


def _state(run: Run) -> dict[str, torch.Tensor]:
    from corral.checkpoints import read_checkpoint

    return read_checkpoint(run.state_file, kind="training")[0]


@pytest.mark.parametrize(
    "overrides",
    [
        {"training.weight_averaging": 0.9, "training.label_smoothing": 0.1, "training.eps_warm_up": 1},
        {"training.weight_averaging.swa_from": 1, "training.perturbation.gamma": 0.01, "data.cutout": 2},
        {"training.schedule": "one-cycle", "training.clip_gradient": 1.0, "data.cutmix": True},
        {"method.inner.objective": "targeted", "training.schedule": "piecewise", "training.points": [[0, 1], [1, 0]]},
    ],
)
def test_a_run_that_was_cut_short_ends_with_the_bits_of_one_that_was_not(tiny, killed, overrides):
    more = {"training.warm_start.epochs": 0, **overrides}
    whole = tiny("at", out="whole", **more)
    with killed():
        tiny("at", out="cut", **more)
    resumed = tiny("at", out="cut", resume=True, **more)
    one, other = _state(whole), _state(resumed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    saved = resumed.model.state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in whole.model.state_dict().items())


def test_perturbed_weights_are_one_step_up_the_loss_at_gamma_times_their_length():
    model = small()
    x, y, gamma = torch.randn(8, 3), torch.arange(8) % 2, 0.05
    weights = perturbed_weights(model)
    assert [tuple(weight.shape) for weight in weights] == [(4, 3), (2, 4)]  # no biases, no BatchNorm
    before = [weight.detach().clone() for weight in weights]
    slopes = torch.autograd.grad(F.cross_entropy(model(x), y), weights)
    with moved(weights, slopes, gamma):
        for weight, own, slope in zip(weights, before, slopes, strict=True):
            step = (weight - own).detach()
            assert float(step.norm()) == pytest.approx(gamma * float(own.norm()), rel=1e-4)
            assert float(F.cosine_similarity(step.flatten(), slope.flatten(), dim=0)) == pytest.approx(1, abs=1e-5)
    assert all(torch.equal(weight, own) for weight, own in zip(weights, before, strict=True))


def test_a_step_of_awp_is_that_of_the_authors_procedure(begun, monkeypatch):
    """The twin: a copy climbs by SGD, its move is rescaled and added, the gradient there moves the own weights."""
    more = {"training.optimiser": "sgd", "training.momentum": 0.0, "model.backbone": "resnet", "model.depth": 10}
    run = begun("at", **{"training.perturbation.gamma": 0.02, **more})
    gamma, made = 0.02, []
    method = run.method
    adversarial = type(method).adversarial

    def spied(self, *args):
        made.append(adversarial(self, *args))
        return made[-1]

    monkeypatch.setattr(type(method), "adversarial", spied)
    indices = torch.arange(40)
    x, y = run._batch(indices)
    own = copy.deepcopy(run.model)
    run._set_learning_rates(0.0)
    loss, _ = run._backward(method, x, y, indices)
    run.optimiser.step()
    assert len(made) == 2
    assert torch.equal(made[0], made[1])

    proxy = copy.deepcopy(own).train()
    proxy_step = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-F.cross_entropy(proxy(made[0]), y)).backward()
    proxy_step.step()
    differences = {}
    for (name, new), (_, old) in zip(proxy.named_parameters(), own.named_parameters(), strict=True):
        if old.dim() > 1 and "weight" in name:
            difference = (new - old).detach()
            differences[name] = old.detach().norm() / (difference.norm() + 1e-20) * difference
    twin = copy.deepcopy(own).train()
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if name in differences:
                weight.add_(gamma * differences[name])
    at = F.cross_entropy(twin(made[0]), y)
    slopes = torch.autograd.grad(at, list(twin.parameters()), allow_unused=True)
    assert loss.item() == pytest.approx(at.item(), rel=1e-4)
    rate = run.optimiser.param_groups[0]["lr"]
    for (name, old), slope, (_, new) in zip(own.named_parameters(), slopes, run.model.named_parameters(), strict=True):
        expected = old.detach() - (0 if slope is None else rate * slope)
        torch.testing.assert_close(new.detach(), expected, rtol=1e-3, atol=1e-5, msg=name)
    for (name, now), then in zip(run.model.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(now, then, rtol=1e-3, atol=1e-5, msg=name)  # one forward pass, not two


def test_smoothed_labels_are_torchs():
    logits, y = torch.randn(7, 5), torch.arange(7) % 5
    found = F.cross_entropy(logits, SoftLabels(0.3).of(y, 5))
    torch.testing.assert_close(found, F.cross_entropy(logits, y, label_smoothing=0.3))
    assert SoftLabels().of(y, 5) is y


def test_mixed_labels_have_the_shares_of_their_images():
    soft = SoftLabels(mixed=(torch.tensor([1, 2]), torch.tensor([0.25, 0.0])))
    assert soft.of(torch.tensor([0, 1]), 3).tolist() == [[0.75, 0.25, 0.0], [0.0, 1.0, 0.0]]
    assert soft.of(torch.tensor([1, 1]), 3)[0].tolist() == [0.0, 1.0, 0.0]  # of one class


def test_the_methods_loss_takes_the_smoothed_labels(begun):
    run = begun("nominal", **{"training.label_smoothing": 0.2})
    x, y = run._batch(torch.arange(20))
    run.model.eval()
    expected = F.cross_entropy(run.model(x), y, label_smoothing=0.2)
    torch.testing.assert_close(run.method.loss(x, y, torch.arange(20))[0], expected)


def test_cutout_blackens_one_square_that_the_border_may_cut():
    pixels = torch.full((200, 2, 9, 9), 7, dtype=torch.uint8)
    found = cutout(pixels, side=4, generator=torch.Generator().manual_seed(0))
    black = found == 0
    assert torch.equal(black[:, 0], black[:, 1])
    sides = [(int(one.any(1).sum()), int(one.any(0).sum())) for one in black[:, 0]]
    assert {side for pair in sides for side in pair} == {2, 3, 4}  # a centre on the border leaves half of it
    assert all(int(one.sum()) == rows * columns for one, (rows, columns) in zip(black[:, 0], sides, strict=True))
    assert sides.count((4, 4)) > 40
    assert cutout(pixels, side=0) is pixels


def test_cutmix_takes_a_box_of_the_other_image_and_its_share():
    pixels = torch.arange(300).view(300, 1, 1, 1).expand(300, 3, 8, 8).float()
    mixed, others, shares = cutmix(pixels, generator=torch.Generator().manual_seed(0))
    for number in range(300):
        foreign = mixed[number, 0] == others[number]
        if others[number] != number:
            assert float(foreign.float().mean()) == shares[number]
            assert bool((foreign | (mixed[number, 0] == number)).all())
    # E[1 - lambda] = 1/2 before the border cuts the box.
    assert 0.2 < float(shares.mean()) < 0.5
    assert sorted(others.tolist()) == list(range(300))


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({"schedule": "one-cycle"}, {0: 0.0, 2: 0.5, 4: 1.0, 7: 0.5, 10: 0.0}),
        ({"schedule": "one-cycle", "warm_up": 2}, {0: 0.0, 1: 0.5, 2: 1.0, 6: 0.5, 10: 0.0}),
        ({"schedule": "piecewise", "points": [[0.2, 1], [0.6, 0.5], [0.6001, 0.1]]}, {0: 1.0, 2: 1.0, 4: 0.75, 9: 0.1}),
    ],
)
def test_rates_in_straight_lines(options, factors):
    training = TrainingConfig.model_validate({"epochs": 10, **options})
    assert {at: schedule(training, at) for at in factors} == pytest.approx(factors)


def test_gradients_are_clipped_to_a_length(begun):
    run = begun(
        "at", **{"training.clip_gradient": 1e-3, "training.optimiser": "sgd", "training.momentum": 0.0,
                 "training.learning_rate": 1.0, "data.train": 60, "training.batch_size": 60},
    )  # fmt: skip
    before = [weight.detach().clone() for weight in run.model.parameters()]
    run._steps(_Silent())
    steps = [now.detach() - then for now, then in zip(run.model.parameters(), before, strict=True)]
    length = math.sqrt(sum(float(step.square().sum()) for step in steps))
    assert length == pytest.approx(1e-3, rel=1e-2)


class _Silent:
    """A bar that shows nothing."""

    def advance(self, *_):
        """Nothing."""


def test_eps_rises_over_its_epochs(begun, monkeypatch):
    run = begun("at", **{"training.eps_warm_up": 1, "training.epochs": 2, "training.batch_size": 30, "threat.eps": 0.2})
    seen = []
    original = corral.training.methods.base.pgd
    monkeypatch.setattr(
        "corral.training.methods.base.pgd", lambda *a, **k: (seen.append(k["eps"]), original(*a, **k))[1]
    )
    run._steps(_Silent())
    assert seen == pytest.approx([0.0, 0.05, 0.1, 0.15])
    run.epoch = 1
    run._steps(_Silent())
    assert seen[4:] == pytest.approx([0.2] * 4)
    assert run.context.threat.eps == pytest.approx(0.2)  # what validation and the record are of


@pytest.mark.parametrize("objective", ["margin", "dlr", "targeted"])
def test_the_inner_objective_is_the_one_asked_for(begun, monkeypatch, objective):
    run = begun("trades", **{"method.inner.objective": objective})
    seen = {}
    monkeypatch.setattr("corral.training.methods.base.pgd", lambda model, x, y, **k: (seen.update(k, y=y), x)[1])
    x, y = run._batch(torch.arange(50))
    run.method.loss(x, y, torch.arange(50))
    assert seen["objective"] == ("cross_entropy" if objective == "targeted" else objective)
    assert seen["targeted"] == (objective == "targeted")
    assert bool((seen["y"] == y).all()) == (objective != "targeted")
    assert not bool((seen["y"] == y).any()) or objective != "targeted"


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("mmc", {"training.label_smoothing": 0.1}, "smooths no labels"),
        ("corral", {"data.cutmix": True}, "no loss of two labels"),
        ("mmc", {"method.inner.objective": "margin"}, "no adversary on logits"),
        ("free-at", {"training.perturbation.gamma": 0.01}, "leave training.perturbation out"),
        ("at", {"training.weight_averaging": 1.5}, "less than 1"),
        ("at", {"training.weight_averaging.decay": 0.9, "training.weight_averaging.swa_from": 2}, "either a decay"),
        ("at", {"training.weight_averaging.swa_from": 99}, "among the 30 epochs"),
        ("at", {"training.schedule": "piecewise"}, "needs them"),
        ("at", {"training.schedule": "piecewise", "training.points": [[0.5, 1], [0.2, 0]]}, "rising shares"),
        ("at", {"training.points": [[0, 1]]}, "go with schedule 'piecewise'"),
        ("at", {"training.eps_warm_up": 30}, "eps_warm_up must end"),
        ("at", {"training.schedule": "one-cycle", "training.converged.tolerance": 0.0,
                "training.converged.epochs": 3, "data.validation": 100}, "falls to the end"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(recipe, overrides, message):
    with pytest.raises(UsageError, match=message):
        load_recipe(recipe, data="digits", overrides=overrides)
