"""The 1-Lipschitz backbone: shapes, its constant, what it refuses, specs."""

import math

import numpy as np
import pytest
import torch

from corral.attacks import pgd
from corral.models import Classifier, LinearHead, LipschitzNet, ModelSpec, build_classifier


@pytest.mark.parametrize("layer", ["dense", "shift", "sll"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (1, (8, 12))])
def test_the_whole_backbone_is_one_lipschitz(channels, size, layer):
    torch.manual_seed(0)
    net = LipschitzNet(channels, size, 24 if layer == "dense" else 6, 2, 10, layer).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    height, breadth = (size, size) if isinstance(size, int) else size
    x, other = torch.randn(2, 8, channels, height, breadth)
    found = net(x)
    assert found.shape == (8, net.features_dim) == (8, 10)
    bound = math.prod(part.lipschitz_bound(()) for part in net.layers if hasattr(part, "lipschitz_bound"))
    assert bound <= 1 + 1e-5
    assert bool(((found - net(other)).norm(dim=1) <= (1 + 1e-5) * (x - other).flatten(1).norm(dim=1)).all())
    for point in x[:2]:
        matrix = torch.autograd.functional.jacobian(lambda part: net(part.unsqueeze(0))[0], point).flatten(1)
        assert np.linalg.norm(matrix.double().numpy(), 2) <= 1 + 1e-5


def test_every_layer_has_a_bound_or_is_plain_torch():
    for part in [part for kind in ("dense", "shift", "sll") for part in LipschitzNet(1, 8, 8, 2, 5, kind).layers]:
        assert hasattr(part, "lipschitz_bound") or isinstance(part, torch.nn.Flatten)


def test_shift_keeps_the_gradient_norm_up_to_the_projection():
    """All but the last layer are isometries: the derivative of what comes before it has singular values of 1 only."""
    torch.manual_seed(0)
    body = LipschitzNet(1, 8, 4, 2, 5, "shift").eval().layers[:-1]
    matrix = torch.autograd.functional.jacobian(lambda part: body(part.unsqueeze(0))[0], torch.randn(1, 8, 8))
    values = np.linalg.svd(matrix.flatten(1).double().numpy(), compute_uv=False)
    np.testing.assert_allclose(values, 1, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 10, 4, 1, 4, "shift"), "sides divisible by 4, found 10×10"),
        ((1, 8, 2, 1, 4, "soc"), "layer must be 'dense', 'shift' or 'sll', found 'soc'"),
    ],
)
def test_impossible_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LipschitzNet(*arguments)


def test_a_spec_carries_the_kind_of_layer():
    base = {"image_shape": [1, 8, 8], "num_classes": 3, "mean": [0.3], "std": [0.4], "head": "cluster"}
    spec = ModelSpec.model_validate(
        base | {"backbone": {"name": "lipschitz", "width": 4, "layer": "sll", "features": 8}}
    )
    again = ModelSpec.model_validate_json(spec.model_dump_json())
    assert again.backbone.options() == {"width": 4, "depth": 2, "features": 8, "layer": "sll"}
    torch.manual_seed(0)
    model, x = build_classifier(spec), torch.rand(4, 1, 8, 8)
    other = build_classifier(again)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))


def test_an_attack_leaves_the_frozen_network_as_it_was():
    torch.manual_seed(0)
    model = Classifier(LipschitzNet(1, 8, 4, 1, 6, "sll"), LinearHead(6, 3), (0.5,), (0.5,)).train()
    x, y = torch.rand(5, 1, 8, 8), torch.arange(5) % 3
    before = model.eval()(x)
    found = pgd(model, x, y, eps=0.5, norm="L2", steps=5, step_size=0.2, generator=torch.Generator().manual_seed(0))
    assert float((found - x).flatten(1).norm(dim=1).max()) > 0.1
    assert torch.equal(model(x), before)
