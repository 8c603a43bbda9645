"""The state a model is attacked in, and that nothing of it stays behind."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from corral import attacks
from corral.attacks import pgd
from corral.attacks.state import attacked
from corral.models import Classifier, LinearHead
from corral.models.backbones import Backbone, Embedded
from corral.models.backbones.convnet import ConvNet
from corral.models.contract import ModelError
from corral.precision import full_float32


@pytest.fixture(autouse=True)
def own_tf32_settings():
    """TF32 switches of the process, put back after each test."""
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution


def tf32():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def normalised_net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


class BrokenError(Exception):
    """Raised in the tests' blocks."""


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("fails", [False, True])
def test_flags_of_a_mixed_model_come_back(mode, fails):
    model = normalised_net().train()
    model[1].eval()
    model[4].weight.requires_grad_(False)
    training = [module.training for module in model.modules()]
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    assert len(set(training)) == len(set(trainable)) == 2
    try:
        with attacked(model, mode):
            assert {module.training for module in model.modules()} == {mode == "train"}
            assert not any(parameter.requires_grad for parameter in model.parameters())
            if fails:
                raise BrokenError
    except BrokenError:
        assert fails
    assert [module.training for module in model.modules()] == training
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable


@pytest.mark.parametrize("fails", [False, True])
def test_running_statistics_come_back_after_an_attack_in_train_mode(fails):
    model = normalised_net()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with attacked(model, "train"):
            model(torch.rand(5, 1, 4, 4))
            assert not torch.equal(model[1].running_mean, before["1.running_mean"])
            if fails:
                raise BrokenError
    except BrokenError:
        assert fails
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert int(model[1].num_batches_tracked) == 0


@pytest.mark.parametrize(
    ("mode", "keep"), [("eval", "best"), ("eval", "last"), ("eval", "max_loss_restart"), ("train", "last")]
)
def test_pgd_leaves_the_model_as_it_found_it(mode, keep):
    model = normalised_net().train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training = [module.training for module in model.modules()]
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = pgd(model, x, torch.arange(6) % 3, eps=0.1, steps=3, step_size=0.05, keep=keep, mode=mode)
    assert not found.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert [module.training for module in model.modules()] == training


def test_gradients_already_accumulated_are_not_touched():
    model = normalised_net()
    model(torch.rand(4, 1, 4, 4)).sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    pgd(model, torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64), eps=0.1, steps=2, step_size=0.05)
    after = [parameter.grad for parameter in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_a_model_that_fails_is_restored_too():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = normalised_net()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 3:
                raise BrokenError
            return self.inner(x)

    model = Broken().train()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    with pytest.raises(ModelError, match="BrokenError"):
        pgd(
            model,
            torch.rand(4, 1, 4, 4),
            torch.zeros(4, dtype=torch.int64),
            eps=0.1,
            steps=5,
            step_size=0.05,
            keep="last",
        )
    assert model.calls == 3
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert tf32() == (True, True)


def test_the_model_meets_float32_without_tf32_in_the_mode_asked_for():
    seen = []

    class Witness(nn.Module):
        def forward(self, x):
            seen.append((self.training, x.dtype, *tf32(), torch.is_grad_enabled()))
            return x.flatten(1)[:, :3]

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.int64)
    for mode in ("eval", "train"):
        pgd(Witness().train(), x, y, eps=0.1, steps=2, step_size=0.1, keep="last", mode=mode)
    assert seen == [(False, torch.float32, False, False, True)] * 2 + [(True, torch.float32, False, False, True)] * 2
    assert tf32() == (True, True)


@pytest.mark.parametrize("matmul", [False, True])
@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_full_float32_switches_tf32_off_and_puts_both_switches_back(matmul, convolution, fails):
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution
    try:
        with full_float32():
            assert tf32() == (False, False)
            with full_float32():
                assert tf32() == (False, False)
            assert tf32() == (False, False)
            if fails:
                raise BrokenError
    except BrokenError:
        assert fails
    assert tf32() == (matmul, convolution)


@pytest.mark.parametrize("keep", ["best", "max_loss_restart"])
def test_results_are_not_measured_in_train_mode(keep):
    x, y = torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="mode 'train' needs keep 'last'"):
        pgd(normalised_net(), x, y, eps=0.1, steps=1, step_size=0.1, keep=keep, mode="train")


@pytest.mark.parametrize(("keep", "expected"), [("best", torch.float32), ("last", torch.bfloat16)])
def test_autocast_reaches_only_the_attack_inside_training(keep, expected):
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 3)

        def forward(self, x):
            seen.append(self.linear(x.flatten(1)).dtype)
            return self.linear(x.flatten(1)).float()

    x, y = torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        pgd(Watched(), x, y, eps=0.1, steps=2, step_size=0.1, keep=keep)
    assert set(seen) == {expected}


def test_full_float32_also_turns_off_torchs_newer_switches():
    """In a process of its own: torch refuses to mix the newer switches with the older ones that other tests use."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has only the older switches")
    code = """
import torch
from corral.precision import full_float32
torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "tf32"
with full_float32():
    inside = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
after = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
print(*inside, *after)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    matmul, convolution, *after = found.stdout.split()
    assert matmul == "ieee"
    assert convolution in ("ieee", "none")  # "none" is how torch shows the older switch off
    assert after == ["tf32", "tf32"]


def image_classifier():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier(ConvNet(3, 8, width=4, features=6), LinearHead(6, 3), [0.5] * 3, [0.5] * 3).eval()


def channels_last(model):
    kernels = [parameter for parameter in model.parameters() if parameter.dim() == 4]
    assert kernels
    return {kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels}


@pytest.mark.parametrize("fails", [False, True])
def test_kernels_lie_with_channels_last_only_within_and_give_the_same_logits(fails):
    model, x = image_classifier(), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    memory = [parameter.data_ptr() for parameter in model.parameters()]
    before = model(x)
    try:
        with attacked(model):
            assert channels_last(model) == {True}
            assert torch.allclose(model(x), before, atol=1e-6)
            if fails:
                raise BrokenError
    except BrokenError:
        assert fails
    assert [parameter.data_ptr() for parameter in model.parameters()] == memory
    assert channels_last(model) == {False}
    with attacked(model, "train"):
        assert channels_last(model) == {False}


def test_other_peoples_modules_keep_their_strides():
    model = normalised_net()
    strides = model[0].weight.stride()
    with attacked(model):
        assert model[0].weight.stride() == strides


class Foreign(Backbone):
    """A user's backbone around one of ours."""

    def __init__(self):
        super().__init__()
        self.features_dim = 6
        self.inner = ConvNet(3, 8, width=4, features=6)

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("wrap", [lambda backbone: backbone, lambda backbone: Embedded(backbone, 6)])
def test_backbones_of_unknown_origin_and_what_they_hold_keep_their_strides(wrap):
    model = Classifier(wrap(Foreign()), LinearHead(6, 3), [0.5] * 3, [0.5] * 3)
    with attacked(model):
        assert channels_last(model) == {False}
    ours = Classifier(wrap(ConvNet(3, 8, width=4, features=6)), LinearHead(6, 3), [0.5] * 3, [0.5] * 3)
    with attacked(nn.Sequential(model, ours)):
        assert channels_last(model) == {False}
        assert channels_last(ours) == {True}


def test_a_graph_built_before_an_attack_has_the_same_gradients_after_it():
    model, x = image_classifier(), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0])

    def gradients(attack):
        loss = nn.functional.cross_entropy(model(x), y)
        if attack:
            pgd(model, x, y, eps=0.1, steps=2, step_size=0.05, keep="last")
        return torch.autograd.grad(loss, list(model.parameters()))

    for plain, attacked_between in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, attacked_between)


def test_inference_mode_which_would_hide_every_gradient_is_refused():
    model, y = normalised_net(), torch.zeros(2, dtype=torch.long)
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for attack in (
        lambda x: attacks.pgd(model, x, y, eps=0.1, steps=1, step_size=0.1),
        lambda x: attacks.pgd(model, x, y, eps=0.1, steps=1, step_size=0.1, keep="last"),
        lambda x: attacks.apgd(model, x, y, eps=0.1),
        lambda x: attacks.autoattack(model, x, y, eps=0.1),
        lambda x: attacks.ddn(model, x, y),
    ):
        with torch.inference_mode():
            made_inside = x.clone()
            with pytest.raises(ValueError, match=r"outside torch.inference_mode\(\)"):
                attack(x)
        with pytest.raises(ValueError, match=r"outside torch.inference_mode\(\)"):
            attack(made_inside)
