"""The product bound of networks against layers written out as matrices, and against how far features really move."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from corral.certify import empirical_lipschitz_lower, lipschitz_upper
from corral.errors import UsageError
from corral.models import MLP, VGG, Classifier, ConvNet, LinearHead, ResNet, ResNetCifar, ResNetImageNet, WideResNet
from corral.models.backbones import Embedded
from corral.models.backbones.resnet_imagenet import ImageNetBlock

BACKBONES = {
    "mlp": (lambda: MLP(2 * 64, (12, 9), 5), (2, 8, 8)),
    "convnet": (lambda: ConvNet(2, 8, width=4, features=7), (2, 8, 8)),
    "resnet": (lambda: ResNet(2, width=2, depth=10), (2, 8, 8)),
    "vgg": (lambda: VGG(2, width=2, depth=11), (2, 8, 8)),
    "wideresnet": (lambda: WideResNet(2, depth=10, width=1), (2, 8, 8)),
    "resnet-cifar": (lambda: ResNetCifar(2, width=2, depth=8), (2, 8, 8)),
    "resnet-imagenet": (lambda: ResNetImageNet(2, width=1, depth=18), (2, 16, 16)),
}


def lively(module, seed=0):
    """In float64 and eval mode, with BatchNorms that have seen something: none of their numbers is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor):
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)

    module = module.double().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            with torch.no_grad():
                part.weight.copy_(1 + 0.5 * normal(part.weight))  # some of them negative
                part.bias.copy_(normal(part.bias))
                part.running_mean.copy_(normal(part.running_mean))
                part.running_var.copy_(normal(part.running_var).exp())
    return module


def built(name, seed=0):
    torch.manual_seed(seed)
    build, shape = BACKBONES[name]
    return lively(build(), seed), shape


def norm_of(function, shape):
    """The norm of an affine map's linear part, from what it makes of every basis image."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    with torch.no_grad():
        matrix = (function(basis) - function(torch.zeros_like(basis[:1]))).flatten(1)
    return float(np.linalg.norm(matrix.numpy(), 2))


@pytest.mark.parametrize("name", BACKBONES)
def test_features_never_move_further_than_the_bound_allows(name):
    backbone, shape = built(name)
    model = lively(Classifier(backbone, LinearHead(backbone.features_dim, 3), [0.3, 0.5], [0.25, 0.4]))
    bound, inner = lipschitz_upper(model, shape), lipschitz_upper(backbone, shape)
    assert bound.value == pytest.approx(inner.value / 0.25, rel=1e-6)  # float32 std
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(16, *shape, generator=generator, dtype=torch.float64)
    lower = empirical_lipschitz_lower(model, x, generator=generator)
    assert 0 < lower <= bound.value
    for length in (1e-4, 1e-1, 10.0):
        move = length * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            found = (model.features(x + move) - model.features(x)).norm(dim=1) / move.flatten(1).norm(dim=1)
        assert float(found.max()) <= bound.value
        if length == 1e-4:
            assert float(found.max()) <= lower  # what power iteration is for


def test_a_residual_network_s_factors_are_its_blocks_written_out():
    net, _ = built("resnet", 3)
    factors = [norm_of(net.stem[:2], (2, 8, 8))]
    shape = (2, 8, 8)
    for block in net.blocks:
        first, second = nn.Sequential(block.conv1, block.bn1), nn.Sequential(block.conv2, block.bn2)
        inner = tuple(first(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
        factors.append(norm_of(first, shape) * norm_of(second, inner) + norm_of(block.shortcut, shape))
        shape = inner
    found = lipschitz_upper(net, (2, 8, 8)).layers
    assert [layer.name for layer in found] == [
        "stem.0",
        "stem.2",
        "blocks.0",
        "blocks.1",
        "blocks.2",
        "blocks.3",
        "mean",
    ]
    assert found[1].bound == 1.0
    assert found[-1].bound == pytest.approx(1.0)  # the mean is over 1 × 1
    for layer, truth in zip([found[0], *found[2:-1]], factors, strict=True):
        assert truth * (1 - 1e-12) <= layer.bound <= truth * 1.3


def test_a_bottleneck_s_factor_is_its_branch_and_its_shortcut_written_out():
    torch.manual_seed(5)
    block = lively(ImageNetBlock(2, 2, 2, bottleneck=True), 5)
    branch, shape = 1.0, (2, 6, 6)
    for number in "123":
        part = nn.Sequential(block.get_submodule(f"conv{number}"), block.get_submodule(f"bn{number}"))
        branch *= norm_of(part, shape)
        shape = tuple(part(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
    truth = branch + norm_of(block.downsample, (2, 6, 6))
    assert truth * (1 - 1e-12) <= lipschitz_upper(nn.Sequential(block), (2, 6, 6)).value <= truth * 1.3


def test_a_preactivation_network_s_factors_are_its_blocks_written_out():
    net, _ = built("wideresnet", 4)
    net.blocks[
        1
    ].project = None  # both kinds of shortcut: this one now adds to what has another shape, so it is not run
    block, projected = net.blocks[0], net.blocks[2]
    for part, side, channels in ((block, 8, 16), (projected, 4, 32)):
        shape = (channels, side, side)
        inner = nn.Sequential(part.conv1, part.bn2)
        middle = tuple(inner(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
        branch = norm_of(inner, shape) * norm_of(part.conv2, middle)
        steep = norm_of(part.bn1, shape)
        truth = steep * branch + 1 if part.project is None else steep * (branch + norm_of(part.project, shape))
        found = lipschitz_upper(nn.Sequential(part), shape).value
        assert truth * (1 - 1e-12) <= found <= truth * 1.2


def test_an_mlp_s_bound_is_the_product_of_its_matrices_norms():
    net, shape = built("mlp")
    truth = math.prod(float(np.linalg.norm(net.layers[place].weight.detach().numpy(), 2)) for place in (1, 3, 5))
    assert truth <= lipschitz_upper(net, shape).value <= truth * (1 + 1e-6)
    assert lipschitz_upper(net, (128,)).value == lipschitz_upper(net, shape).value


def test_average_pooling_at_the_end_divides_by_the_square_root_of_the_pixels():
    torch.manual_seed(0)
    net = lively(ResNet(1, width=2, depth=10))
    assert lipschitz_upper(net, (1, 32, 32)).layers[-1].bound == pytest.approx(1 / 4)  # 4 × 4
    assert norm_of(lambda x: x.mean((2, 3)), (2, 4, 4)) == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)], (2, 5, 5)),
        ([nn.Conv2d(4, 4, 3, stride=2, groups=2, bias=False), nn.BatchNorm2d(4, affine=True, eps=0.1)], (4, 6, 6)),
        ([nn.Linear(6, 4), nn.BatchNorm1d(4)], (6,)),
        ([nn.BatchNorm2d(2)], (2, 4, 4)),
    ],
)
def test_batchnorm_folded_in_is_the_two_layers_written_out(layers, shape):
    torch.manual_seed(2)
    net = lively(nn.Sequential(*layers))
    truth, found = norm_of(net, shape), lipschitz_upper(net, shape)
    assert truth * (1 - 1e-14) <= found.value <= truth * 1.2
    assert len(found.layers) == 1
    if len(layers) == 2:  # folding never loses: apart, the two norms multiply
        inner = tuple(net[0](torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
        apart = lipschitz_upper(net[:1], shape).value * lipschitz_upper(net[1:], inner).value
        assert found.value <= apart * (1 + 1e-9)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, padding=1),
        nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d((2, 3), (1, 2)),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((3, 4)),
    ],
    ids=str,
)
def test_average_pools_have_their_exact_norm(pool):
    truth = norm_of(pool, (2, 6, 7))
    assert truth * (1 - 1e-14) <= lipschitz_upper(nn.Sequential(pool), (2, 6, 7)).value <= truth * (1 + 1e-6)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (nn.MaxPool2d(2), 1.0),
        (nn.MaxPool2d(2, ceil_mode=True), 1.0),
        (nn.MaxPool2d(2, 3), 1.0),
        (nn.MaxPool2d(3, 2, padding=1), 2.0),  # sqrt(2 × 2)
        (nn.MaxPool2d(3, 1), 3.0),
        (nn.MaxPool2d((2, 1), (1, 1)), math.sqrt(2)),
        (nn.MaxPool2d(2, 2, dilation=2), 2.0),  # taps 0 and 2 of outputs at 0, 2, 4, ...
        (nn.MaxPool2d(2, 2, dilation=3), 1.0),  # taps 0 and 3: an even and an odd one
    ],
    ids=str,
)
def test_max_pools_count_the_windows_that_an_input_is_in(pool, expected):
    assert lipschitz_upper(nn.Sequential(pool), (1, 9, 9)).value == pytest.approx(expected)
    spike = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    found = []
    for place in range(81):
        spike.view(-1)[place] = 1.0
        found.append(float(pool(spike).norm()))
        spike.zero_()
    assert max(found) == pytest.approx(expected)  # attained by one bright pixel


def test_a_module_s_own_bound_is_taken_by_construction():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * x

        def lipschitz_bound(self, input_shape):
            assert input_shape == (3,)
            return 2.0

    found = lipschitz_upper(nn.Sequential(nn.ReLU(), Doubled(3, 3), nn.BatchNorm1d(3).eval()), (3,))
    assert found.layers[1].bound == 2.0
    assert found.layers[1].how == "by construction"
    assert found.value == pytest.approx(2.0 / math.sqrt(1 + 1e-5))


@pytest.mark.parametrize(("layer", "expected"), [(nn.LeakyReLU(0.1), 1), (nn.LeakyReLU(3), 3), (nn.Tanh(), 1)], ids=str)
def test_activations_have_their_steepest_slope(layer, expected):
    assert lipschitz_upper(nn.Sequential(layer, nn.Dropout(0.5)), (4,)).value == pytest.approx(expected, rel=1e-12)


def test_parametrized_layers_count_by_their_effective_weight():
    torch.manual_seed(0)
    net = nn.Sequential(
        parametrizations.orthogonal(nn.Linear(6, 6)), nn.ReLU(), parametrizations.weight_norm(nn.Linear(6, 3))
    ).double()
    truth = float(np.linalg.norm(net[2].weight.detach().numpy(), 2))
    assert lipschitz_upper(net, (6,)).value == pytest.approx(truth, rel=1e-6)


def test_mode_parameters_and_gradients_stay_as_they_were():
    net, shape = built("resnet")
    net.train()
    net.blocks[1].bn1.eval()
    net(torch.rand(4, *shape, dtype=torch.float64)).sum().backward()
    modes = [part.training for part in net.modules()]
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    value = lipschitz_upper(net, shape).value
    lower = empirical_lipschitz_lower(net, torch.rand(2, *shape), steps=2)
    assert [part.training for part in net.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert all(torch.equal(p.grad, g) and p.requires_grad for p, g in zip(net.parameters(), gradients, strict=True))
    net.eval()
    assert lipschitz_upper(net, shape).value == value >= lower


def test_a_linear_network_s_jacobian_is_found():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 4)).double()
    truth = norm_of(net, (3, 2, 2))
    x = torch.rand(3, 3, 2, 2)
    found = empirical_lipschitz_lower(net, x, steps=100, generator=torch.Generator().manual_seed(0))
    assert truth * (1 - 1e-6) <= found <= truth * (1 + 1e-12)


def test_at_a_kink_no_neighbouring_piece_s_derivative_is_exceeded():
    """2 x - relu(x) + relu(-x) is x; automatic derivatives at 0 say 2."""
    net = nn.Sequential(nn.Linear(1, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]))
        net[2].weight.copy_(torch.tensor([[2.0, -2.0, -1.0, 1.0]]))
    assert empirical_lipschitz_lower(net, torch.zeros(8, 1)) == pytest.approx(1.0)


class Boastful(nn.Identity):
    def lipschitz_bound(self, input_shape):
        return math.nan


@pytest.mark.parametrize(
    ("net", "shape", "error", "words"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.Softmax(1)), (3,), UsageError, r"for 1 \(Softmax\): give it a method"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding_mode="circular")), (1, 8, 8), ValueError, r"0 \(Conv2d\): only zero"),
        (nn.Sequential(nn.Linear(4, 3)), (3,), UsageError, r"0 \(Linear\) does not take an input of shape \(3,\)"),
        (nn.BatchNorm2d(2, track_running_stats=False), (2, 8, 8), ValueError, "without running statistics"),
        (nn.MaxPool2d(2, return_indices=True), (2, 8, 8), UsageError, "must return one tensor, found tuple"),
        (Boastful(), (2,), UsageError, r"the module \(Boastful\): its lipschitz_bound must be at least 0, found nan"),
        (nn.AvgPool2d(2, divisor_override=3), (2, 8, 8), ValueError, "divisor_override"),
    ],
)
def test_what_has_no_bound_is_named_in_one_line(net, shape, error, words):
    with pytest.raises(error, match=words):
        lipschitz_upper(net, shape)


def test_weights_that_are_not_finite_are_named():
    net = ResNet(1, width=2, depth=10)
    with torch.no_grad():
        net.blocks[2].conv1.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"blocks.2.conv1 \(Conv2d\): weights must be finite"):
        lipschitz_upper(net, (1, 8, 8))


def test_a_classifier_s_images_must_fit():
    model = Classifier(MLP(64, (), 4), LinearHead(4, 2), [0.5], [0.5], image_size=(8, 8))
    with pytest.raises(UsageError, match=r"takes images of \(8, 8\), found image_shape \(1, 4, 4\)"):
        lipschitz_upper(model, (1, 4, 4))
    with pytest.raises(ValueError, match="must have 1 channels, found 3"):
        lipschitz_upper(model, (3, 8, 8))
    with pytest.raises(ValueError, match="at least 1, found 0"):
        empirical_lipschitz_lower(model, torch.zeros(0, 1, 8, 8))


def test_a_linear_layer_behind_a_deep_backbone_is_one_more_factor():
    torch.manual_seed(0)
    net = Embedded(ResNet(1, width=2, depth=10), 3).eval()
    norm = float(torch.linalg.matrix_norm(net.embedding.weight.detach().double(), 2))
    whole, before = lipschitz_upper(net, (1, 8, 8)).value, lipschitz_upper(net.backbone, (1, 8, 8)).value
    assert whole == pytest.approx(before * norm, rel=1e-6)
    assert whole >= before * norm * (1 - 1e-12)
