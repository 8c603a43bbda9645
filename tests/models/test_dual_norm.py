"""Dual BatchNorm against two networks of their own, and each branch as a single network."""

import copy

import pytest
import torch
from torch import nn

from corral.models import ResNet
from corral.models.dual_norm import DualBatchNorm2d, make_dual, single_branch, using


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet(1, width=2, depth=10)


def batch(seed, scale=1.0):
    return scale * torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_each_branch_is_a_network_of_its_own_that_shares_the_convolutions():
    """Without optimiser steps the branches' statistics are those of two copies, each shown its own batches."""
    single = network()
    dual, clean, moved = copy.deepcopy(single), copy.deepcopy(single), copy.deepcopy(single)
    assert make_dual(dual) == sum(isinstance(layer, nn.BatchNorm2d) for layer in single.modules())
    for part in (dual, clean, moved):
        part.train()
    for seed in range(3):
        with using(dual, "clean"):
            torch.testing.assert_close(dual(batch(seed)), clean(batch(seed)))
        with using(dual, "adversarial"):
            torch.testing.assert_close(dual(batch(seed, 5.0)), moved(batch(seed, 5.0)))
    for part in (dual, clean, moved):
        part.eval()
    with using(dual, "clean"):
        torch.testing.assert_close(dual(batch(9)), clean(batch(9)))
    with using(dual, "adversarial"):
        torch.testing.assert_close(dual(batch(9)), moved(batch(9)))
    assert not torch.allclose(clean(batch(9)), moved(batch(9)))


@pytest.mark.parametrize("branch", ["clean", "adversarial"])
def test_a_branch_alone_loads_into_a_single_network(branch):
    dual = network()
    make_dual(dual)
    dual.train()
    for seed, name in enumerate(["clean", "adversarial", "adversarial"]):
        with using(dual, name):
            dual(batch(seed, 1.0 + 3 * (name == "adversarial")))
    alone = network(seed=1)
    alone.load_state_dict(single_branch(dual.state_dict(), branch))
    with using(dual.eval(), branch):
        assert torch.equal(alone.eval()(batch(5)), dual(batch(5)))


def test_both_branches_begin_as_the_layer_was_and_share_nothing_with_it():
    single = nn.BatchNorm2d(3)
    single(torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        single.weight.fill_(2.0)
    before = copy.deepcopy(single.state_dict())
    dual = DualBatchNorm2d(single)
    dual(torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1)) + 7)
    for name, tensor in before.items():
        assert torch.equal(single.state_dict()[name], tensor)
        assert torch.equal(dual.adversarial.state_dict()[name], tensor)
    assert not torch.equal(dual.running_mean, before["running_mean"])


def test_the_branch_comes_back_also_after_an_exception():
    dual = network()
    make_dual(dual)
    layer = next(part for part in dual.modules() if isinstance(part, DualBatchNorm2d))
    with using(dual, "adversarial"):
        assert layer.branch == "adversarial"
    assert layer.branch == "clean"
    with pytest.raises(RuntimeError), using(dual, "adversarial"):
        raise RuntimeError
    assert layer.branch == "clean"


def test_gradients_of_a_branch_leave_the_other_alone():
    dual = network()
    make_dual(dual)
    with using(dual, "adversarial"):
        dual(batch(0)).square().sum().backward()
    layers = [part for part in dual.modules() if isinstance(part, DualBatchNorm2d)]
    assert all(layer.weight.grad is None for layer in layers)
    assert all(layer.adversarial.weight.grad is not None for layer in layers)


def test_a_second_call_changes_nothing_and_another_branch_is_refused():
    dual = network()
    assert make_dual(dual) > 0
    assert make_dual(dual) == 0
    with pytest.raises(ValueError, match="branch 'mixed' is not one of clean, adversarial"), using(dual, "mixed"):
        pass
