"""Networks of other libraries are trained and clustered: their features are found, and are what their logits are of."""

import pytest
import torch
from tests.interop.shared import SIDE
from tests.interop.test_ours_on_theirs import MODELS, logits, trained

import corral
from corral.models import BACKBONES
from corral.models.split import split

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", MODELS)
def test_their_networks_are_backbones(interop, colours, name, tmp_path):
    module, make = MODELS[name]
    what = f"`corral.train` with its {name.split()[1]} as the backbone, `corral.cluster` of it"
    row, library = interop(module, module, what, module)
    x, y = colours
    net = trained(make, library, x, y)
    with torch.no_grad():
        expected = logits(net, x)
    parts = split(net, (3, SIDE, SIDE))
    with torch.no_grad():
        assert torch.allclose(parts(x), expected, atol=1e-4 * float(expected.abs().max()))
        features = parts.features(x)
    model = corral.cluster(net, colours, rule="nearest", progress=False, device="cpu")
    with torch.no_grad():
        assert torch.allclose(model.features(x), features, atol=1e-5)
        assert torch.equal(logits(net, x), expected)  # nothing of theirs is changed
        right = float((model(x).argmax(1) == y).double().mean())
    run = corral.train(
        "at", backbone=net, data=colours, out=tmp_path / "run", eps="8/255", epochs=1, progress=False, device="cpu"
    )
    BACKBONES._held.clear()  # another process
    again = corral.load(run, backbone=make(library))
    assert again.features_dim == features.shape[1]
    record = corral.evaluate(again, colours, threat=("Linf", 8 / 255), n=16, progress=False, device="cpu")
    assert record.n == 16
    row.result = f"{again.features_dim} features, from {again.backbone.features_source}; clusters' accuracy {right:.0%}"
