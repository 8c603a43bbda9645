"""BatchNorm as part of its convolution: the same function, and nothing of it stays behind."""

import copy

import pytest
import torch
from torch import nn

from corral.attacks import apgd, pgd
from corral.attacks.state import attacked
from corral.models import Classifier, LinearHead
from corral.models.backbones.resnet import ResNet
from corral.models.backbones.resnet_cifar import ResNetCifar
from corral.models.backbones.resnet_imagenet import ResNetImageNet
from corral.models.backbones.vgg import VGG
from corral.models.backbones.wideresnet import WideResNet
from corral.models.folding import fold, foldable, folded

# Each with its BatchNorms, and with those that no convolution stands before: of a pre-activation block the first, and
# the last of its network.
NETWORKS = {
    "resnet": (lambda: ResNet(3, 4, 18), 20, 0),
    "resnet-cifar": (lambda: ResNetCifar(3, 4, 20), 19, 0),
    "wideresnet": (lambda: WideResNet(3, 16, 1), 13, 7),
    "resnet-imagenet, bottlenecks": (lambda: ResNetImageNet(3, 4, 50), 53, 0),
    "resnet-imagenet, basic blocks": (lambda: ResNetImageNet(3, 4, 18), 20, 0),
    "vgg": (lambda: VGG(3, 4, 11), 8, 0),
}


def trained(network):
    """The network with numbers in its BatchNorms that training could have left there."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.2, 3)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.normal_(module.bias)
    return network.eval()


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def state(network):
    """Everything of a network that folding touches, by identity or bits."""
    modules = [(name, id(module)) for name, module in network.named_modules()]
    numbers = {name: (id(one), one.data_ptr(), one.clone()) for name, one in network.named_parameters()}
    return modules, list(network.state_dict()), numbers


def same(one, other):
    (modules, names, numbers), (modules_too, names_too, numbers_too) = one, other
    pairs = [(numbers[name], numbers_too[name]) for name in numbers]
    bits = all(a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in pairs)
    return modules == modules_too and names == names_too and numbers.keys() == numbers_too.keys() and bits


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_is_the_same_function_to_float64_s_last_digits(name):
    made, there, left = NETWORKS[name]
    network = trained(made()).double()
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    features = network(x)
    weights = torch.randn(features.shape, dtype=torch.float64)
    (slopes,) = torch.autograd.grad((features * weights).sum(), x)
    before = state(network)
    assert norms(network) == there
    with folded(network):
        assert norms(network) == left
        found = network(x)
        (found_slopes,) = torch.autograd.grad((found * weights).sum(), x)
    torch.testing.assert_close(found, features, rtol=1e-10, atol=1e-10 * float(features.detach().abs().max()))
    torch.testing.assert_close(found_slopes, slopes, rtol=1e-9, atol=1e-10 * float(slopes.abs().max()))
    assert same(before, state(network))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_folded_convolution_by_hand(bias, affine, groups):
    conv, norm = nn.Conv2d(4, 6, 3, 2, 1, bias=bias, groups=groups), nn.BatchNorm2d(6, affine=affine, eps=0.1)
    trained(nn.Sequential(conv, norm).double())
    weight, shift = fold(conv, norm)
    gamma, beta = (one.detach() for one in (norm.weight, norm.bias)) if affine else (torch.ones(6), torch.zeros(6))
    for k in range(6):
        scale = float(gamma[k]) / (float(norm.running_var[k]) + 0.1) ** 0.5
        offset = float(conv.bias.detach()[k]) if bias else 0.0
        torch.testing.assert_close(weight[k], conv.weight.detach()[k] * scale)
        assert float(shift[k]) == pytest.approx(float(beta[k]) + (offset - float(norm.running_mean[k])) * scale)


def test_what_is_watched_shared_or_of_another_kind_is_not_folded():
    def pair(conv=None, norm=None):
        return [conv or nn.Conv2d(3, 3, 1), norm or nn.BatchNorm2d(3)]

    hooked, watched = pair(), pair()
    hooked[0].register_forward_hook(lambda *_: None)
    watched[1].register_forward_pre_hook(lambda *_: None)
    twice, tied, other = pair(), pair(), nn.Conv2d(3, 3, 1)
    other.weight = tied[0].weight
    free = pair(norm=nn.BatchNorm2d(3, track_running_stats=False))
    kinds = [pair(norm=nn.InstanceNorm2d(3)), pair(norm=nn.SyncBatchNorm(3)), pair(nn.ConvTranspose2d(3, 3, 1))]
    parametrized = pair()
    nn.utils.parametrizations.weight_norm(parametrized[0])
    between = [nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)]
    for layers in (hooked, watched, [*twice, *twice], [*tied, other], free, *kinds, parametrized, between):
        assert list(foldable(nn.Sequential(*layers))) == []
    assert len(list(foldable(nn.Sequential(*pair(), *pair())))) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_would_not_be_finite_stays_as_it_is(value):
    network = trained(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    network[1].running_mean[0] = value
    with folded(network):
        assert isinstance(network[1], nn.BatchNorm2d)
        assert isinstance(network[3], nn.Identity)


def test_an_exception_leaves_nothing_behind():
    network = trained(ResNet(3, 4, 10))
    before = state(network)
    with pytest.raises(KeyError), folded(network):
        raise KeyError
    assert same(before, state(network))


class Seen:
    """An objective that keeps how many BatchNorms stand in the model while it is attacked, and its logits."""

    def __init__(self, model):
        self.model, self.norms, self.logits = model, set(), []

    def __call__(self, logits, y):
        self.norms.add(norms(self.model))
        self.logits.append(logits.detach())
        return -logits.gather(1, y[:, None]).squeeze(1)


def classifier():
    return Classifier(trained(ResNet(3, 4, 10)), LinearHead(32, 5), mean=(0.5,) * 3, std=(0.3,) * 3).eval()


@pytest.mark.parametrize("keep", ["best", "last"])
def test_attacks_fold_and_training_s_does_not(keep):
    model, seen = classifier(), None
    x, y = torch.rand(4, 3, 8, 8), torch.arange(4)
    before, seen = state(model), Seen(model)
    pgd(model, x, y, eps=0.05, steps=3, step_size=0.02, objective=seen, keep=keep, random_start=False)
    assert seen.norms == {0 if keep == "best" else norms(model)}
    with torch.no_grad():
        torch.testing.assert_close(seen.logits[0], model(x), rtol=1e-5, atol=1e-5)
    assert same(before, state(model))


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_stays_as_it_is(in_place):
    model = classifier()
    if in_place:
        model.backbone.compile(backend="eager")
    compiled = model if in_place else torch.compile(model, backend="eager")
    with attacked(compiled, fold=True):
        assert norms(model) == 12


def test_weights_of_half_precision_are_folded_widened():
    model = classifier().bfloat16()
    wide = copy.deepcopy(model).float()
    x = torch.rand(4, 3, 8, 8)
    with attacked(model, fold=True), torch.no_grad():
        assert norms(model) == 0
        torch.testing.assert_close(model(x), wide(x), rtol=1e-5, atol=1e-5)
    assert norms(model) == norms(wide)
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}


def test_an_attack_of_a_folded_network_finds_what_one_of_the_unfolded_finds(monkeypatch):
    model = classifier()
    x = torch.rand(40, 3, 8, 8)
    with torch.no_grad():
        y = model(x).argmax(1)
    found = apgd(model, x, y, eps=0.15, steps=20, objective="cross_entropy")
    monkeypatch.setattr("corral.attacks.state.folded", lambda network: folded(nn.Identity()))
    unfolded = apgd(model, x, y, eps=0.15, steps=20, objective="cross_entropy")
    with torch.no_grad():
        broken, broken_too = (model(one).argmax(1) != y for one in (found, unfolded))
    assert torch.equal(broken, broken_too)
    assert 0 < int(broken.sum()) < 40
