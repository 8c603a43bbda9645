"""Foreign models at every public call: what they may return and do, and what is refused in a line."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import corral
from corral import attacks
from corral.attacks.autoattack import count_classes
from corral.attacks.within import pgd_within
from corral.certify import empirical_lipschitz_lower
from corral.errors import CorralError
from corral.models.contract import ModelError, contracted, logits_in

CLASSES, COUNT = 4, 5
# Every public call that takes a model and images, as cheap as it gets: to what it finds, as tensors.
CALLS = {
    "apgd": lambda m, x, y: attacks.apgd(m, x, y, eps=0.3, steps=3),
    "apgd targeted": lambda m, x, y: attacks.apgd(m, x, y, eps=0.3, steps=3, targets=2),
    "apgd L1": lambda m, x, y: attacks.apgd(m, x, y, eps=1.0, norm="L1", steps=5),
    "autoattack": lambda m, x, y: attacks.autoattack(m, x, y, eps=0.9, batch_size=2),
    "carlini_wagner": lambda m, x, y: attacks.carlini_wagner(m, x, y, steps=3, searches=2),
    "ddn": lambda m, x, y: attacks.ddn(m, x, y, steps=3),
    "deepfool": lambda m, x, y: attacks.deepfool(m, x, y, steps=3),
    "ensemble_adaptive": lambda m, x, y: attacks.ensemble_adaptive(m, x, y, eps=0.3, steps=2, restarts=1),
    "fab": lambda m, x, y: attacks.fab(m, x, y, eps=0.3, steps=2),
    "fab_minimal": lambda m, x, y: attacks.fab_minimal(m, x, y, steps=2),
    "fgsm": lambda m, x, y: attacks.fgsm(m, x, y, eps=0.3),
    "mi_fgsm": lambda m, x, y: attacks.mi_fgsm(m, x, y, eps=0.3, steps=2),
    "pgd": lambda m, x, y: pgd(m, x, y, keep="best"),
    "pgd last": lambda m, x, y: pgd(m, x, y, keep="last"),
    "pgd last, train": lambda m, x, y: pgd(m, x, y, keep="last", mode="train"),
    "pgd max_loss_restart": lambda m, x, y: pgd(m, x, y, keep="max_loss_restart"),
    "pgd kl": lambda m, x, y: pgd(m, x, y, keep="last", objective="kl"),
    "pgd_within": lambda m, x, y: pgd_within(m, x, y, torch.full((COUNT,), 0.5), steps=2, restarts=1).x_adv,
    "square": lambda m, x, y: attacks.square(m, x, y, eps=0.3, queries=5),
    "square L1": lambda m, x, y: attacks.square(m, x, y, eps=2.0, norm="L1", queries=5),
    "count_classes": lambda m, x, y: torch.tensor(count_classes(m, x)),
    "diagnose": lambda m, x, y: torch.tensor(
        [-1.0 if one.value is None else one.value for one in corral.diagnose(m, x, y, eps=0.1, progress=False).findings]
    ),
    "empirical_lipschitz_lower": lambda m, x, y: torch.tensor(
        empirical_lipschitz_lower(m, x, steps=2, generator=torch.Generator().manual_seed(0))
    ),
}
# Everything but these rests on the calls above.
CHEAPEST = ("apgd", "ddn", "fab", "fgsm", "pgd", "pgd last", "pgd kl", "square", "count_classes")


def pgd(model, x, y, **more):
    generator = torch.Generator().manual_seed(0)
    return attacks.pgd(model, x, y, **({"eps": 0.3, "steps": 3, "step_size": 0.1, "generator": generator} | more))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, CLASSES)).eval()


def batch():
    x = torch.rand(COUNT, 1, 3, 3, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
    return x, net()(x).argmax(1)


class Pair(NamedTuple):
    logits: torch.Tensor
    aux: torch.Tensor


class Foreign(nn.Module):
    """The network `net`, its output changed."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = net(), change

    def forward(self, x):
        return self.change(self.net(x))


class InPlace(nn.Module):
    """The network `net` of images that are overwritten."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        found = self.net(x.mul_(1.0))
        x.data.zero_()
        return found


UNAMBIGUOUS = {
    "a tuple of one": lambda f: (f,),
    "a list of one": lambda f: [f],
    "a dict of one": lambda f: {"out": f},
    "a dict with logits": lambda f: {"loss": f.sum(), "logits": f},
    "an object with logits": lambda f: SimpleNamespace(logits=f, hidden=None),
    "a named tuple with logits": lambda f: Pair(f, f * 2),
    "squeezed": lambda f: f.squeeze(0),
}
REFUSED = {
    "a tuple of two": (lambda f: (f, f), "returns a tuple, expected a tensor of logits"),
    "a dict of two": (lambda f: {"a": f, "b": f}, "returns a dict, expected a tensor of logits"),
    "numpy": (lambda f: f.detach().numpy(), "returns a numpy.ndarray, through which no gradient leads"),
    "nothing": (lambda f: None, "returns a NoneType, expected a tensor of logits"),
    "labels": (lambda f: f.argmax(1), r"returns torch.int64 \(\d,\) for \d images?, expected float logits"),
    "a map": (lambda f: f[..., None], r"expected float logits \(\d, classes\)"),
}


def test_the_list_holds_every_public_attack():
    functions = {name for name in attacks.__all__ if callable(getattr(attacks, name)) and name.islower()}
    assert functions <= {name.split()[0] for name in CALLS}


@pytest.mark.parametrize("call", CALLS)
def test_a_model_that_changes_its_input_gets_no_image_of_the_callers_and_the_result_is_the_same(call):
    x, y = batch()
    before, labels = x.clone(), y.clone()
    found = CALLS[call](InPlace(), x, y)
    assert torch.equal(x, before)
    assert torch.equal(y, labels)
    assert torch.equal(found, CALLS[call](net(), before.clone(), y))


@pytest.mark.parametrize("call", CHEAPEST)
@pytest.mark.parametrize("kind", UNAMBIGUOUS)
def test_unambiguous_outputs_are_taken(kind, call):
    x, y = batch()
    for count in (COUNT, 1):
        x, y = x[:count], y[:count]
        assert torch.equal(CALLS[call](Foreign(UNAMBIGUOUS[kind]), x, y), CALLS[call](net(), x, y))


def test_unambiguous_outputs_are_diagnosed():
    x, y = batch()
    assert torch.equal(CALLS["diagnose"](Foreign(lambda f: (f,)), x, y), CALLS["diagnose"](net(), x, y))


@pytest.mark.parametrize("call", [*CHEAPEST, "diagnose"])
@pytest.mark.parametrize("kind", REFUSED)
def test_other_outputs_are_refused_in_one_line(kind, call):
    change, message = REFUSED[kind]
    with pytest.raises(ModelError, match=message) as caught:
        CALLS[call](Foreign(change), *batch())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("call", CALLS)
def test_a_half_precision_model_is_computed_in_float32_and_stays_what_it_is(call, dtype):
    x, y = batch()
    model = net().to(dtype)
    held = [parameter.data_ptr() for parameter in model.parameters()]
    found = CALLS[call](model, x, y)
    assert torch.equal(found, CALLS[call](net().to(dtype).float(), x, y))
    assert [parameter.data_ptr() for parameter in model.parameters()] == held
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_half_precision_buffers_are_restored():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9), nn.Linear(9, CLASSES)).half().eval()
    buffers = dict(model.named_buffers())
    CALLS["pgd"](model, *batch())
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())


class Conditional(nn.Module):
    """The network `net`, which fails where a condition holds."""

    def __init__(self, fails):
        super().__init__()
        self.net, self.fails = net(), fails

    def forward(self, x):
        if self.fails(x):
            raise RuntimeError("no such batch\nand more")
        return self.net(x)


@pytest.mark.parametrize("call", ["apgd", "ddn", "fab", "fgsm", "pgd", "pgd last", "square", "diagnose"])
def test_a_model_that_takes_even_batches_only_fails_in_one_line(call):
    with pytest.raises(
        ModelError, match=r"the model fails on \d images? .*: RuntimeError: no such batch; mend"
    ) as caught:
        CALLS[call](Conditional(lambda x: len(x) % 2), *batch())
    assert "\n" not in str(caught.value)


def test_a_model_that_fails_under_gradients_fails_in_one_line():
    with pytest.raises(ModelError, match=r"5 images of \(1, 3, 3\) with gradients: RuntimeError: no such batch"):
        CALLS["fgsm"](Conditional(lambda x: x.requires_grad), *batch())


def test_a_backward_pass_that_fails_is_one_line():
    class Undone(nn.Module):
        def forward(self, x):
            found = x.flatten(1).exp()
            out = found * 1
            found.detach().add_(1)
            found.add_(1)  # what the backward pass of exp needs
            return out

    with pytest.raises(ModelError, match="the model has no gradient for 5 images: RuntimeError"):
        CALLS["pgd last"](Undone(), *batch())


def test_an_interruption_and_corrals_own_errors_pass():
    def fail(error):
        def forward(x):
            raise error

        return forward

    for error in (KeyboardInterrupt(), CorralError("mine"), MemoryError()):
        with pytest.raises(type(error)) as caught:
            contracted(Conditional(fail(error)))(batch()[0])
        assert caught.value is error


def test_an_exported_program_is_attacked_as_the_module_is():
    x, y = batch()
    sizes = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(net(), (x,), dynamic_shapes=sizes).module()
    for model in (program, nn.Sequential(program)):
        assert torch.allclose(CALLS["pgd"](model, x, y), CALLS["pgd"](net(), x, y))
        assert torch.allclose(CALLS["apgd"](model, x, y), CALLS["apgd"](net(), x, y))


def test_corrals_own_export_is_attacked_as_the_classifier_is(tmp_path):
    model = corral.models.Classifier(
        nn.Flatten(), corral.models.LinearHead(9, CLASSES), [0.5], [0.5], image_size=(3, 3)
    )
    x, y = batch()
    path = model.eval().export(tmp_path / "model.pt2")
    program = torch.export.load(path).module()
    y = model(x).argmax(1)
    assert torch.allclose(CALLS["apgd"](program, x, y), CALLS["apgd"](model, x, y))


@pytest.mark.parametrize("call", CHEAPEST[:-1])
def test_arrays_lists_and_other_integers_are_taken(call):
    x, y = batch()
    expected = CALLS[call](net(), x, y)
    for images, labels in (
        (x.numpy(), y.numpy()),
        (x.double().numpy(), y.numpy().astype(np.int32)),
        (x.tolist(), y.tolist()),
        (list(x), list(y)),
        (x, y.to(torch.int32)),
        (x, y.to(torch.uint8)),
    ):
        assert torch.equal(CALLS[call](net(), images, labels), expected)


@pytest.mark.parametrize("excess", [1e-7, 1e-6])
def test_an_excess_of_rounding_is_clamped(excess):
    x, y = batch()
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 1 + excess, -excess
    assert torch.equal(CALLS["fgsm"](net(), x, y), CALLS["fgsm"](net(), x.clamp(0, 1), y))


def test_more_than_rounding_is_printed_as_it_is():
    x, y = batch()
    x[0, 0, 0, 0] = 1.001
    with pytest.raises(ValueError, match=r"found 0\.1\d+ to 1\.001\d*; clip them"):
        CALLS["fgsm"](net(), x, y)


def test_a_fraction_is_an_eps():
    x, y = batch()
    assert torch.equal(attacks.fgsm(net(), x, y, eps="8/255"), attacks.fgsm(net(), x, y, eps=8 / 255))
    assert torch.equal(
        pgd(net(), x, y, eps="8/255", step_size="2/255"), pgd(net(), x, y, eps=8 / 255, step_size=2 / 255)
    )


@pytest.mark.parametrize(
    ("norm", "eps", "largest"), [("L2", 3.01, "3"), ("L2", 128, "3"), ("L1", 9.1, "9"), ("L1", 255, "9")]
)
def test_a_radius_past_the_box_is_refused(norm, eps, largest):
    x, y = batch()
    hint = f"did you mean {eps:g}/255" if eps >= 2 else ""
    for attack in (attacks.apgd, attacks.fab, attacks.square, attacks.autoattack):
        with pytest.raises(ValueError, match=rf"eps {eps:g} is more than {largest}, .* of 1×3×3: {hint}"):
            attack(net(), x, y, eps=eps, norm=norm)


@pytest.mark.parametrize("count", [2.0, True, "3"])
def test_steps_that_are_no_integer_are_refused(count):
    with pytest.raises(ValueError, match="steps must be an integer >= 1"):
        pgd(net(), *batch(), steps=count)


def test_logits_of_one_class_for_one_image_are_not_taken_for_a_row():
    with pytest.raises(ModelError, match="for 1 image, expected"):
        logits_in(torch.zeros(1), 1)
