"""Exported models give the same logits where corral cannot be imported; a centre head is its linear layer."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from corral.cli import app
from corral.errors import CorralError, UsageError
from corral.geometry import max_mahalanobis_centres
from corral.models import (
    Classifier,
    ClusterHead,
    CosineHead,
    LinearHead,
    ModelSpec,
    build_classifier,
    linear_equivalent,
)
from corral.models.backbones import adapt
from corral.models.export import export_classifier, plain
from corral.training import load_model, train

HEADS = ["linear", "soft", "nearest", "one a class", 3, "fuzzy", "cosine", "soft cosine"]
EXPORTED = ("linear", "soft", 3, "fuzzy", "cosine")
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
READERS = {
    ".pt2": "module = torch.export.load(path).module(); found = module(x)",
    ".ts": "found = torch.jit.load(path)(x)",
    ".onnx": (
        "import onnxruntime; session = onnxruntime.InferenceSession(path); "
        "found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])"
    ),
}


def classifier(backbone, head, shape=(1, 8, 8)):
    torch.manual_seed(0)
    options = {"name": backbone, "width": 4} | ({"depth": 10} if backbone == "resnet" else {})
    if backbone == "vgg":
        options |= {"depth": 11, "features": 12}
    spec = ModelSpec(backbone=options, image_shape=shape, num_classes=4, mean=(0.4,), std=(0.3,), head="linear")
    model = build_classifier(spec).eval()
    if str(head).endswith("cosine"):
        rule = "soft" if head == "soft cosine" else "nearest"
        model.head = CosineHead(model.features_dim, 4, clusters_per_class=2, rule=rule)
    elif head != "linear":
        per_class = 1 if head == "one a class" else 2
        classes = torch.arange(4 * per_class) % 4
        if per_class == 2:
            classes = torch.cat([classes, torch.tensor([1])])  # a class with more clusters than the others
        centroids = torch.randn(len(classes), model.features_dim)
        model.head = ClusterHead(centroids, classes, 0.7, rule=head if head in ("nearest", 3, "fuzzy") else "soft")
    return model.eval()


@pytest.mark.parametrize("head", HEADS)
def test_the_plain_module_has_equal_logits_for_any_batch_and_nothing_of_corral_in_it(head):
    model = classifier("convnet", head)
    module = plain(model)
    assert not [part for part in module.modules() if type(part).__module__.startswith("corral")]
    for count in (1, 2, 9):
        x = torch.rand(count, 1, 8, 8)
        torch.testing.assert_close(module(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", ["mlp", "resnet", "vgg", "lipschitz"])
def test_every_kind_of_backbone_can_be_exported_and_keeps_its_mode(backbone):
    if backbone == "mlp":
        spec = ModelSpec(
            backbone={"name": "mlp", "hidden": (8,)}, image_shape=(1, 8, 8), num_classes=4, mean=(0.4,), std=(0.3,),
            head="linear",
        )  # fmt: skip
        model = build_classifier(spec).eval()
    elif backbone == "lipschitz":
        options = {"name": "lipschitz", "width": 8, "depth": 1, "features": 8}
        spec = ModelSpec(backbone=options, image_shape=(1, 8, 8), num_classes=4, mean=(0.4,), std=(0.3,), head="linear")
        model = build_classifier(spec).eval()
    else:
        model = classifier(backbone, "soft")
    x = torch.rand(5, 1, 8, 8)
    before = model(x)
    model.train()
    module = plain(model)
    assert all(part.training for part in model.modules())
    torch.testing.assert_close(module(x), before, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Models of every head, images, and the logits that a process without corral has of their files, by ending."""
    found = {}

    def of(suffix):
        if suffix not in found:
            folder = tmp_path_factory.mktemp("exported")
            models = {head: classifier("convnet", head) for head in EXPORTED}
            for head, model in models.items():
                export_classifier(model, folder / f"{head}{suffix}")
            x = torch.rand(3, 1, 8, 8)
            torch.save(x, folder / "x.pt")
            program = (
                "import sys; sys.modules['corral'] = None; import torch; torch.set_num_threads(1)\n"
                f"x, all_found = torch.load('x.pt'), {{}}\nfor head in {EXPORTED!r}:\n"
                f"    path = f'{{head}}{suffix}'\n    {READERS[suffix]}\n    all_found[head] = found.detach()\n"
                "torch.save(all_found, 'found.pt')"
            )
            subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, capture_output=True, cwd=folder)
            found[suffix] = models, x, torch.load(folder / "found.pt")
        return found[suffix]

    return of


@pytest.mark.parametrize("suffix", [".pt2", ".ts", ".onnx"])
@pytest.mark.parametrize("head", EXPORTED)
def test_a_file_gives_equal_logits_in_a_process_without_corral(suffix, head, exported):
    if suffix == ".onnx" and not HAS_ONNX:
        pytest.skip("onnx, onnxscript and onnxruntime are not installed: pip install 'corral[onnx]' onnxruntime")
    models, x, found = exported(suffix)
    with torch.no_grad():
        torch.testing.assert_close(found[head], models[head](x), rtol=1e-5, atol=1e-5)


def test_an_unknown_ending_and_a_model_of_any_size_are_one_line(tmp_path):
    model = classifier("resnet", "soft")
    with pytest.raises(UsageError, match="what format is meant"):
        export_classifier(model, tmp_path / "model.bin")
    model.image_size = None
    with pytest.raises(UsageError, match="give image_size"):
        export_classifier(model, tmp_path / "model.pt2")
    assert export_classifier(model, tmp_path / "model.pt2", image_size=(8, 8)).is_file()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CorralError, match="cannot be written"):
        export_classifier(classifier("convnet", "soft"), tmp_path / "file" / "model.pt2")


@given(classes=st.integers(2, 12), length=st.floats(0.1, 50), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_equal_norm_centres_are_a_linear_layer_without_bias(classes, length, seed):
    """MAT Eqs. 10 and 11."""
    head = ClusterHead(max_mahalanobis_centres(classes, classes + 3, length=length), torch.arange(classes), 1.0)
    layer = linear_equivalent(head)
    assert layer.bias is None
    features = torch.randn(60, classes + 3, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(layer(features).argmax(1), head(features).argmax(1))
    unit = head.centroids / head.centroids.norm(dim=1, keepdim=True)
    assert torch.equal(layer(features).argmax(1), (features @ unit.T).argmax(1))


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_any_head_of_one_centroid_a_class_is_a_linear_layer_up_to_a_constant(seed):
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(5, generator=generator)
    head = ClusterHead(3 * torch.randn(5, 7, generator=generator), order, 1.7, temperature=0.6)
    layer, features = linear_equivalent(head), torch.randn(20, 7, generator=generator)
    difference = layer(features) - head(features)
    torch.testing.assert_close(difference, difference[:, :1].expand(-1, 5), rtol=1e-4, atol=1e-4)


def test_several_centroids_a_class_are_no_linear_layer():
    head = ClusterHead(torch.randn(4, 3), torch.tensor([0, 0, 1, 2]), 1.0)
    with pytest.raises(ValueError, match="needs one centroid a class, the head has up to 2"):
        linear_equivalent(head)


def test_memberships_are_no_linear_layer():
    head = ClusterHead(torch.randn(3, 4), torch.arange(3), 1.0, rule="fuzzy")
    with pytest.raises(ValueError, match='the rule "fuzzy" is no linear layer'):
        linear_equivalent(head)


def test_a_linear_layer_can_be_put_in_the_head_s_place():
    model = classifier("convnet", "one a class")
    head = LinearHead(model.features_dim, 4)
    head.linear.load_state_dict(linear_equivalent(model.head).state_dict())
    x = torch.rand(30, 1, 8, 8)
    assert torch.equal(model.with_head(head)(x).argmax(1), model(x).argmax(1))


def test_the_command_writes_a_run_s_model(tmp_path):
    settings = {"data.train": 100, "model.width": 2, "training.epochs": 1}
    run = train("mmc", out=tmp_path / "run", progress=False, device="cpu", **settings)
    result = CliRunner().invoke(app, ["export", str(run)])
    assert result.exit_code == 0, result.output
    assert result.output == f"wrote {run / 'model.pt2'}: images (N, 1, 8, 8) in [0, 1] to logits of 10 classes\n"
    x = torch.rand(6, 1, 8, 8)
    model = load_model(run)[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(run / "model.pt2").module()(x), model(x), rtol=1e-5, atol=1e-5)
    assert model.export(tmp_path / "again.ts") == tmp_path / "again.ts"
    as_json = CliRunner().invoke(app, ["export", str(run), "--out", str(tmp_path / "m.ts"), "--json"])
    assert json.loads(as_json.stdout)["image_shape"] == [1, 8, 8]
    wrong = CliRunner().invoke(app, ["export", str(run), "--out", str(tmp_path / "m.txt")])
    assert isinstance(wrong.exception, UsageError)


def test_without_its_packages_onnx_names_what_to_install(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find("json"))
    with pytest.raises(UsageError, match=r"ONNX needs the package onnxscript: pip install 'corral\[onnx\]'"):
        export_classifier(classifier("convnet", "soft"), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


class Deep(torch.nn.Module):
    """A convolution, and layers behind it."""

    def __init__(self):
        super().__init__()
        self.convolution, self.rest = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4, 10)

    def forward(self, x):
        return self.rest(self.convolution(x).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.load:DeprecationWarning")
@pytest.mark.parametrize("layer", ["1", "3", "convolution"])
def test_features_of_a_named_layer_are_exported(layer, tmp_path):
    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)]
    net = adapt(Deep() if layer == "convolution" else torch.nn.Sequential(*layers), (1, 8, 8), layer).eval()
    head = ClusterHead(torch.rand(3, net.features_dim), torch.arange(3), variance=1.0)
    model, x = Classifier(net, head, (0.5,), (0.5,), image_size=(8, 8)).eval(), torch.rand(5, 1, 8, 8)
    for name in ("model.pt2", "model.ts"):
        path = export_classifier(model, tmp_path / name)
        found = torch.export.load(path).module()(x) if path.suffix == ".pt2" else torch.jit.load(path)(x)
        torch.testing.assert_close(found, model(x))


def test_whatever_the_tracer_raises_is_one_line(tmp_path):
    class Counting(torch.nn.Module):
        def forward(self, x):
            assert not torch.compiler.is_compiling(), "not in a graph"
            return x.flatten(1)

    net = adapt(Counting(), (1, 8, 8))
    model = Classifier(net, LinearHead(64, 3), (0.5,), (0.5,), image_size=(8, 8)).eval()
    with pytest.raises(CorralError, match="cannot be written as a graph"):
        export_classifier(model, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []
