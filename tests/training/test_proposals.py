"""What the critique proposes (Secs. 4.2, 5.1): fuzzy memberships, learned logits, an adversarial warm start."""

import math

import pytest
import torch
from tests.oracles import memberships
from torch.nn.utils import parameters_to_vector

from corral.analysis.analyze import analyze
from corral.checkpoints import read_checkpoint
from corral.errors import UsageError
from corral.evaluation.certification import certify_run
from corral.evaluation.evaluate import evaluate
from corral.models.fingerprint import fingerprint
from corral.training import load_model, load_recipe
from corral.training.run import RunFolder

LEARNED = {"centroids": "learned"}


def test_losses_are_of_memberships_where_the_rule_is_fuzzy(begun):
    run = begun("clustr-ce-qtrades", rule="fuzzy")
    rows = next(iter(run.method.batches()))
    x, y = run.images.float(rows), run.images.labels[rows]
    found = float(run.method.loss(x, y, rows)[1]["cross_entropy"])
    features = run.model.features(x)
    centroids, _ = run.method.batch_clusters(features, run.method.assignments[rows])
    p = memberships(features.detach(), centroids.detach(), run.model.head.classes)
    expected = -sum(math.log(float(row[label])) for row, label in zip(p, y, strict=True)) / len(y)
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("recipe", ["clustr-ce-qtrades", "corral"])
def test_a_fuzzy_head_is_trained_saved_attacked_and_analysed_and_has_no_certificate(tiny, recipe):
    folder = tiny(recipe, rule="fuzzy", **{"training.epochs": 3, "training.warm_start.epochs": 8})
    model, spec, _ = load_model(folder)
    assert (spec.head["rule"], model.head.rule) == ("fuzzy", "fuzzy")
    if recipe == "corral":  # m - 1 learns
        assert abs(float(model.head.temperature) - 1) > 1e-3
    record = evaluate(folder, protocol="quick", n=40, progress=False)
    assert record.rule == "fuzzy"
    assert record.clean > 0.3
    analyses = analyze(folder, n=20, progress=False, only=["bounds", "protocol_ablation", "silhouettes"])
    assert all(analysis.numbers for analysis in analyses.values())
    with pytest.raises(UsageError, match='rule "fuzzy" has no certificate'):
        certify_run(folder, n=10, attack=False, progress=False)


def test_learned_logits_begin_as_those_of_k_means_and_then_part_from_it(begun):
    """Magnet's batches stay k-means's; the head takes what was learned."""
    run = begun("clustr-ce-qtrades", **LEARNED)
    method, head = run.method, run.model.head
    torch.testing.assert_close(torch.stack([*method.map.clusters()[0]]), method.fitted)
    rows = next(iter(method.batches()))
    loss, _ = method.loss(run.images.float(rows), run.images.labels[rows], rows)
    loss.backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in method.learned())
    with torch.no_grad():
        method.map.weight.add_(0.3)
    learned = [part.detach().clone() for part in method.map.clusters()]
    method.after_epoch()
    assert torch.equal(head.centroids, learned[0])
    assert float(head.variance) == pytest.approx(float(learned[1]))
    assert not torch.equal(method.fitted, learned[0])
    # The weights did not change, so neither did the clusters of k-means but for their seeding: means of their members.
    means = torch.stack([means_of(run, method, cluster) for cluster in range(len(head.centroids))])
    torch.testing.assert_close(method.fitted, means, rtol=1e-4, atol=1e-5)


def means_of(run, method, cluster):
    run.model.eval()
    with torch.no_grad():
        return run.model.features(run.images.float()[method.assignments == cluster]).mean(0)


def test_learned_logits_resume_with_equal_bits(tiny, tmp_path, killed):
    settings = LEARNED | {"training.epochs": 3, "training.warm_start.epochs": 0}
    whole = tiny("clustr-ce-qtrades", "whole", **settings)
    with killed():
        tiny("clustr-ce-qtrades", "killed", **settings)
    half = tiny("clustr-ce-qtrades", "killed", resume=True, **settings)
    assert fingerprint(load_model(half)[0]) == fingerprint(load_model(whole)[0])
    states = [read_checkpoint(RunFolder(folder).state, kind="training")[0] for folder in (whole, half)]
    assert "method.found" in states[0]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("recipe", "given"),
    [("clustr-qtrades", {}), ("clustr", {}), ("clustr-ce-qtrades", {"numerics": "published"})],
)
def test_learned_logits_without_labels_or_in_published_scores_are_refused(recipe, given):
    with pytest.raises(UsageError, match="centroids 'learned' need a cross_entropy_weight"):
        load_recipe(recipe, overrides=LEARNED | given)


def test_clustr_begins_from_an_adversarially_trained_network(tiny, begun):
    before = tiny("at", "before")
    settings = {"training.start": str(before), "training.warm_start.epochs": 0}
    run = begun("clustr-qtrades", **settings, **{"model.features": 16})
    own, started = (parameters_to_vector(model.backbone.parameters()) for model in (run.model, load_model(before)[0]))
    assert torch.equal(own, started)
    # Clusters are of those weights: k-means means of their features, not placeholders.
    assert float(run.model.head.centroids.abs().max()) > 0
    folder = tiny("clustr-qtrades", "after", **settings)
    model, _, info = load_model(folder)
    assert info.started_from == fingerprint(load_model(before)[0].backbone)
    assert not torch.equal(parameters_to_vector(model.backbone.parameters()), started)
