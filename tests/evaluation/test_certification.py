"""Certification of runs: exact on an isometry, refused where attacks break it, resumable."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import corral
from corral.attacks.bisector import bisector_search
from corral.certify import LipschitzBound, nearest_radius
from corral.cli import app
from corral.data import load, stratified_subset
from corral.errors import CorralError, UsageError
from corral.evaluation import certification as module
from corral.evaluation.certificate import BrokenCertificatesError, read_certificate
from corral.evaluation.certification import certify_run
from corral.models import ClusterHead
from corral.models.spec import BackboneSpec, ModelSpec, build_classifier
from corral.report.certificate.page import certificate_sentences, radius_words, render_certificate
from corral.training import RunFolder, load_model, train
from corral.training.run import save_model

N = 40


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """PGD of two short restarts: what is tested here is what is done with its results."""
    monkeypatch.setattr(module, "PGD", replace(module.PGD, steps=10, restarts=2))


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    return train(
        "corral",
        out=tmp_path_factory.mktemp("certify") / "run",
        progress=False,
        device="cpu",
        **{"data.train": 300, "model.width": 4, "training.epochs": 1, "training.warm_start.epochs": 2},
    )


@pytest.fixture
def isometry(ordinary, tmp_path):
    """A run whose backbone is a rotation of the pixels, with two class means a class by the nearest rule."""
    _, old, info = load_model(ordinary)
    spec = ModelSpec(
        backbone=BackboneSpec(name="mlp", hidden=(), features=64, rectify=False),
        image_shape=old.image_shape,
        num_classes=10,
        mean=(0.0,),
        std=(1.0,),
        head="cluster",
        rule="nearest",
        clusters=10,
    )
    model = build_classifier(spec)
    rotation = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0))).Q
    train_images = load("digits").train
    pixels = train_images.float().flatten(1)
    with torch.no_grad():
        linear = model.backbone.layers[1]
        linear.weight.copy_(rotation)
        linear.bias.zero_()
        means = torch.stack([pixels[train_images.labels == label].mean(0) for label in range(10)])
        model.head = ClusterHead(means @ rotation.T, torch.arange(10), 1.0, rule="nearest")
    folder = tmp_path / "isometry"
    folder.mkdir()
    (folder / "recipe.toml").write_bytes(RunFolder(ordinary).recipe.read_bytes())
    save_model(folder / "model.safetensors", model.state_dict(), spec, info)
    return folder


def arrays(folder, label=f"l2-n{N}"):
    with np.load(folder / "certificates" / f"{label}.npz", allow_pickle=False) as archive:
        return dict(archive)


def test_on_an_isometry_radii_are_distances_to_bisectors_and_attacks_end_just_outside(isometry):
    found = certify_run(isometry, n=N, radii=[0.0, 0.5, "36/255", 1.0], progress=False, device="cpu")
    assert found.lipschitz == pytest.approx(1, abs=1e-5)
    test = stratified_subset(load("digits").test, N, seed=0)
    model = corral.load(isometry)
    with torch.no_grad():
        features, predicted = model.features(test.float()), model(test.float()).argmax(1)
    right = predicted == test.labels
    expected = []
    for feature in features.tolist():
        distances = [math.dist(feature, centroid) for centroid in model.head.centroids.tolist()]
        own = distances.index(min(distances))
        expected.append(
            min(
                (distances[j] ** 2 - distances[own] ** 2)
                / (2 * math.dist(model.head.centroids[own].tolist(), model.head.centroids[j].tolist()))
                for j in range(10)
                if j != own
            )
        )
    kept = arrays(isometry)
    assert kept["radius"] == pytest.approx(np.where(right, expected, 0), rel=1e-4, abs=1e-6)
    assert kept["labels"].tolist() == test.labels.tolist()
    assert kept["predicted"].tolist() == predicted.tolist()
    for point in found.at:
        assert point.certified == float(np.mean(right.numpy() & (np.array(expected) > point.radius)))
        assert point.certified <= point.attacked
    # The certificate is exact in feature space; the box [0, 1] can only push attacks farther out.
    reached = kept["distance"][right.numpy()] / kept["radius"][right.numpy()]
    assert reached.min() >= 1 - 1e-5
    assert np.median(reached) < 1.6


def test_the_search_along_bisectors_lands_on_the_boundary_of_an_isometry_inside_the_box():
    generator = torch.Generator().manual_seed(2)
    spec = ModelSpec(
        backbone=BackboneSpec(name="mlp", hidden=(), features=6, rectify=False),
        image_shape=(1, 2, 3),
        num_classes=4,
        mean=(0.0,),
        std=(1.0,),
        head="cluster",
        rule="nearest",
        clusters=8,
    )
    model = build_classifier(spec).eval()
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    with torch.no_grad():
        model.backbone.layers[1].weight.copy_(rotation)
        model.backbone.layers[1].bias.zero_()
    centroids = (0.5 + 0.1 * torch.randn(4, 6, generator=generator)) @ rotation.T
    model.head = ClusterHead(centroids, torch.arange(4), 1.0, rule="nearest")
    x = 0.5 + 0.05 * torch.randn(60, 1, 2, 3, generator=generator)
    with torch.no_grad():
        features, y = model.features(x), model(x).argmax(1)
    found = bisector_search(model, x, y)
    radii = nearest_radius(features, centroids, torch.arange(4))
    assert bool(found.broken.all())
    assert bool((found.distances >= radii * (1 - 1e-5)).all())
    torch.testing.assert_close(found.distances, radii, rtol=2e-3, atol=1e-5)


def test_a_certificate_that_an_attack_breaks_is_written_as_wrong_and_refused(isometry, monkeypatch):
    monkeypatch.setattr(module, "lipschitz_upper", lambda *_: LipschitzBound(value=0.05, layers=()))
    with pytest.raises(BrokenCertificatesError, match=r"attacks broke \d+ of 40 certificates") as caught:
        certify_run(isometry, n=N, progress=False, device="cpu")
    kept = read_certificate(isometry / "certificates" / f"l2-n{N}.json")
    assert kept == caught.value.certificate
    held = arrays(isometry)
    assert kept.broken == int(((held["distance"] <= held["radius"] * (1 - 1e-5)) & (held["radius"] > 0)).sum()) > 0
    assert certificate_sentences(kept)[0].startswith("Wrong: attacks broke")
    result = CliRunner().invoke(app, ["certify", str(isometry), "--n", str(N), "--quiet", "--device", "cpu"])
    assert isinstance(result.exception, CorralError)
    assert "Believe none of them" in (isometry / "certificates" / f"l2-n{N}.html").read_text()


def test_an_ordinary_network_s_certificate_says_that_it_is_vacuous(ordinary):
    result = CliRunner().invoke(
        app, ["certify", str(ordinary), "--n", str(N), "--quiet", "--device", "cpu", "--radius", "0.1"]
    )
    assert result.exit_code == 0
    assert "Vacuous: nothing is proved at any radius" in result.output
    found = read_certificate(ordinary / "certificates" / f"l2-n{N}.json")
    assert found.lipschitz == pytest.approx(math.prod(layer.bound for layer in found.layers))
    assert found.broken == 0
    page = render_certificate(found)
    assert page == render_certificate(found)
    assert (ordinary / "certificates" / f"l2-n{N}.html").read_text() == page
    assert 'class="badge">vacuous' in page
    # Per image, the attack's distance is beyond what was proved.
    held = arrays(ordinary)
    assert bool((held["distance"] >= held["radius"]).all())


def test_an_interrupted_certification_goes_on_and_ends_the_same(ordinary, monkeypatch):
    whole = certify_run(ordinary, n=N, radii=[0.2], batch_size=16, progress=False, device="cpu", seed=3)
    expected = arrays(ordinary, f"l2-n{N}-seed3")
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    original = module.ddn.outcome
    monkeypatch.setattr(module.ddn, "outcome", interrupted)
    with pytest.raises(KeyboardInterrupt):
        certify_run(ordinary, n=N, radii=[0.2], batch_size=16, progress=False, device="cpu", seed=3)
    again = certify_run(ordinary, n=N, radii=[0.2], batch_size=16, progress=False, device="cpu", seed=3)
    assert len(calls) == 4  # two batches were kept, the third is made once more
    assert (again.at, again.curve, again.median) == (whole.at, whole.curve, whole.median)
    for name, values in arrays(ordinary, f"l2-n{N}-seed3").items():
        assert np.array_equal(values, expected[name])
    monkeypatch.setattr(module.ddn, "outcome", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        certify_run(ordinary, n=N, radii=[0.2], progress=False, device="cpu", seed=3)
    with pytest.raises(CorralError, match="unfinished evaluation with another"):
        certify_run(ordinary, n=N, radii=[0.3], progress=False, device="cpu", seed=3)


@pytest.mark.parametrize("rule", ["nearest", "soft"])
@pytest.mark.parametrize("apart", [0, 1])
def test_coincident_centroids_have_no_radius_and_attacks_go_on(isometry, rule, apart):
    """Every decision between two equal centroids is a tie: no radius is above 0, and no attack contradicts it."""
    model, spec, info = load_model(isometry)
    centroids = model.head.centroids.clone()
    centroids[: 10 - apart] = centroids[0]
    model.head = ClusterHead(centroids, torch.arange(10), 1.0, rule=rule)
    spec = spec.model_copy(update={"head": spec.head | {"rule": rule}})
    save_model(isometry / "model.safetensors", model.state_dict(), spec, info)
    found = certify_run(isometry, n=10, progress=False, device="cpu")
    kept = arrays(isometry, "l2-n10")
    tied = kept["predicted"] < 10 - apart
    assert (kept["radius"][tied] == 0).all()
    assert found.broken == 0


@pytest.mark.parametrize(
    ("radius", "words"), [(36, "did you mean 36/255"), ("36", "did you mean 36/255"), (128.0, "128")]
)
def test_a_radius_in_levels_says_what_was_likely_meant(isometry, radius, words):
    with pytest.raises(UsageError, match=words):
        certify_run(isometry, radii=[radius], n=10, progress=False, device="cpu")


def test_what_a_bound_or_a_radius_refuses_is_one_line(isometry, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("only zero padding has a bound here")

    for name in ("lipschitz_upper", "head_radius"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refuse)
            with pytest.raises(CorralError, match="no certificate: only zero") as caught:
                certify_run(isometry, n=10, progress=False, device="cpu")
        assert "\n" not in str(caught.value)


def test_a_radius_past_the_box_is_refused(isometry):
    with pytest.raises(UsageError, match=r"a radius of 8.03\d+ is more than 8, the largest L2 distance .* 1×8×8"):
        certify_run(isometry, radii=["2050/255"], n=10, progress=False, device="cpu")


def test_one_image_of_each_class_and_none_of_some_are_certified(isometry):
    assert certify_run(isometry, n=10, progress=False, device="cpu").n == 10
    assert certify_run(isometry, n=3, progress=False, device="cpu").n == 3


def test_what_cannot_be_certified_is_one_line(ordinary, tmp_path):
    for arguments, kind, words in (
        ({"radii": [-1.0]}, UsageError, "radius is in pixel units"),
        ({"radii": ["many"]}, UsageError, "radius must be a number"),
        ({"radii": []}, UsageError, "radii must be one or more"),
        ({"n": 501}, UsageError, "501"),
        ({"batch_size": 0}, UsageError, "batch size must be at least 1"),
        ({"seed": -1}, UsageError, "seed must be from 0"),
    ):
        with pytest.raises(kind, match=words):
            certify_run(ordinary, progress=False, device="cpu", **arguments)
    with pytest.raises(CorralError, match="no such run folder"):
        certify_run(tmp_path / "none", progress=False)
    path = tmp_path / "l2.json"
    for content in ("", "{}", '{"format": "corral-record-1"}'):
        path.write_text(content)
        with pytest.raises(CorralError, match="not a corral certificate") as caught:
            read_certificate(path)
        assert "\n" not in str(caught.value)


def test_a_certificate_above_its_attack_is_not_a_certificate(ordinary):
    certify_run(ordinary, n=N, radii=[0.1], progress=False, device="cpu", seed=9)
    path = ordinary / "certificates" / f"l2-n{N}-seed9.json"
    held = json.loads(path.read_text())
    held["at"] = [{"radius": 0.1, "certified": 0.9, "attacked": 0.2}]
    path.write_text(json.dumps(held))
    with pytest.raises(CorralError, match=r"certified 0\.9 is above attacked 0\.2"):
        read_certificate(path)


def test_radii_are_named_in_levels_where_they_are_whole():
    assert [radius_words(radius) for radius in (36 / 255, 1.0, 1.58, 0.5)] == ["36/255", "255/255", "1.58", "0.5"]


class Loud(ClusterHead):
    """Decides by the farthest centroid."""

    def forward(self, features):
        return -super().forward(features)


def farthest(model):
    model.head.__class__ = Loud


def hooked_head(model):
    model.head.register_forward_hook(lambda _, given, logits: -logits)


def hooked_layer(model):
    model.backbone.layers[1].register_forward_hook(lambda _, given, out: 10 * out)


def other_features(model):
    before = model.features
    model.features = lambda x: 10 * before(x)


@pytest.mark.parametrize("change", [farthest, hooked_head, hooked_layer, other_features])
def test_a_model_that_runs_more_than_its_layers_gets_no_certificate(isometry, monkeypatch, change):
    original = module.load_subject

    def changed(*args, **kwargs):
        given = original(*args, **kwargs)
        change(given.model)
        return given

    monkeypatch.setattr(module, "load_subject", changed)
    with pytest.raises(UsageError, match=r"has no radius|to certify|replaced on the object") as caught:
        certify_run(isometry, n=N, progress=False, device="cpu", attack=False)
    assert "\n" not in str(caught.value)
    assert not list(isometry.glob("certificates/*"))
