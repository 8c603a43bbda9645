"""A trained network as a classifier by clusters: centroids are k-means', the network is untouched, files hold it."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

import corral
from corral.data import load
from corral.errors import CorralError, UsageError
from corral.evaluation.certification import certify_run
from corral.models import BACKBONES, Classifier, ClusterHead, LinearHead
from corral.models.split import split

QUIET = {"progress": False, "device": "cpu"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(2)
        self.body, self.fc = nn.Linear(24, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.fc(self.body(self.pool(self.conv(x).relu()).flatten(1)).relu())


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    found, train = Net(), load("digits").train
    optimiser = torch.optim.Adam(found.parameters(), 0.01)
    for _ in range(80):
        loss = nn.functional.cross_entropy(found(train.float()), train.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return found.eval()


@pytest.fixture(autouse=True)
def forgotten():
    yield
    BACKBONES._held.clear()


def penultimate(net: Net, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net.body(net.pool(net.conv(x).relu()).flatten(1)).relu()


def test_one_cluster_a_class_is_the_class_means_and_decides_by_the_nearest(net):
    before = copy.deepcopy(net.state_dict())
    model = corral.cluster(net, "digits", rule="nearest", **QUIET)
    data = load("digits")
    features, labels = penultimate(net, data.train.float()), data.train.labels
    means = torch.stack([features[labels == label].double().mean(0) for label in range(10)])
    assert torch.allclose(model.head.centroids.double(), means, atol=1e-5)
    squares = (features.double() - means[labels]).square().sum(1)
    assert float(model.head.variance) == pytest.approx(float(squares.sum()) / (len(features) - 1), rel=1e-5)
    x = data.test.float()
    nearest = torch.cdist(penultimate(net, x).double(), means).argmin(1)
    with torch.no_grad():
        assert torch.equal(model(x).argmax(1), nearest)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert isinstance(net.fc, nn.Linear)
    assert (model.class_names, model.training) == (data.classes, False)


def test_clusters_of_a_class_have_the_least_inertia_that_scikit_learn_finds(net):
    data = load("digits")
    features, labels = penultimate(net, data.train.float()), data.train.labels
    head = corral.cluster(net, data, clusters=3, **QUIET).head
    for label in range(10):
        mine = features[labels == label].double()
        distances = torch.cdist(mine, head.centroids[head.classes == label].double())
        inertia = float(distances.amin(1).square().sum())
        best = KMeans(3, n_init=20, random_state=0).fit(mine.numpy()).inertia_
        assert inertia <= 1.01 * best


def test_a_layer_and_a_normalisation_are_the_users(net):
    model = corral.cluster(net, "digits", features="pool", normalise=((0.25,), (0.5,)), n=200, **QUIET)
    x = load("digits").test.float()
    with torch.no_grad():
        maps = net.pool(net.conv((x - 0.25) / 0.5).relu())
        assert torch.allclose(model.features(x), maps.mean((2, 3)), atol=1e-6)
    assert model.features_dim == 6


def test_a_silhouette_finds_the_number_of_groups():
    """Three classes of two tight groups each, the pixels are the features."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]]) * 0.8
    group = torch.arange(120) % 6
    x = (corners[group] + 0.02 * torch.rand(120, 4, generator=generator)).view(120, 1, 2, 2)
    model = corral.cluster(nn.Flatten(), (x, group // 2), clusters="silhouette", **QUIET)
    assert len(model.head.centroids) == 6
    assert model.head.num_classes == 3
    for corner in corners:
        assert float(torch.cdist(corner.view(1, 4) + 0.01, model.head.centroids).min()) < 0.02


def test_what_it_makes_is_attacked_certified_analysed_and_exported(net, tmp_path):
    model = corral.cluster(net, "digits", rule="nearest", **QUIET)
    test = corral.data.stratified_subset(load("digits").test, 30, seed=0)
    images = (test.float(), test.labels)
    record = corral.evaluate(model, images, threat=("Linf", 0.1), out=tmp_path / "mine", progress=False)
    assert (record.head, record.rule, record.kind) == ("cluster", "nearest", "module")
    assert record.clean == float((model(images[0]).argmax(1) == images[1]).double().mean())
    with pytest.raises(UsageError, match=r"no Lipschitz bound is known for backbone \(Net\): give it a method"):
        certify_run(model, images, n=10, attack=False, progress=False)
    plain = nn.Sequential(net.conv, nn.ReLU(), net.pool, nn.Flatten(), net.body)
    known = corral.cluster(plain, "digits", rule="nearest", **QUIET)
    proved = certify_run(known, images, n=10, progress=False)
    assert (proved.n, proved.broken) == (10, 0)
    assert proved.at[0].certified > 0.5
    path = corral.export(model, tmp_path / "mine.pt2")
    again = torch.export.load(path).module()
    assert torch.allclose(again(images[0]), model(images[0]), atol=1e-5)


def test_a_file_gives_the_same_classifier_and_asks_for_its_code(net, tmp_path):
    model = corral.cluster(net, "digits", clusters=2, features="pool", **QUIET)
    path = model.save(tmp_path / "mine.safetensors")
    x = load("digits").test.float()
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(Classifier.load(path)(x), expected)
        BACKBONES._held.clear()  # another process
        with pytest.raises(CorralError, match=r"'given-Net-.*' is not known here: it was given as an object"):
            Classifier.load(path)
        again = Classifier.load(path, backbone=net)
        assert torch.equal(again(x), expected)
        assert torch.equal(Classifier.load(path, backbone=Net)(x), expected)
    assert again.class_names == model.class_names
    test = corral.data.stratified_subset(load("digits").test, 20, seed=0)
    record = corral.evaluate(str(path), (test.float(), test.labels), threat=("Linf", 0.1), progress=False)
    assert record.kind == "classifier"


@pytest.mark.parametrize("where", ["header", "tensor", "cut"])
def test_a_damaged_file_is_one_line(net, tmp_path, where):
    path = corral.cluster(net, "digits", **QUIET).save(tmp_path / "mine.safetensors")
    content = bytearray(path.read_bytes())
    if where == "cut":
        content = content[: len(content) // 2]
    else:
        place = content.index(b"given-Net") if where == "header" else len(content) - 9
        content[place] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(CorralError, match=r"damaged|truncated") as caught:
        Classifier.load(path)
    assert "\n" not in str(caught.value)


def test_a_classifier_made_by_hand_is_saved_where_it_is_built_again(tmp_path):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    model = Classifier(backbone, LinearHead(5, 3), [0.5], [0.25], image_size=(8, 8))
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(Classifier.load(model.save(tmp_path / "a.safetensors"))(x), model.eval()(x))
    free = Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), LinearHead(1, 2), [0.5], [0.25])
    with pytest.raises(UsageError, match="takes images of any size: give image_shape"):
        free.save(tmp_path / "b.safetensors")
    free.save(tmp_path / "b.safetensors", image_shape=(1, 8, 8))
    other = Classifier(Net(), LinearHead(10, 2), [0.5], [0.25], image_size=(8, 8))
    with pytest.raises(UsageError, match="would be built otherwise when it is read, from the input of its classifier"):
        other.save(tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


def test_a_run_is_clustered_anew_and_saved(tmp_path):
    run = corral.train("at", data="digits", out=tmp_path / "run", progress=False, **{"data.train": 100, "epochs": 1})
    model = corral.cluster(run, "digits", rule="nearest", **QUIET)
    old = corral.load(run)
    x = load("digits").test.float()
    with torch.no_grad():
        assert torch.equal(model.features(x), old.features(x))
        assert torch.equal(Classifier.load(model.save(tmp_path / "a.safetensors"))(x), model(x))
        assert torch.equal(Classifier.load(Path(run) / "model.safetensors")(x), old(x))


def test_a_classifier_that_is_clustered_keeps_its_own_parts(tmp_path):
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    given = Classifier(backbone, LinearHead(5, 10), [0.5], [0.25], image_size=(8, 8))
    model = corral.cluster(given, "digits", **QUIET)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(model.features(x), given.features(x))
    with torch.no_grad():
        model.backbone[1].weight.zero_()
    assert given.training
    assert bool(given.backbone[1].weight.any())


def test_a_split_network_is_the_network(net):
    parts = split(net, (1, 8, 8))
    x = load("digits").test.float()
    with torch.no_grad():
        assert torch.allclose(parts(x), net(x), atol=1e-5)
        assert torch.equal(parts.features(x), penultimate(net, x))


def test_a_head_is_fitted_to_features():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 3, generator=generator), torch.arange(40) % 2
    head = ClusterHead.fit(features, labels, clusters=[1, 3], generator=torch.Generator().manual_seed(1))
    assert head.classes.tolist() == [0, 1, 1, 1]
    assert torch.allclose(head.centroids[0], features[labels == 0].mean(0), atol=1e-6)
    twin = ClusterHead.fit(features, labels, clusters=[1, 3], generator=torch.Generator().manual_seed(1))
    assert np.array_equal(twin.centroids.numpy(), head.centroids.numpy())
    with pytest.raises(ValueError, match="class 0 has 20 members, fewer than its k = 21 clusters"):
        ClusterHead.fit(features, labels, clusters=21)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clusters": 0}, "clusters: "),
        ({"clusters": 10_000}, "clusters: class 0 has .* fewer than its k = 10000 clusters"),
        ({"clusters": "elbow"}, "clusters must be a number, one a class, or 'silhouette', found 'elbow'"),
        ({"rule": "farthest"}, 'clusters: rule must be "soft", "nearest", "fuzzy" or an integer'),
        ({"features": "bodi"}, "it has no layer 'bodi'; did you mean 'body'"),
        ({"normalise": "imagenet"}, "normalise 'imagenet' is of 3 channels, the images have 1"),
        ({"backbone": "gone"}, "target 'gone': no such file or run"),
        ({"data": "digitz"}, "unknown data set 'digitz'"),
        ({"backbone": nn.Conv2d(3, 4, 3)}, "Conv2d: it fails on an image of"),
    ],
)
def test_what_cannot_be_clustered_is_one_line(net, change, message):
    given = {"backbone": net, "data": "digits"} | change
    with pytest.raises(UsageError, match=message) as caught:
        corral.cluster(given.pop("backbone"), given.pop("data"), **given, **QUIET)
    assert "\n" not in str(caught.value)


def test_the_shell_makes_and_measures_the_same_file(net, tmp_path, monkeypatch, capsys):
    from corral.cli import main

    monkeypatch.chdir(tmp_path)
    code = "from torch import nn\n\ndef load():\n    return nn.Sequential(nn.Flatten())\n"
    (tmp_path / "mine.py").write_text(code)
    for command in (
        [
            "cluster",
            "mine.py:load",
            "--data",
            "digits",
            "--clusters",
            "2",
            "--rule",
            "nearest",
            "--out",
            "c.safetensors",
        ],
        ["evaluate", "c.safetensors", "--data", "digits", "--eps", "0.1", "--n", "20", "--backbone", "mine.py:load"],
    ):
        monkeypatch.setattr("sys.argv", ["corral", *command, "--quiet"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, capsys.readouterr().err
        BACKBONES._held.clear()
    twin = corral.cluster(nn.Flatten(), "digits", clusters=2, rule="nearest", **QUIET)
    stored = Classifier.load("c.safetensors", backbone="mine.py:load")
    assert torch.equal(stored.head.centroids, twin.head.centroids)
    assert list((tmp_path / "measured" / "c-safetensors" / "records").glob("*.json"))
