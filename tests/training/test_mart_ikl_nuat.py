"""MART, IKL and NuAT against slow twins written from their papers, and the state that IKL and NuAT carry."""

import math

import pytest
import torch
import torch.nn.functional as F

from corral.losses import nuclear_norm
from corral.progress import Progress


def batch(run, n=24):
    rows = torch.arange(n)
    return run.images.float(rows), run.images.labels[rows], rows


def loss_twice(run, twin):
    """The method's loss, and a twin's from the same random numbers."""
    x, y, rows = batch(run)
    state = run.noise.get_state()
    loss, metrics = run.method.loss(x, y, rows)
    run.noise.set_state(state)
    return loss, twin(x, y), metrics


def assert_equal_in_value_and_gradient(run, loss, expected):
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    parameters = list(run.model.parameters())
    found, twins = torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)
    for one, other in zip(found, twins, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-5)


def climb(run, x, value):
    """PGD by torch alone: a uniform start, then sign steps, ball and box after each."""
    inner, eps = run.recipe.method.inner, run.recipe.threat.eps
    moved = x + (2 * torch.rand(x.shape, generator=run.noise) - 1) * eps
    for _ in range(inner.steps):
        moved = moved.clamp(0, 1).requires_grad_()
        (slope,) = torch.autograd.grad(value(run.model(moved).double()), moved)
        moved = moved.detach() + inner.step_ratio * eps * slope.sign()
        moved = torch.minimum(torch.maximum(moved, x - eps), x + eps)
    return moved.clamp(0, 1)


def soft_entropy(p, logits):
    """-sum_c p_c log softmax(logits)_c by loops."""
    return torch.stack([-sum(a * b for a, b in zip(p[i], row, strict=True)) for i, row in enumerate(logits)])


def epoch(run):
    with Progress("", 0, "", enabled=False) as bar:
        return run._epoch(bar)


def test_mart_is_its_slow_twin(begun):
    run = begun("mart", **{"inner.steps": 3})

    def twin(x, y):
        x_adv = climb(run, x, lambda logits: -logits.log_softmax(1)[torch.arange(len(y)), y].sum())
        clean, adversarial = run.model(x).double().softmax(1), run.model(x_adv).double().softmax(1)
        losses = []
        for p, q, label in zip(clean, adversarial, y.tolist(), strict=True):
            rival = max(q[k] for k in range(10) if k != label)
            divergence = sum(p[k] * (p[k] / q[k]).log() for k in range(10))
            losses.append(-q[label].log() - (1 - rival).log() + 5 * divergence * (1 - p[label]))
        return torch.stack(losses).mean()

    loss, expected, metrics = loss_twice(run, twin)
    assert_equal_in_value_and_gradient(run, loss, expected)
    assert run.method.softens is run.method.mixes is False
    assert set(metrics) == {"boosted_cross_entropy", "consistency", "accuracy", "adversarial_accuracy"}


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_ikl_is_its_slow_twin_with_any_head(begun, head):
    run = begun("ikl", **{"inner.steps": 3, "model.head": head})
    assert run.model.head.name == head
    generator = torch.Generator().manual_seed(5)
    run.method.class_weights = torch.rand(10, 10, generator=generator).softmax(1)

    def twin(x, y):
        with torch.no_grad():
            p = run.model(x).double().softmax(1)
        x_adv = climb(run, x, lambda logits: soft_entropy(p, logits.log_softmax(1)).sum())
        logits, adversarial = run.model(x).double(), run.model(x_adv).double()
        squares = []
        for o, other, label in zip(logits, adversarial, y.tolist(), strict=True):
            w = run.method.class_weights[label].double()
            apart = (o[:, None] - o[None, :]) - (other[:, None] - other[None, :])
            squares.append((w[:, None] * w[None, :] * apart.square()).sum() / 4)
        entropy = soft_entropy(torch.nn.functional.one_hot(y, 10).double(), logits.log_softmax(1))
        soft = soft_entropy(logits.softmax(1).detach(), adversarial.log_softmax(1))
        return (entropy + 20 * torch.stack(squares) + 4 * soft).mean()

    loss, expected, _ = loss_twice(run, twin)
    assert_equal_in_value_and_gradient(run, loss, expected)


def test_the_cross_entropy_of_ikl_and_nuat_takes_soft_labels(begun):
    for recipe in ("ikl", "nuat"):
        run = begun(recipe)
        assert run.method.softens
        x, y, rows = batch(run)
        run.model.eval()
        state = run.noise.get_state()
        plain, _ = run.method.loss(x, y, rows)
        run.noise.set_state(state)
        run.method.context.soft.smoothing = 0.3
        smooth, _ = run.method.loss(x, y, rows)
        logs = run.model(x).log_softmax(1)
        # Of the label's log probability, 0.3 goes to the mean of all.
        more = 0.3 * (logs[rows, y] - logs.mean(1)).mean()
        assert float((smooth - plain).detach()) == pytest.approx(float(more.detach()), rel=1e-3)


def test_ikls_weights_are_uniform_and_then_the_class_means_of_the_epoch_before(begun, monkeypatch):
    run = begun("ikl", **{"training.batch_size": 40, "inner.steps": 1, "temperature": 2.0})
    assert torch.equal(run.method.class_weights, torch.full((10, 10), 0.1))
    seen = []
    loss = run.method.loss

    def spied(x, y, rows):
        # An ingredient may ask for the loss twice; the last answers before the step count.
        loss(x, y, rows)
        found = loss(x, y, rows)
        seen.append((run.method.answers, y))
        return found

    monkeypatch.setattr(run.method, "loss", spied)
    for _ in range(2):
        seen.clear()
        epoch(run)
        answers, labels = torch.cat([one for one, _ in seen]), torch.cat([two for _, two in seen])
        assert len(labels) == 120
        for label in range(10):
            expected = answers[labels == label].mean(0)
            torch.testing.assert_close(run.method.class_weights[label], expected, rtol=1e-5, atol=1e-6)
    assert not run.method.sums.any()


def test_ikls_answers_are_those_of_the_training_pass_over_the_temperature(begun):
    run = begun("ikl", temperature=2.0)
    x, y, rows = batch(run)
    run.method.loss(x, y, rows)
    assert not run.method.answers.requires_grad
    torch.testing.assert_close(run.method.answers, (run.model(x) / 2).softmax(1).detach())


def test_a_class_that_an_epoch_does_not_show_keeps_its_weights(begun):
    run = begun("ikl")
    run.method.answers, run.method.labels = torch.eye(10)[[3, 4]], torch.tensor([7, 7])
    run.method.after_step()
    run.method.after_epoch()
    expected = torch.full((10, 10), 0.1)
    expected[7] = (torch.eye(10)[3] + torch.eye(10)[4]) / 2
    assert torch.equal(run.method.class_weights, expected)


@pytest.mark.parametrize("bad", [torch.zeros(3, 10), torch.full((10, 10), math.nan)])
def test_class_weights_of_another_kind_are_refused(begun, bad):
    with pytest.raises(ValueError, match=r"class_weights must be \(10, 10\) finite numbers"):
        begun("ikl").method.load({"class_weights": bad})


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_nuat_is_its_slow_twin(begun, norm):
    run = begun("nuat", **{"ramp": 0.0, "adversary.alternate": False, "threat.norm": norm, "threat.eps": 0.2})
    eps = 0.2

    def along(direction):
        if norm == "Linf":
            return direction.sign()
        return direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)

    def norm_of(residuals):
        return torch.linalg.eigvalsh(residuals.T @ residuals).clamp_min(0).sqrt().sum()

    def twin(x, y):
        labels = torch.arange(len(y)), y
        signs = torch.where(torch.rand(x.shape, generator=run.noise) < 0.5, 1.0, -1.0)
        moved = (x + eps / 2 * along(signs)).clamp(0, 1).requires_grad_()
        clean, logits = run.model(x).detach().double(), run.model(moved).double()
        value = -logits.log_softmax(1)[labels].mean() + 4.5 * norm_of(logits - clean) / len(x)
        (slope,) = torch.autograd.grad(value, moved)
        delta = moved.detach() + eps * along(slope) - x
        if norm == "Linf":
            delta = delta.clamp(-eps, eps)
        else:
            delta = delta * (eps / delta.flatten(1).norm(dim=1)).clamp_max(1).view(-1, 1, 1, 1)
        logits, adversarial = run.model(x).double(), run.model((x + delta).clamp(0, 1)).double()
        return -logits.log_softmax(1)[labels].mean() + 4.5 * norm_of(adversarial - logits) / len(x)

    loss, expected, metrics = loss_twice(run, twin)
    assert_equal_in_value_and_gradient(run, loss, expected)
    total = metrics["cross_entropy"] + 4.5 * metrics["nuclear_norm"]
    assert float(total) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_nuats_weight_rises_to_its_share_of_the_epochs_and_stays(begun):
    run = begun("nuat", **{"training.epochs": 10, "ramp": 0.5, "nuclear_weight": 4.0, "data.train": 40})
    found = []
    for _ in range(7):
        found.append(run.method.weight)
        assert run.method.after_epoch() == {"nuclear_weight": found[-1]}
    assert found == pytest.approx([0, 0.8, 1.6, 2.4, 3.2, 4, 4])
    assert begun("nuat", ramp=0.0).method.weight == 4.5
    # The released code's: 4.5 / 90 more after each of the first 90 of 100 epochs.
    shipped = begun("nuat", **{"training.epochs": 100, "data.train": 40}).method
    shipped.load({"epoch": torch.tensor(45)})
    assert shipped.weight == pytest.approx(45 * 4.5 / 90)
    for bad in (torch.tensor(-1), torch.zeros(2, dtype=torch.int64), torch.tensor(0.5)):
        with pytest.raises(ValueError, match="epoch must be a whole number"):
            shipped.load({"epoch": bad})


def test_every_second_adversary_of_nuat_climbs_the_cross_entropy_alone(begun, monkeypatch):
    run = begun("nuat", **{"ramp": 0.0, "training.batch_size": 30, "data.train": 120})
    asked = []

    def spied(residuals):
        asked.append(residuals.requires_grad and not next(run.model.parameters()).requires_grad)
        return nuclear_norm(residuals)

    monkeypatch.setattr("corral.training.methods.nuat.nuclear_norm", spied)
    for _ in range(2):
        asked.clear()
        epoch(run)
        # Weights are fixed in an attack: no norm in those of batches 1 and 3; one norm a batch is the loss's.
        assert asked == [False, True, False, False, True, False]


def test_nuats_adversary_stays_in_ball_and_box_and_leaves_the_model_as_it_was(begun):
    for norm, eps in (("Linf", 0.3), ("L2", 1.5)):
        run = begun("nuat", **{"threat.norm": norm, "threat.eps": eps, "ramp": 0.0})
        x, y, _ = batch(run)
        run.model.head.eval()
        flags = [module.training for module in run.model.modules()]
        x_adv = run.method.one_step(x, y)
        assert [module.training for module in run.model.modules()] == flags
        assert all(parameter.requires_grad and parameter.grad is None for parameter in run.model.parameters())
        lengths = (x_adv - x).flatten(1).norm(dim=1, p=math.inf if norm == "Linf" else 2)
        assert float(lengths.max()) <= eps * (1 + 1e-5)
        assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1
        assert not x_adv.requires_grad


@pytest.mark.parametrize("recipe", ["mart", "ikl", "nuat"])
@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_gradients_are_finite_in_bfloat16_and_in_a_ball_of_no_size(begun, recipe, eps):
    """Without a perturbation all of NuAT's residuals, and so its singular values, are 0."""
    more = {"ramp": 0.0} if recipe == "nuat" else {"inner.steps": 2}
    run = begun(recipe, **{"threat.eps": eps, "training.precision": "bfloat16"} | more)
    x, y, rows = batch(run)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = run.method.loss(x, y, rows)
    assert loss.dtype == torch.float32
    for gradient in torch.autograd.grad(loss, list(run.model.parameters())):
        assert torch.isfinite(gradient).all()


def test_nuat_climbs_both_labels_of_mixed_images_once_a_batch(begun):
    """Of two opposite labels, half each, the cross-entropy's slope is that of their mean; the twin takes it by hand."""
    more = {"method.adversary.start_ratio": 0.0, "method.adversary.step_ratio": 0.5, "data.cutmix": True}
    run = begun("nuat", **more)
    method, x, y = run.method, run.images.float(torch.arange(12)), run.images.labels[:12]
    others, shares = y.roll(1), torch.full((12,), 0.5)
    run.context.soft.mixed = others, shares
    run.model.eval()
    images = x.clone().requires_grad_(True)
    logits = run.model(images)
    both = (F.cross_entropy(logits, y, reduction="none") + F.cross_entropy(logits, others, reduction="none")) / 2
    slope = torch.autograd.grad(both.sum(), images)[0]
    expected = (x + 0.5 * run.recipe.threat.eps * slope.sign()).clamp(0, 1)
    with run.context.adversaries.kept():
        found = method.one_step(x, y)
    torch.testing.assert_close(found, expected)
    with run.context.adversaries.shown():
        assert method.one_step(x, y) is found
