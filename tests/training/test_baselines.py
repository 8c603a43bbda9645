"""TRADES, QTRADES and free adversarial training against slow twins written from their papers."""

import copy
import math

import pytest
import torch

from corral.data.batches import shuffled
from corral.progress import Progress
from corral.training import Training


def disagreement(kind, clean, adversarial):
    """(n,) by loops over examples and classes; logits in, float64 throughout."""
    losses = []
    for p, q in zip(clean.double().softmax(1), adversarial.double().softmax(1), strict=True):
        if kind == "kl":
            losses.append(sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True)))
        elif kind == "cross_entropy":
            losses.append(-sum(a * b.log() for a, b in zip(p, q, strict=True)))
        else:
            losses.append(sum(a * (a.log() - b) for a, b in zip(p, q, strict=True)) / len(p))
    return torch.stack(losses)


@pytest.mark.parametrize("recipe", ["trades", "qtrades", "qtrades-published"])
def test_trades_and_qtrades_equal_their_slow_twins_in_value_and_gradient(begun, recipe):
    run = begun(recipe)
    config, eps = run.recipe.method, run.recipe.threat.eps
    expected = {"trades": (6.0, 5), "qtrades": (1.0, 1), "qtrades-published": (8.0, 1)}
    assert (config.consistency_weight, config.inner.steps) == expected[recipe]
    rows = torch.arange(30)
    x, y = run.images.float(rows), run.images.labels[rows]
    state = run.noise.get_state()
    loss, metrics = run.method.loss(x, y, rows)
    run.noise.set_state(state)
    with torch.no_grad():
        clean = run.model(x)
    # The adversary by torch alone: uniform noise, then sign steps, ball and box after each.
    moved = x + (2 * torch.rand(x.shape, generator=run.noise) - 1) * eps
    for _ in range(config.inner.steps):
        moved = moved.clamp(0, 1).requires_grad_()
        value = disagreement(config.consistency, clean, run.model(moved)).sum()
        (slope,) = torch.autograd.grad(value, moved)
        moved = moved.detach() + config.inner.step_ratio * eps * slope.sign()
        moved = torch.minimum(torch.maximum(moved, x - eps), x + eps)
    moved = moved.clamp(0, 1)
    logits, adversarial = run.model(x), run.model(moved)
    cross_entropy = -logits.double().log_softmax(1)[rows, y].mean()
    term = disagreement(config.consistency, logits, adversarial).mean()
    twin = cross_entropy + config.consistency_weight * term
    assert float(loss.detach()) == pytest.approx(float(twin.detach()), rel=1e-4)
    assert float(metrics["consistency"]) == pytest.approx(float(term.detach()), rel=1e-3, abs=1e-6)
    parameters = list(run.model.parameters())
    found, expected = torch.autograd.grad(loss, parameters), torch.autograd.grad(twin, parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-5)


def test_the_trades_adversary_stays_in_ball_and_box_and_restores_the_mode(begun):
    run = begun("trades")
    rows = torch.arange(30)
    x, y = run.images.float(rows), run.images.labels[rows]
    run.model.head.eval()
    flags = [module.training for module in run.model.modules()]
    x_adv = run.method.consistency_attack(
        run.model, x, y, run.recipe.method.inner, lambda a, b: (a - b).square().sum(1)
    )
    assert [module.training for module in run.model.modules()] == flags
    assert all(parameter.requires_grad and parameter.grad is None for parameter in run.model.parameters())
    assert float((x_adv - x).abs().max()) <= run.recipe.threat.eps + 1e-6
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1


def epoch(run):
    with Progress("", 0, "", enabled=False) as bar:
        return run._epoch(bar)


def test_free_training_is_algorithm_1_of_its_paper(begun):
    plain = {"optimiser": "sgd", "momentum": 0.0, "training.learning_rate": 0.05, "training.batch_size": 40}
    run = begun("free-at", **plain | {"replays": 3, "data.train": 110})
    twin, eps = copy.deepcopy(run.model), run.recipe.threat.eps
    order = torch.Generator()
    order.set_state(run.order.get_state())
    delta = torch.zeros(40, *run.images.shape)
    for _ in range(2):
        for rows in shuffled(110, 40, generator=order):  # 40, 40 and 30 rows
            x, y = run.images.float(rows), run.images.labels[rows]
            for _ in range(3):
                # What another batch left may take these images out of the pixel range.
                own = ((x + delta[: len(x)]).clamp(0, 1) - x).requires_grad_()
                loss = sum(-twin(x + own).log_softmax(1)[i, label] for i, label in enumerate(y)) / len(y)
                *slopes, slope = torch.autograd.grad(loss, [*twin.parameters(), own])
                with torch.no_grad():
                    for parameter, gradient in zip(twin.parameters(), slopes, strict=True):
                        parameter -= 0.05 * gradient
                    moved = (own + eps * slope.sign()).clamp(-eps, eps)
                    delta[: len(x)] = (x + moved).clamp(0, 1) - x
    for _ in range(2):
        epoch(run)
    for (name, found), expected in zip(run.model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, msg=name)


def test_free_training_costs_its_replays_and_keeps_delta_in_ball_and_box(begun, monkeypatch):
    run = begun("free-at", **{"training.batch_size": 40, "data.train": 81, "threat.eps": 0.3})
    method, seen = run.method, []
    forwards = []
    run.model.register_forward_hook(lambda *_: forwards.append(run.model.training))
    original = type(method).after_step

    def spied(self):
        before = self.attacked.detach().clone()
        original(self)
        after = self.clean + self.delta[: len(self.clean)]
        for images in (before, after):
            assert float((images - self.clean).abs().max()) <= 0.3 + 1e-6
            assert float(images.min()) >= -1e-6
            assert float(images.max()) <= 1 + 1e-6
        seen.append((self.clean, before, len(self.clean)))

    monkeypatch.setattr(type(method), "after_step", spied)
    rates = []
    rate = Training._set_learning_rates
    monkeypatch.setattr(
        Training, "_set_learning_rates", lambda self, share: (rates.append(share), rate(self, share))[1]
    )
    numbers = epoch(run)
    # 40 and 41 rows (the one left over joins), each 8 times: one forward pass and one step a time.
    assert [count for _, _, count in seen] == [40] * 8 + [41] * 8
    assert numbers["steps"] == len(forwards) == 16
    assert all(forwards)
    assert run._images_left() == 8 * 81 * (run.total_epochs - 1)
    assert rates == pytest.approx([40 * i / (8 * 81) for i in range(8)] + [(320 + 41 * i) / (8 * 81) for i in range(8)])
    clean, first, _ = seen[0]
    assert torch.equal(clean, first)  # delta begins at 0
    assert not torch.equal(seen[1][0], seen[1][1])
    clean, carried_over, _ = seen[8]
    assert float((carried_over - clean)[:40].abs().max()) > 0  # from batch to batch too
    assert torch.equal(carried_over[40], clean[40])  # whose last place is new
    assert method.tensors()["delta"].shape == (41, 1, 8, 8)


def test_free_training_replays_one_augmentation(begun):
    run = begun("free-at", crop=1, flip=True)
    batches = run.method.batches()
    pairs = []
    for _ in range(9):
        rows = next(batches)
        x, y = run._batch(rows)
        loss, _ = run.method.loss(x, y, rows)
        loss.backward()
        run.method.after_step()
        pairs.append((x, run.method.clean))
    assert all(torch.equal(clean, pairs[0][0]) for _, clean in pairs[:8])
    assert not torch.equal(pairs[1][0], pairs[0][0])
    assert torch.equal(pairs[8][1], pairs[8][0])


def test_free_training_in_an_l2_ball_moves_by_unit_gradients(begun):
    run = begun("free-at", **{"threat.norm": "L2", "threat.eps": 0.5, "step_ratio": 0.4})
    rows = torch.arange(20)
    x, y = run.images.float(rows), run.images.labels[rows]
    run.method.loss(x, y, rows)[0].backward()
    run.method.after_step()
    lengths = run.method.delta[:20].flatten(1).norm(dim=1)
    assert float(lengths.max()) <= 0.2 + 1e-6  # shorter where the box cuts it
    assert math.isclose(float(lengths.max()), 0.2, rel_tol=0.5)


def test_a_delta_of_another_shape_is_refused(begun):
    with pytest.raises(ValueError, match=r"delta must be \(61, 1, 8, 8\)"):
        begun("free-at").method.load({"delta": torch.zeros(3, 1, 8, 8)})
