"""Analyses against exact answers, slow twins and the evaluation's own records."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from corral.analysis import ANALYSES, measured_run, read_analysis
from corral.analysis.document import Analysis
from corral.analysis.gradient_norms import sign_agreement
from corral.analysis.subject import labelled
from corral.attacks import PUBLISHED_20, PUBLISHED_20_LOG
from corral.certify import published_radius_unsound
from corral.documents import write_document
from corral.errors import CorralError, UsageError
from corral.evaluation import evaluate
from corral.geometry import class_kmeans
from corral.training import train
from corral.training.features import extract_features


def test_far_from_every_centroid_the_exponentiated_gradient_is_nothing_and_the_log_one_its_closed_form(far):
    found = ANALYSES["gradient_norms"](far)
    assert found.series["zero exponentiated"] == (1.0,) * 21
    assert found.series["zero log"] == (0.0,) * 21
    assert found.series["alike exponentiated"] == (0.0,) * 21
    assert sign_agreement(torch.tensor([1.0, -1, 0, 0]), torch.tensor([2.0, 1, 0, 3])) == 1 / 3
    assert found.numbers["own"] > 104
    assert set(found.series["norm exponentiated"]) == {0.0}
    # Without a gradient the attack stays at its start: nothing is broken that noise had not.
    assert len(set(found.series["broken exponentiated"])) == 1
    assert found.series["broken log"][-1] >= found.series["broken exponentiated"][-1]
    # The log-space gradient of the cross-entropy is (softmax-weighted centroids - own ones) / variance.
    head, (x, y) = far.clusters, labelled(far.test)
    slow = []
    for image, label in zip(x.flatten(1).double(), y.tolist(), strict=True):
        weights = [
            (math.exp(-float(((image - mu.double()) ** 2).sum()) / 2 + 3000), mu, int(c))
            for mu, c in zip(head.centroids, head.classes, strict=True)
        ]
        all_mean = sum(w * mu.double() for w, mu, _ in weights) / sum(w for w, _, _ in weights)
        own_mean = sum(w * mu.double() for w, mu, c in weights if c == label) / sum(
            w for w, _, c in weights if c == label
        )
        slow.append(float((all_mean - own_mean).norm()))
    far.threat.__dict__["eps"] = 0.0
    still = ANALYSES["gradient_norms"](far)
    assert still.series["norm log"][0] == pytest.approx(float(torch.tensor(slow).median()), rel=1e-3)


def test_the_training_adversary_that_sees_no_gradient_is_the_noise_itself(far):
    found = ANALYSES["adversary"](far).numbers
    assert found["zero released"] == 1.0
    assert found["zero log"] == 0.0
    assert found["alike"] == 0.0
    assert found["kl released"] == found["kl noise"]
    assert found["share released"] == 0.0
    assert found["kl log"] > found["kl noise"]
    assert found["kl strong"] >= found["kl log"] * (1 - 1e-6)
    assert found["right released"] == found["right noise"]


def test_the_published_attack_and_its_log_control_are_the_evaluation_s(released, subject):
    record = evaluate(released, n=60, attacks=[PUBLISHED_20, PUBLISHED_20_LOG], progress=False, device="cpu")
    found = ANALYSES["protocol_ablation"](subject)
    accuracies = {attack.name: attack.accuracy for attack in record.attacks}
    assert found.numbers["published"] == accuracies["pgd_published"]
    assert found.numbers["log scores"] == accuracies["pgd_published_log"]
    assert found.numbers["clean"] == record.clean
    assert found.model_fingerprint == record.model_fingerprint
    # Counting more iterates can only find more.
    assert found.numbers["any iterate"] <= found.numbers["published"]
    assert found.numbers["log scores, any iterate"] <= found.numbers["log scores"]
    assert all(value <= found.numbers["clean"] for value in found.numbers.values())
    assert "batch statistics" not in found.numbers


def test_changes_of_the_scores_change_nothing_where_nothing_differs(far):
    """With as many nearest clusters as there are, the cut is none; and a gradient of zero leaves every verdict."""
    found = ANALYSES["protocol_ablation"](far).numbers
    assert found["published"] == found["every cluster"]
    assert found["log scores, cut"] == found["log scores"]
    assert found["log scores"] <= found["published"]


def test_batch_statistics_are_measured_where_the_backbone_has_them(tmp_path):
    run = train(
        "clustr-qtrades-published",
        out=tmp_path / "run",
        progress=False,
        device="cpu",
        **{"model.backbone": "resnet", "model.width": 4, "model.depth": 10, "model.features": None, "data.train": 120},
        **{"training.epochs": 1, "training.warm_start.epochs": 1},
    )
    subject = measured_run(run, n=30)
    found = ANALYSES["protocol_ablation"](subject).numbers
    model, (x, y) = subject.model, labelled(subject.test)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    with torch.no_grad():
        expected = float((model(x).argmax(1) == y).double().mean())
    model.eval()
    for name, buffer in before.items():
        dict(model.named_buffers())[name].copy_(buffer)
    assert found["clean, batch statistics"] == pytest.approx(expected, abs=1 / 30 + 1e-9)
    assert found["batch statistics"] <= found["clean, batch statistics"]
    assert all(bool(torch.equal(dict(model.named_buffers())[name], value)) for name, value in before.items())


def test_features_are_read_by_an_independent_probe_and_by_brute_force(subject):
    found = ANALYSES["features"](subject).numbers
    train_features = extract_features(subject.model, subject.train)
    test_features = extract_features(subject.model, subject.test)
    probe = LogisticRegression(max_iter=2000, C=1.0).fit(
        (train_features / train_features.std(0).clamp_min(1e-6)).numpy(), subject.train.labels.numpy()
    )
    scaled = (test_features / train_features.std(0).clamp_min(1e-6)).numpy()
    assert found["linear"] == pytest.approx(float(np.mean(probe.predict(scaled) == subject.test.labels.numpy())))
    assert max(found.values()) <= 1
    clusters = class_kmeans(
        train_features, subject.train.labels, 2, num_classes=10, generator=torch.Generator().manual_seed(0)
    )
    nearest = []
    for feature in test_features.tolist():
        distances = [math.dist(feature, centroid) for centroid in clusters.centroids.tolist()]
        nearest.append(int(clusters.classes[distances.index(min(distances))]))
    assert found["nearest"] == float(np.mean(np.array(nearest) == subject.test.labels.numpy()))


def test_on_well_separated_features_every_reading_is_right(far):
    """Three tight groups: the probe, both rules and blind k-means all find them."""
    labels = torch.arange(60) % 3
    corners = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1], [0.1, 0.1, 0.9, 0.9]])
    pixels = corners[labels] + 0.02 * torch.rand(60, 4, generator=torch.Generator().manual_seed(1))
    images = type(far.test)(pixels.view(60, 1, 2, 2), labels)
    subject = type(far)(far.model, far.name, far.data, ("a", "b", "c"), far.threat, images, images, 0)
    found = ANALYSES["features"](subject).numbers
    assert {name: found[name] for name in ("linear", "nearest", "soft", "majority")} == dict.fromkeys(
        ("linear", "nearest", "soft", "majority"), 1.0
    )


def test_bounds_are_those_of_loops_over_images(subject):
    found = ANALYSES["bounds"](subject)
    head, labels = subject.clusters, subject.test.labels.tolist()
    sigma = float(head.variance) ** 0.5
    lower, pair, right = [], [], 0
    for feature, label in zip(extract_features(subject.model, subject.test).tolist(), labels, strict=True):
        own = min(
            (math.dist(feature, mu), k) for k, mu in enumerate(head.centroids.tolist()) if head.classes[k] == label
        )
        rival = min(
            (math.dist(feature, mu), k) for k, mu in enumerate(head.centroids.tolist()) if head.classes[k] != label
        )
        if own[0] < rival[0]:
            right += 1
            gap = math.dist(head.centroids[own[1]].tolist(), head.centroids[rival[1]].tolist())
            lower.append((rival[0] - own[0]) / 2 / sigma)
            pair.append((rival[0] ** 2 - own[0] ** 2) / (2 * gap) / sigma)
    assert found.numbers["accuracy"] == pytest.approx(right / len(labels))
    assert found.numbers["lower"] == pytest.approx(float(torch.tensor(lower).median()), rel=1e-4)
    assert found.numbers["pair_unsound"] == pytest.approx(float(torch.tensor(pair).median()), rel=1e-4)
    assert found.numbers["outside"] <= 1e-6
    assert found.numbers["exact"] <= found.numbers["upper"] + 1e-9


def test_a_published_radius_counts_as_too_large_where_a_point_within_it_is_decided_otherwise(subject):
    """Walks from each feature to just within its published radius, straight away from its centroid to every rival."""
    head, labels = subject.clusters, subject.test.labels
    features = extract_features(subject.model, subject.test).double()
    centroids = head.centroids.double()
    decided = head.classes[(features.unsqueeze(1) - centroids).square().sum(2).argmin(1)]
    published = published_radius_unsound(features, centroids, head.classes)
    broken = torch.zeros(len(labels), dtype=torch.bool)
    for own in centroids:
        for rival in centroids:
            if not torch.equal(own, rival):
                moved = features + published.unsqueeze(1) * (1 - 1e-3) * (rival - own) / (rival - own).norm()
                found = head.classes[(moved.unsqueeze(1) - centroids).square().sum(2).argmin(1)]
                broken |= found != decided
    right = decided == labels
    share = float(broken[right].double().mean())
    assert share > 0
    assert ANALYSES["bounds"](subject).numbers["too_large"] >= share


@pytest.mark.parametrize("name", ["gradient_norms", "protocol_ablation", "adversary", "bounds"])
def test_a_linear_head_has_no_such_analysis_and_hears_so_in_one_line(name, tmp_path_factory):
    run = train(
        "nominal",
        out=tmp_path_factory.mktemp("linear") / "run",
        progress=False,
        device="cpu",
        **{"data.train": 100, "model.width": 4, "training.epochs": 1, "training.warm_start.epochs": 0},
    )
    with pytest.raises(UsageError, match="recipe nominal: this analysis needs a cluster head"):
        ANALYSES[name](measured_run(run, n=20))


def test_analyses_are_documents_that_say_what_they_were_made_on(subject, tmp_path):
    found = ANALYSES["bounds"](subject)
    assert (found.n, found.data, found.eps, found.seed) == (60, "digits", 0.1, 0)
    write_document(found, tmp_path / "a.json")
    assert read_analysis(tmp_path / "a.json") == found
    assert isinstance(found, Analysis)
    (tmp_path / "b.json").write_text((tmp_path / "a.json").read_text()[:-40])
    with pytest.raises(CorralError, match="not a corral analysis"):
        read_analysis(tmp_path / "b.json")


def test_an_analysis_leaves_the_model_as_it_was(subject):
    state = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    for name in ("gradient_norms", "adversary", "protocol_ablation"):
        ANALYSES[name](subject)
    assert not subject.model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in subject.model.state_dict().items())
    assert all(parameter.grad is None for parameter in subject.model.parameters())
