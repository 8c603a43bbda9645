import json
import shutil

import numpy as np
import pytest
import torch

import corral
from corral.attacks import LOG_20, MARGIN_20, PRESETS, PUBLISHED_20
from corral.attacks.autoattack import autoattack_outcome
from corral.attacks.pgd import pgd_outcome
from corral.data import load, stratified_subset
from corral.errors import CorralError, UsageError
from corral.evaluation import evaluate, read_record
from corral.models.fingerprint import fingerprint
from corral.training import Run, train

EPS, COUNT = 0.05, 60
LABEL = f"quick-n{COUNT}-eps{EPS}"
TINY = {"data.train": 300, "width": 4, "model.features": 16, "epochs": 2, "warm_start.epochs": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A linear and a cluster run, trained and evaluated."""
    base = tmp_path_factory.mktemp("runs")
    folders = {}
    for recipe in ("nominal", "corral"):
        overrides = TINY | ({"method.inner.steps": 1} if recipe == "corral" else {})
        folders[recipe] = train(recipe, out=base / recipe, progress=False, **overrides)
        evaluate(folders[recipe], eps=EPS, n=COUNT, progress=False)
    return folders


def outcomes(folder):
    with np.load(folder / "records" / f"{LABEL}.npz", allow_pickle=False) as archive:
        return {name.removeprefix("correct_"): archive[name] for name in archive.files if name.startswith("correct_")}


def record(folder):
    return read_record(folder / "records" / f"{LABEL}.json")


@pytest.mark.parametrize("kind", ["nominal", "corral"])
@pytest.mark.parametrize("protocol", [PUBLISHED_20, LOG_20, MARGIN_20], ids=lambda p: p.name)
def test_accuracies_are_those_of_the_attack_run_by_hand(runs, kind, protocol):
    model = corral.load(runs[kind])
    test = stratified_subset(load("digits").test, COUNT, seed=0)
    x, y = test.float(), test.labels
    x_adv = pgd_outcome(
        model,
        x,
        y,
        eps=EPS,
        steps=20,
        step_size=2 / 255 if protocol is PUBLISHED_20 else 2.5 * EPS / 20,
        restarts=protocol.restarts,
        objective=protocol.objective_for(model),
        seed=0,
        keep=protocol.keep,
    ).x_adv
    with torch.no_grad():
        clean, robust = model(x).argmax(1) == y, model(x_adv).argmax(1) == y
    found = record(runs[kind])
    result = next(attack for attack in found.attacks if attack.name == protocol.name)
    assert found.clean == int(clean.sum()) / COUNT
    assert result.accuracy == int(robust.sum()) / COUNT
    assert np.array_equal(outcomes(runs[kind])[protocol.name], robust.numpy())
    assert (result.eps, result.norm, result.n, result.seed) == (EPS, "Linf", COUNT, 0)
    assert result.step_size == pytest.approx(2 / 255 if protocol is PUBLISHED_20 else EPS / 8)


def test_a_linear_head_has_no_published_scores_and_the_record_says_so(runs):
    names = {
        kind: {attack.name: attack.objective for attack in record(runs[kind]).attacks if attack.name != "worst_case"}
        for kind in runs
    }
    log = {"pgd_ce": "cross_entropy", "pgd_cw": "margin"}
    assert names["nominal"] == log | {"pgd_published": "cross_entropy"}
    published = {"pgd_published": "published_cross_entropy", "pgd_published_log": "cross_entropy"}
    assert names["corral"] == log | published
    assert (record(runs["nominal"]).head, record(runs["nominal"]).rule) == ("linear", None)
    assert (record(runs["corral"]).head, record(runs["corral"]).rule) == ("cluster", "soft")


@pytest.mark.parametrize("kind", ["nominal", "corral"])
def test_the_worst_case_is_the_pointwise_and_of_all_outcomes(runs, kind):
    found, saved = record(runs[kind]), outcomes(runs[kind])
    assert saved.keys() == {"clean"} | {attack.name for attack in found.attacks[:-1]}
    worst = found.attacks[-1]
    assert worst.name == "worst_case"
    assert worst.accuracy == np.logical_and.reduce(list(saved.values())).mean()
    assert all(worst.accuracy <= attack.accuracy for attack in found.attacks)
    assert worst.accuracy <= found.clean == saved["clean"].mean()
    assert worst.seconds == pytest.approx(sum(attack.seconds for attack in found.attacks[:-1]))


@pytest.mark.parametrize("kind", ["nominal", "corral"])
def test_per_class_accuracies_average_to_the_whole(runs, kind):
    found = record(runs[kind])
    counts = torch.bincount(stratified_subset(load("digits").test, COUNT, seed=0).labels, minlength=10).numpy()
    rows = [(found.clean, found.clean_per_class), *((a.accuracy, a.per_class) for a in found.attacks)]
    for whole, parts in rows:
        assert np.dot(parts, counts) / COUNT == pytest.approx(whole)


def test_the_record_states_what_was_measured(runs):
    found = record(runs["corral"])
    assert (found.n, found.n_test, found.reduced) == (COUNT, 500, True)
    assert found.data_fingerprint == load("digits").fingerprint
    assert found.model_fingerprint == fingerprint(corral.load(runs["corral"]))
    assert found.model_fingerprint != record(runs["nominal"]).model_fingerprint
    assert found.environment.torch == torch.__version__
    assert found.train_seconds > 0
    assert found.eval_seconds >= found.attacks[-1].seconds
    (curve,) = found.curves
    assert curve.eps == pytest.approx([EPS * f for f in (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3)])
    assert curve.accuracy[0] == found.clean
    assert all(accuracy <= curve.accuracy[0] for accuracy in curve.accuracy)


def test_the_drawn_arrays_are_the_models_own(runs):
    model = corral.load(runs["corral"])
    with np.load(runs["corral"] / "records" / f"{LABEL}.npz", allow_pickle=False) as archive:
        arrays = dict(archive)
    assert arrays["centroids2d"].shape == (len(model.head.centroids), 2) == (10, 2)
    assert sorted(arrays["images_labels"][:8].tolist()) == list(range(8))
    before, after = arrays["images"] / 255, arrays["images_adversarial"]
    assert np.abs(after - before).max() <= EPS + 1e-6
    with torch.no_grad():
        assert np.array_equal(model(torch.from_numpy(after)).argmax(1).numpy(), arrays["images_adversarial_predicted"])
    with np.load(runs["nominal"] / "records" / f"{LABEL}.npz", allow_pickle=False) as archive:
        assert archive["centroids2d"].shape == (0, 2)


def test_evaluating_twice_gives_the_same_numbers(runs):
    before = record(runs["corral"])
    again = evaluate(runs["corral"], eps=str(EPS), n=COUNT, progress=False)
    for one, two in ((before.attacks, again.attacks), (before.curves, again.curves)):
        assert [a.model_dump(exclude={"seconds"}) for a in one] == [a.model_dump(exclude={"seconds"}) for a in two]
    assert before.clean == again.clean


def test_other_data_than_the_runs_are_refused(tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "mine.npz"
    images, labels = generator.integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 3
    np.savez(path, images=images, labels=labels)
    given = {"epochs": 1, "width": 4, "model.backbone": "convnet", "threat.eps": 0.1}
    run = train("nominal", data=f"npz:{path}", out=tmp_path / "run", progress=False, **given)
    whole = evaluate(run, attacks=[LOG_20], progress=False)
    assert (whole.n, whole.n_test, whole.reduced) == (12, 12, False)
    assert [attack.name for attack in whole.attacks] == ["pgd_ce"]  # one attack is its own worst case
    images[5, 3, 3] ^= 1
    np.savez(path, images=images, labels=labels)
    with pytest.raises(CorralError, match=r"trained on other data: .* has fingerprint [0-9a-f]{16}, the run's was"):
        evaluate(run, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": "8"}, r"did you mean 8/255\?"),
        ({"eps": "abc"}, "found 'abc'"),
        ({"eps": -0.1}, "found -0.1"),
        ({"eps": 0}, "eps must be above 0"),
        ({"n": 0}, "a subset of 0 images is impossible: ask for 1 to 500"),
        ({"n": 501}, "a subset of 501 images is impossible: ask for 1 to 500"),
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"seed": -1}, "seed must be from 0"),
        ({"attacks": []}, "attacks must be one or more, each once, found none"),
        ({"attacks": [LOG_20, LOG_20]}, "each once, found pgd_ce, pgd_ce"),
        ({"device": "meta"}, "device 'meta' is not usable here"),
    ],
)
def test_impossible_requests_are_usage_errors(runs, options, message):
    with pytest.raises(UsageError, match=message):
        evaluate(runs["nominal"], progress=False, **options)


def test_a_folder_without_a_finished_model_says_what_to_do(runs, tmp_path):
    with pytest.raises(CorralError, match="no such run folder"):
        evaluate(tmp_path / "none", progress=False)
    with pytest.raises(CorralError, match=r"no model\.safetensors in this folder; make a run with `corral train`"):
        evaluate(tmp_path, progress=False)
    shutil.copytree(runs["nominal"], tmp_path / "cut")
    Run(tmp_path / "cut").model_file.unlink()
    with pytest.raises(CorralError, match=r"the run is unfinished; continue it with `corral train .* --resume`"):
        evaluate(tmp_path / "cut", progress=False)


def test_every_protocol_is_known_by_its_own_name():
    assert all(protocol.name == name for name, protocol in PRESETS.items())


@pytest.fixture(scope="module")
def ensembles(runs):
    """The two costly protocols on a few images of the cluster run."""
    return {name: evaluate(runs["corral"], protocol=name, n=12, progress=False) for name in ("standard", "adaptive")}


@pytest.mark.parametrize(("name", "row"), [("standard", "autoattack"), ("adaptive", "adaptive")])
def test_an_ensembles_row_is_its_members_worst_case_and_each_has_its_own_accuracy(runs, ensembles, name, row):
    found = ensembles[name]
    assert found == read_record(runs["corral"] / "records" / f"{name}-n12.json")
    members = [attack.name for attack in found.attacks if attack.name not in (row, "worst_case")]
    assert (
        members
        == {
            "standard": ["apgd-ce", "apgd-t", "fab-t", "square"],
            "adaptive": ["cross_entropy", "margin", "targeted_dlr", "magnet", "rival_centroids", "mat"],
        }[name]
    )
    with np.load(runs["corral"] / "records" / f"{name}-n12.npz", allow_pickle=False) as arrays:
        kept = {member: arrays[f"correct_{member}"] for member in members}
        worst = np.logical_and.reduce([arrays["correct_clean"], *kept.values()])
        for member in members:
            result = next(attack for attack in found.attacks if attack.name == member)
            assert result.accuracy == kept[member].mean()
            # Every attack met every image: a step for each that it broke, -1 where it stands.
            assert np.array_equal(arrays[f"step_{member}"] >= 0, ~kept[member])
        assert np.array_equal(arrays["first_attack"] == "", worst)
        for image, culprit in enumerate(arrays["first_attack"]):
            assert arrays["success_step"][image] == (
                -1 if culprit == "" else 0 if culprit == "clean" else arrays[f"step_{culprit}"][image]
            )
    results = {attack.name: attack for attack in found.attacks}
    assert results[row].accuracy == results["worst_case"].accuracy == worst.mean()


def test_the_standard_protocol_is_autoattack_image_for_image(runs, ensembles):
    model = corral.load(runs["corral"])
    test = stratified_subset(load("digits").test, 12, seed=0)
    found = autoattack_outcome(model, test.float(), test.labels, eps=ensembles["standard"].eps)
    with np.load(runs["corral"] / "records" / "standard-n12.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["first_attack"] == "", ~found.outcome.broken.numpy())


def test_no_protocols_name_covers_a_part_of_the_test_set(runs, ensembles, tmp_path):
    for name, found in ensembles.items():
        assert found.reduced
        assert found.protocol_name == f"{name}, reduced: 12 of {found.n_test} images"
    page = corral.report([runs["corral"]], out=tmp_path / "page.html").read_text()
    assert f"quick, reduced: {COUNT} of {ensembles['standard'].n_test} images" in page
    assert f"standard+adaptive, reduced: 12 of {ensembles['standard'].n_test} images" in page
    # Another threat is another piece of evidence, never mixed in.
    assert f"(Linf eps {EPS}, n = {COUNT}, seed 0)" in page


def test_published_steps_and_queries_cannot_be_lessened(ensembles):
    results = {attack.name: attack for attack in ensembles["standard"].attacks}
    assert [results[name].steps for name in ("apgd-ce", "apgd-t", "fab-t", "square")] == [100, 100, 100, 5000]
    standing = results["square"].accuracy * 12
    # What stood to the end was asked 5,000 times, and the clean image once.
    assert results["square"].forwards >= standing * 5001


def test_train_evaluate_report_agree(runs, tmp_path):
    page = corral.report(list(runs.values()), out=tmp_path / "report.html").read_text()
    for kind, folder in runs.items():
        assert kind in page
        worst = json.loads((folder / "records" / f"{LABEL}.json").read_text())["attacks"][-1]["accuracy"]
        assert f"{100 * worst:.1f}" in page
