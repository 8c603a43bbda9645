"""Networks in which something runs besides their layers: they move further than was said, and have no bound."""

import copy
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize, prune

from corral.certify import empirical_lipschitz_lower, exact_lipschitz, lipschitz_upper, local_lipschitz
from corral.errors import UsageError
from corral.models import (
    MLP,
    SLL,
    VGG,
    Classifier,
    ClusterHead,
    ConvNet,
    HalfAbs,
    LinearHead,
    LipschitzNet,
    Orthogonal,
    ResNet,
    SpaceToDepth,
    WideResNet,
)
from corral.models.backbones import Embedded
from corral.models.backbones.resnet import BasicBlock
from corral.models.backbones.wideresnet import PreActivationBlock
from corral.models.classifier import Normalisation


def classifier(backbone, **options):
    head = ClusterHead(torch.randn(3, backbone.features_dim), torch.arange(3), 1.0)
    return Classifier(backbone, head, [0.0], [1.0], **options)


TIGHT = {  # in which ten times what a module makes is ten times the features' move, or near it
    "linear": (lambda: nn.Linear(16, 4), (16,)),
    "sequential": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 6, bias=False)), (1, 4, 4)),
    "mlp": (lambda: MLP(16, (), 4, rectify=False), (1, 4, 4)),
    "conv": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.Identity()), (1, 6, 6)),
    "orthogonal": (lambda: LipschitzNet(1, 4, width=16, depth=1, features=16), (1, 4, 4)),
    "classifier": (lambda: classifier(LipschitzNet(1, 4, width=16, depth=0, features=16)), (1, 4, 4)),
}
OTHERS = {
    "mlp": (lambda: MLP(64, (12, 9), 5), (1, 8, 8)),
    "convnet": (lambda: ConvNet(1, 8, width=4, features=7), (1, 8, 8)),
    "resnet": (lambda: ResNet(1, width=2, depth=10), (1, 8, 8)),
    "vgg": (lambda: VGG(1, width=2, depth=11), (1, 8, 8)),
    "wideresnet": (lambda: WideResNet(1, depth=10, width=1), (1, 8, 8)),
    "embedded": (lambda: Embedded(ConvNet(1, 8, width=2), 3), (1, 8, 8)),
    "shift": (lambda: LipschitzNet(1, 8, width=4, depth=2, features=5, layer="shift"), (1, 8, 8)),
    "sll": (lambda: LipschitzNet(1, 8, width=4, depth=2, features=5, layer="sll"), (1, 8, 8)),
    "classifier": (lambda: classifier(MLP(64, (12, 9), 5)), (1, 8, 8)),
}


def built(table, name, seed=0):
    torch.manual_seed(seed)
    build, shape = table[name]
    return build().eval(), shape


def parts_that_run(net):
    """Paths of all modules that a pass calls; the last layer of a linear head is read, not called."""
    head = getattr(net, "head", None)
    return [name for name, part in net.named_modules() if head is None or part not in set(head.modules())]


def hook(part):
    part.register_forward_hook(lambda _, given, out: 10 * out)


def hook_with_keywords(part):
    part.register_forward_hook(lambda _, given, named, out: 10 * out, with_kwargs=True, prepend=True)


def pre_hook(part):
    part.register_forward_pre_hook(lambda _, given: 10 * given[0])


def forward_on_the_object(part):
    before = part.forward
    part.forward = lambda x: 10 * before(x)


def bound_method(part):
    kind = type(part)
    part.forward = types.MethodType(lambda self, x: 10 * kind.forward(self, x), part)


def call_on_the_object(part):
    before = part._call_impl
    part._call_impl = lambda x: 10 * before(x)


def compiled_on_the_object(part):
    part._compiled_call_impl = lambda x: 10 * part._call_impl(x)


def subclass(part):
    kind = type(part)
    part.__class__ = type(kind.__name__, (kind,), {"forward": lambda self, x: 10 * kind.forward(self, x)})


WAYS = [
    hook,
    hook_with_keywords,
    pre_hook,
    forward_on_the_object,
    bound_method,
    call_on_the_object,
    compiled_on_the_object,
    subclass,
]
REFUSED = "to certify|replaced on the object|compiled in place|no Lipschitz bound is known|define the method"


def small_boxes(net, x):
    exact_lipschitz(net, 0.0, 1.0, most_boxes=2)
    local_lipschitz(net, x, 0.1, most_boxes=2)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", TIGHT)
def test_ten_times_what_a_module_makes_is_more_than_was_said_and_is_refused(name, way):
    """Each module that runs in turn; the network itself is one of them."""
    net, shape = built(TIGHT, name)
    said = lipschitz_upper(net, shape).value
    x = torch.rand(8, *shape, generator=torch.Generator().manual_seed(1))
    assert empirical_lipschitz_lower(net, x) <= said
    for path in parts_that_run(net):
        other = copy.deepcopy(net)
        way(other.get_submodule(path))
        with torch.no_grad():
            features = other.features if isinstance(other, Classifier) and path else other
            if features is not other or not isinstance(other, Classifier):
                y = x + 1e-2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
                moved = (features(y) - features(x)).flatten(1).norm(dim=1) / (y - x).flatten(1).norm(dim=1)
                assert float(moved.max()) > 2 * said
        with pytest.raises(UsageError, match=REFUSED) as caught:
            lipschitz_upper(other, shape)
        assert "\n" not in str(caught.value)


@given(
    seed=st.integers(0, 2**31),
    name=st.sampled_from(sorted(OTHERS)),
    way=st.sampled_from(WAYS),
    place=st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_no_random_network_with_a_random_module_changed_has_a_bound(seed, name, way, place):
    net, shape = built(OTHERS, name, seed)
    paths = parts_that_run(net)
    path = paths[place % len(paths)]
    way(net.get_submodule(path))
    with pytest.raises(UsageError, match=REFUSED):
        lipschitz_upper(net, shape)
    with pytest.raises(UsageError):
        small_boxes(net, torch.rand(2, *shape))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("make", [lambda: classifier(MLP(4, (5,), 3)), lambda: MLP(4, (5,), 3)], ids=["model", "mlp"])
def test_branch_and_bound_takes_nothing_but_the_layers(make, way):
    torch.manual_seed(0)
    net, x = make().eval(), torch.rand(2, 1, 2, 2)
    small_boxes(net, x)
    for path in parts_that_run(net):
        other = copy.deepcopy(net)
        way(other.get_submodule(path))
        for call in (lambda net: exact_lipschitz(net, 0.0, 1.0), lambda net: local_lipschitz(net, x, 0.1)):
            with pytest.raises(UsageError, match=f"{REFUSED}|branch and bound needs"):
                call(other)


@pytest.mark.parametrize("name", ["features", "logits_from", "forward"])
def test_a_classifier_that_decides_otherwise_has_no_bound(name):
    model = classifier(MLP(4, (), 3))
    other = copy.deepcopy(model)
    setattr(other, name, lambda x: 10 * getattr(model, name)(x))
    heir = copy.deepcopy(model)
    heir.__class__ = type("Heir", (Classifier,), {name: lambda self, x: 10 * getattr(model, name)(x)})
    for changed, words in ((other, f"has its {name} replaced"), (heir, "Heir")):
        with pytest.raises(UsageError, match=words):
            lipschitz_upper(changed, (1, 2, 2))
        with pytest.raises(UsageError, match=words):
            exact_lipschitz(changed, 0.0, 1.0)


def test_hooks_on_all_modules_are_refused_while_they_are_there():
    net = MLP(4, (), 3)
    said = lipschitz_upper(net, (4,)).value
    handle = register_module_forward_hook(lambda _, given, out: 10 * out)
    try:
        for call in (lambda: lipschitz_upper(net, (4,)), lambda: exact_lipschitz(net, 0.0, 1.0)):
            with pytest.raises(UsageError, match="forward hooks on all modules"):
                call()
    finally:
        handle.remove()
    assert lipschitz_upper(net, (4,)).value == said


@pytest.mark.parametrize("name", OTHERS)
def test_what_changes_no_value_may_stay_and_a_hook_removed_leaves_no_trace(name):
    net, shape = built(OTHERS, name)
    said = lipschitz_upper(net, shape)
    handles = [part.register_forward_hook(lambda _, given, out: 10 * out) for part in net.modules()]
    with pytest.raises(UsageError, match="has a forward hook"):
        lipschitz_upper(net, shape)
    for handle in handles:
        handle.remove()
    for part in net.modules():
        part.register_full_backward_hook(lambda *_: None)
        part.register_state_dict_post_hook(lambda *_: None)
        part.register_load_state_dict_post_hook(lambda *_: None)
    assert lipschitz_upper(net, shape) == said == lipschitz_upper(copy.deepcopy(net), shape)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (nn.utils.spectral_norm, r"0 \(Linear\) has a forward pre-hook \(SpectralNorm\)"),
        (nn.utils.weight_norm, r"0 \(Linear\) has a forward pre-hook \(WeightNorm\)"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), r"pre-hook \(L1Unstructured\).* prune.remove"),
    ],
)
def test_the_old_ways_to_compute_a_weight_are_pre_hooks_and_named(wrap, words):
    layer = nn.Linear(3, 3)
    wrap(layer)
    for call in (lambda net: lipschitz_upper(net, (3,)), lambda net: exact_lipschitz(net, 0.0, 1.0)):
        with pytest.raises(UsageError, match=words):
            call(nn.Sequential(layer))


class Dropping(nn.Module):
    def forward(self, weight):
        return nn.functional.dropout(weight, 0.5)


def test_a_weight_that_differs_each_time_has_no_norm():
    layer = parametrize.register_parametrization(nn.Linear(3, 3), "weight", Dropping())
    for call in (lambda net: lipschitz_upper(net, (3,)), lambda net: exact_lipschitz(net, 0.0, 1.0)):
        with pytest.raises(UsageError, match=r"0 \(Linear\) has its weight parametrized by Dropping"):
            call(nn.Sequential(layer))
    for part in ("parametrizations.weight", "parametrizations.weight.0"):
        normed = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)))
        assert lipschitz_upper(normed, (3,)).value > 0
        hook(normed[0].get_submodule(part))
        with pytest.raises(UsageError, match=r"0\.parametrizations\.weight .* has a forward hook"):
            lipschitz_upper(normed, (3,))


def test_a_class_that_calls_its_submodules_parametrizations_is_not_its_parent():
    class Loud(nn.Linear):
        def forward(self, x):
            return 10 * super().forward(x)

    loud = Loud(3, 3)
    loud.parametrizations = nn.ModuleDict({"weight": nn.Identity()})
    for call in (lambda net: lipschitz_upper(net, (3,)), lambda net: exact_lipschitz(net, 0.0, 1.0)):
        with pytest.raises(UsageError, match="Loud"):
            call(nn.Sequential(loud))


def test_reading_a_spectral_norm_in_train_mode_leaves_it_as_it_was():
    net = nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 3))).train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first = exact_lipschitz(net, 0.0, 1.0)
    assert net[0].training
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    truth = float(torch.linalg.matrix_norm(net.eval()[0].weight.detach().double(), 2))
    assert first.lower <= truth <= first.upper


@pytest.mark.parametrize("kind", [HalfAbs, SpaceToDepth, lambda: Orthogonal(4, 4), lambda: SLL(4, 4)])
def test_a_guarantee_is_not_inherited(kind):
    net = kind()
    assert lipschitz_upper(net, (4, 2, 2) if isinstance(net, SpaceToDepth) else (4,)).value <= 1 + 1e-6
    subclass(net)
    with pytest.raises(UsageError, match=r"define the method in .* to vouch for it"):
        lipschitz_upper(net, (4,))

    class Vouched(type(net)):
        def lipschitz_bound(self, input_shape):
            return 12.0

    net.__class__ = Vouched
    assert lipschitz_upper(net, (4, 2, 2) if isinstance(net, SpaceToDepth) else (4,)).value == pytest.approx(12)
    net.lipschitz_bound = lambda input_shape: 0.1
    with pytest.raises(UsageError, match="has its lipschitz_bound replaced"):
        lipschitz_upper(net, (4,))


def test_one_object_s_own_bound_is_none_of_its_class():
    layer = nn.Linear(3, 3)
    layer.lipschitz_bound = lambda input_shape: 0.1
    with pytest.raises(UsageError, match=r"0 \(Linear\) has a lipschitz_bound that its class does not define"):
        lipschitz_upper(nn.Sequential(layer, nn.BatchNorm1d(3)), (3,))


def test_a_guarantee_is_of_the_class_not_of_hooks_inside_it():
    class Vouched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 3), nn.Softmax(1))

        def forward(self, x):
            return self.inner(x)

        def lipschitz_bound(self, input_shape):
            return 1.0

    net = nn.Sequential(Vouched())
    assert lipschitz_upper(net, (3,)).value == 1
    for path in ("0", "0.inner", "0.inner.1"):
        other = copy.deepcopy(net)
        hook(other.get_submodule(path))
        with pytest.raises(UsageError, match=f"{path} .* has a forward hook"):
            lipschitz_upper(other, (3,))


def test_a_parametrized_layer_of_corral_keeps_no_guarantee():
    net = Orthogonal(4, 4)
    parametrize.register_parametrization(net, "weight", Dropping())
    with pytest.raises(
        UsageError, match=r"the module \(Orthogonal\) is parametrized, and its lipschitz_bound does not"
    ):
        lipschitz_upper(net, (4,))


@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet", "vgg", "wideresnet", "embedded", "shift"])
def test_what_hangs_on_a_network_and_does_not_run_is_no_factor(name):
    """A product with the norm of a layer that never runs is no bound: here it was a thousandth."""
    net, shape = built(OTHERS, name)
    said = lipschitz_upper(net, shape)
    with torch.no_grad():
        out = net(torch.zeros(1, *shape))
    width = out.shape[1]
    net.probe = nn.Linear(width, width) if name not in ("resnet", "vgg", "wideresnet") else nn.Conv2d(width, 1, 1)
    with torch.no_grad():
        net.probe.weight.fill_(1e-3)
    assert lipschitz_upper(net, shape) == said


def test_a_module_in_two_places_counts_twice():
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(3 * torch.eye(3))
    net = Embedded(MLP(3, (), 3, rectify=False), 3)
    net.backbone = net.embedding = layer
    for twice in (net, nn.Sequential(layer, layer), nn.Sequential(nn.Sequential(layer), layer)):
        assert lipschitz_upper(twice, (3,)).value == pytest.approx(9)
    assert exact_lipschitz(nn.Sequential(layer, layer), 0.0, 1.0).upper == pytest.approx(9)


def test_a_module_that_no_mode_reaches_is_refused():
    """eval() misses it: its BatchNorm divides by the batch's own spread, a hundredth, and not by the kept one."""
    net = MLP(3, (), 3, rectify=False)
    net.__dict__["layers"] = nn.Sequential(nn.BatchNorm1d(3))
    net.eval()
    x = 0.01 * torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert float((net(x)[0] - net(x)[1]).norm() / (x[0] - x[1]).norm()) > 50
    for call in (lambda: lipschitz_upper(net, (3,)), lambda: exact_lipschitz(net, 0.0, 1.0)):
        with pytest.raises(UsageError, match="holds the module layers unregistered"):
            call()


class Tenfold(torch.Tensor):
    """A tensor by which every product is ten times what its numbers say."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs or {})
        return 10 * out if func is nn.functional.linear else out


@pytest.mark.parametrize(
    "weight",
    [torch.ones(3, 3).as_subclass(Tenfold), 1j * torch.ones(3, 3, dtype=torch.complex64)],
    ids=["own", "complex"],
)
def test_tensors_of_another_kind_are_refused(weight):
    layer = nn.Linear(3, 3, bias=False)
    layer.weight = nn.Parameter(weight)
    for call in (lambda net: lipschitz_upper(net, (3,)), lambda net: exact_lipschitz(net, 0.0, 1.0)):
        with pytest.raises(
            UsageError, match=r"0 \(Linear\) holds weight as a .*: certify ordinary real, dense tensors"
        ):
            call(nn.Sequential(layer))


def test_a_batchnorm_after_a_dense_layer_on_maps_is_not_folded_into_it():
    """(N, C, L): the layer maps L, the BatchNorm scales C; the norm is the product of both, not that of the rows."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.diag(torch.tensor([1.0, 10.0])))
        net[1].weight.copy_(torch.tensor([10.0, 1.0]))
    move = torch.zeros(1, 2, 2, dtype=torch.float64)
    move[0, 0, 1] = 1
    with torch.no_grad():
        observed = float((net(move) - net(0 * move)).norm())
    assert observed == pytest.approx(100, rel=1e-4)
    assert lipschitz_upper(net, (2, 2)).value == pytest.approx(100, rel=1e-4)
    assert lipschitz_upper(net, (2, 2)).value >= observed
    assert lipschitz_upper(net, (2,)).value == pytest.approx(10, rel=1e-4)


def test_layers_that_join_examples_are_refused():
    """One number a channel against rows of channels: three rows come out of one."""
    spread = Normalisation([0.0] * 3, [1.0, 1.0, 1.0])
    assert spread(torch.zeros(1, 3)).shape == (3, 1, 3)
    for net, shape in ((spread, (3,)), (nn.Flatten(0), (2, 2))):
        with pytest.raises(UsageError, match="must keep examples apart, one in and one out"):
            lipschitz_upper(nn.Sequential(net), shape)


def test_a_layer_in_place_within_a_residual_block_is_refused():
    """What it changes, the other branch sees: the shortcut was 1 in the sum and is 9 here."""
    steep = nn.Sequential(nn.LeakyReLU(9.0, inplace=True), nn.Conv2d(16, 16, 1))
    basic, active = BasicBlock(16, 16, 1).eval(), PreActivationBlock(16, 16, 1).eval()
    basic.conv1, active.bn1 = steep, nn.LeakyReLU(9.0, inplace=True)
    for block, path in ((basic, "conv1.0"), (active, "bn1")):
        with pytest.raises(UsageError, match=rf"0\.{path} \(LeakyReLU\) works in place within a residual block"):
            lipschitz_upper(nn.Sequential(block), (16, 4, 4))
    flat = nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(4, 2))
    assert lipschitz_upper(flat, (1, 2, 2)).value > 0


def test_two_normalisations_are_two_factors_of_the_exact_constant():
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(2))
    net.features_dim = 2
    model = Classifier(
        nn.Sequential(Normalisation([0.5], [0.25]), *net), LinearHead(2, 2), [0.1], [0.5], image_size=(1, 2)
    ).double()
    found = exact_lipschitz(model, 0.0, 1.0)
    assert found.lower == pytest.approx(8)
    assert found.upper == pytest.approx(8)
    assert lipschitz_upper(model, (1, 1, 2)).value == pytest.approx(8)
