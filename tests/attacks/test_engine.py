"""The engine: what it gives to which attack, what it keeps, what it takes from a cache, and what it counts."""

import numpy as np
import pytest
import torch
from torch import nn

from corral.attacks.attack import Attack
from corral.attacks.engine import cpu_batch, run_attacks
from corral.attacks.outcome import Outcome
from corral.attacks.threat import Threat
from corral.errors import CorralError

THREAT = Threat("Linf", 0.5)


def below(share, met=None, name="below"):
    """An attack that breaks the images of mean below `share`, and moves what it is given by 0.01."""

    def run(model, x, y, *, seed):
        if met is not None:
            met.append((name, x.flatten(1).mean(1).tolist()))
        broken = x.flatten(1).mean(1) < share
        return Outcome(x + 0.01, broken, torch.where(broken, 7, -1), 2 * len(x), len(x))

    return Attack(name, "", (), THREAT, run)


class Memory(dict):
    """A cache without a disk."""

    def read(self, key, number):
        return self.get((key, number))

    def write(self, key, number, batch):
        self[key, number] = batch


def images(n=20):
    """Images of means 0, 1/n, 2/n ..."""
    return (torch.arange(n) / n).view(n, 1, 1, 1).expand(n, 1, 2, 2).contiguous()


def labels(n=20):
    return torch.zeros(n, dtype=torch.int64)


@pytest.mark.parametrize("batch_size", [None, 1, 7, 20])
def test_each_attack_meets_what_the_ones_before_left_whatever_the_batches(batch_size):
    met = []
    attacks = [below(0.249, met, "a"), below(0.1, met, "b"), below(0.499, met, "c")]
    found = run_attacks(nn.Identity(), images(), labels(), attacks, batch_size=batch_size)
    assert found.broken.tolist() == [True] * 10 + [False] * 10
    assert found.by.tolist() == [0] * 5 + [2] * 5 + [-1] * 10
    assert found.step.tolist() == [7] * 10 + [-1] * 10
    assert [(t.given, t.broken, t.forwards, t.backwards) for t in found.tallies] == [
        (20, 5, 40, 20),
        (15, 0, 30, 15),
        (15, 5, 30, 15),
    ]
    assert found.standing == (15, 15, 10)
    assert sorted(mean for name, means in met if name == "b" for mean in means) == pytest.approx(
        [place / 20 for place in range(5, 20)]
    )
    # A point is of the attack that broke its image, of what stands the first one's: each moved by 0.01 from the image.
    torch.testing.assert_close(found.x_adv, images() + 0.01)


def test_an_attack_meets_the_survivors_of_all_batches_together():
    met = []
    attacks = [below(0.5, met, "a"), below(0.1, met, "b")]
    run_attacks(nn.Identity(), images(), labels(), attacks, batch_size=7)
    assert [len(means) for name, means in met if name == "a"] == [7, 7, 6]
    assert [len(means) for name, means in met if name == "b"] == [7, 3]


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 8, 8), 500), ((1, 16, 16), 382), ((1, 28, 28), 125), ((3, 32, 32), 125)]
)
def test_a_cpu_takes_more_small_images_at_a_time(shape, size):
    assert cpu_batch(torch.Size(shape).numel()) == size


def test_images_that_are_wrong_without_attack_meet_none():
    met, right = [], torch.arange(20) % 2 == 0
    found = run_attacks(nn.Identity(), images(), labels(), [below(0.3, met)], right=right, batch_size=6)
    assert sum(len(means) for _, means in met) == 10
    assert found.broken.tolist() == [not bool(right[place]) or place / 20 < 0.3 for place in range(20)]
    assert found.step[~right].unique().tolist() == [0]
    assert torch.equal(found.x_adv[~right], images()[~right])
    assert (found.tallies[0].given, found.tallies[0].broken, found.standing) == (10, 3, (7,))


@pytest.mark.parametrize("batch_size", [None, 4])
def test_only_the_images_asked_for_are_kept(batch_size):
    keep = torch.tensor([0, 3, 11, 19])
    attacks = [below(0.1), below(0.4)]
    found = run_attacks(nn.Identity(), images(), labels(), attacks, keep=keep, batch_size=batch_size)
    torch.testing.assert_close(found.x_adv, images()[keep] + 0.01)
    none = run_attacks(nn.Identity(), images(), labels(), attacks, keep=keep[:0], batch_size=batch_size)
    assert none.x_adv.shape == (0, 1, 2, 2)
    assert torch.equal(none.broken, found.broken)


def test_finished_batches_of_attacks_in_turn_are_taken_as_they_are():
    met, cache = [], Memory()
    attacks = [below(0.249, met, "a"), below(0.499, met, "b")]

    def run():
        return run_attacks(nn.Identity(), images(), labels(), attacks, batch_size=8, cache=cache)

    first, calls = run(), len(met)
    del cache["b", 1]
    again = run()
    # The second attack on the second batch alone was run again, on what the first one left.
    assert [(name, len(means)) for name, means in met[calls:]] == [("b", 8)]
    for name in ("broken", "step", "by", "x_adv"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert [(t.given, t.broken, t.forwards) for t in first.tallies] == [
        (t.given, t.broken, t.forwards) for t in again.tallies
    ]
    batch = cache["a", 0]
    assert (batch.correct.dtype, batch.step.dtype, batch.shown.dtype) == (np.bool_, np.int64, np.float32)


def test_a_cached_batch_of_other_images_is_refused():
    cache = Memory()
    run_attacks(nn.Identity(), images(8), labels(8), [below(0.3)], batch_size=4, cache=cache)
    with pytest.raises(CorralError, match="batch 0 of below was finished with 4 images, expected 5; give --overwrite"):
        run_attacks(nn.Identity(), images(8), labels(8), [below(0.3)], batch_size=5, cache=cache)


def test_images_may_come_from_a_function_of_their_places():
    x, asked = images(), []

    def fetched(rows):
        asked.append(len(rows))
        return x[rows]

    found = run_attacks(nn.Identity(), fetched, labels(), [below(0.3)], batch_size=5)
    assert torch.equal(found.broken, run_attacks(nn.Identity(), x, labels(), [below(0.3)]).broken)
    assert max(asked) == 5


def test_no_images_are_no_work_and_no_attack_is_an_error():
    met = []
    found = run_attacks(nn.Identity(), images()[:0], labels(0), [below(0.3, met)])
    assert (len(found.broken), len(found.x_adv), met) == (0, 0, [])
    with pytest.raises(ValueError, match="at least one attack"):
        run_attacks(nn.Identity(), images(), labels(), [])
