"""SimCLR and linear evaluation against slow twins, what stays frozen, and what an encoder is refused for."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from corral.attacks import pgd
from corral.checkpoints import read_checkpoint
from corral.data import Images, joined, load
from corral.data.views import random_views
from corral.errors import CorralError, UsageError
from corral.evaluation import evaluate
from corral.evaluation.fit_heads import fitted_heads
from corral.models.fingerprint import fingerprint
from corral.training import Run, Training, load_model, load_recipe, read_metrics, train
from corral.training.features import extract_features
from corral.training.methods.encoder import neighbour_votes
from corral.training.start import moments, prepare_data

SMALL = {"data.train": 240, "data.validation": 100, "model.width": 4, "training.epochs": 2}


def started(recipe, folder, **settings):
    run = Training(load_recipe(recipe, overrides=settings), Run(folder), torch.device("cpu"), progress=False)
    run.begin(resume=False)
    run.model.train()
    return run


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    more = {"data.train": 200, "model.width": 8, "training.epochs": 12}
    return train("simclr", out=tmp_path_factory.mktemp("encoder") / "simclr", progress=False, **(SMALL | more))


def test_simclr_s_loss_is_that_of_two_views_by_double_loops(tmp_path):
    run = started("simclr", tmp_path / "run", **SMALL)
    rows = torch.arange(7)
    x, y = run.images.float(rows), run.images.labels[rows]
    noise = torch.Generator().set_state(run.noise.get_state())
    augmentation = run.recipe.method.views.augmentation()
    views = torch.cat([random_views(x, augmentation, generator=noise) for _ in range(2)])
    embeddings = run.method.projection(run.model.features(views)).detach().double()
    total = 0.0
    for first in range(14):
        values = {}
        for other in range(14):
            if other != first:
                a, b = embeddings[first], embeddings[other]
                values[other] = math.exp(float(a @ b / (a.norm() * b.norm())) / 0.5)
        total -= math.log(values[(first + 7) % 14] / sum(values.values())) / 14
    run.model.train()
    loss, _ = run.method.loss(x, y, rows)
    # Batch statistics are those of the same batch in both passes.
    assert float(loss.detach()) == pytest.approx(total, rel=1e-4)


def test_simclr_brings_images_of_a_class_together_without_their_labels(encoder):
    metrics = read_metrics(Run(encoder).metrics_file)
    assert metrics[-1]["validation_neighbours"] > 0.5
    assert "validation_clean" not in metrics[-1]
    model, spec, info = load_model(encoder, encoder=True)
    assert (spec.head, info.method) == ({"name": "features"}, "simclr")
    x = load("digits").test.float(torch.arange(5))
    assert torch.equal(model(x), model.features(x))


def test_labels_play_no_part_in_simclr(tmp_path):
    """The same images with their labels in another order give the same weights."""
    weights = []
    for turned in (False, True):
        run = started("simclr", tmp_path / str(turned), **SMALL, **{"training.seed": 3})
        if turned:
            run.images.labels.copy_(run.images.labels.flip(0))
        run.execute()
        weights.append(read_checkpoint(run.folder.model_file, kind="model")[0])
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())


def test_an_interrupted_encoder_ends_with_the_same_bits(tmp_path, killed):
    whole = train("simclr", out=tmp_path / "whole", progress=False, **SMALL)
    with killed():
        train("simclr", out=tmp_path / "cut", progress=False, **SMALL)
    cut = train("simclr", out=tmp_path / "cut", progress=False, resume=True, **SMALL)
    one, other = (read_checkpoint(Run(path).state_file, kind="training")[0] for path in (whole, cut))
    assert one.keys() == other.keys()
    assert any(name.startswith("method.projection") for name in one)
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())


def test_neighbours_vote_by_their_cosine():
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 2.0], [0.1, 1.0]])
    votes = neighbour_votes(torch.tensor([[5.0, 0.1], [0.0, 0.1]]), bank, torch.tensor([0, 0, 1, 1]), 2)
    assert votes.argmax(1).tolist() == [0, 1]
    cosines = functional.normalize(torch.tensor([[5.0, 0.1]]), dim=1) @ functional.normalize(bank, dim=1).T
    weights = (cosines[0] / 0.07).exp()
    assert float(votes[0, 1] / votes[0, 0]) == pytest.approx(float(weights[2:].sum() / weights[:2].sum()), rel=1e-3)


def test_a_standard_head_sees_the_frozen_features_of_clean_images(encoder, tmp_path):
    run = started("slf", tmp_path / "run", **(SMALL | {"model.width": 8, "training.start": str(encoder)}))
    rows = torch.arange(20)
    x, y = run.images.float(rows), run.images.labels[rows]
    features = extract_features(load_model(encoder, encoder=True)[0], run.images)[rows]
    head = run.model.head.linear
    expected = functional.cross_entropy(features @ head.weight.T + head.bias, y)
    torch.testing.assert_close(run.method.loss(x, y, rows)[0], expected)
    assert {id(p) for group in run.optimiser.param_groups for p in group["params"]} == set(map(id, head.parameters()))


def test_an_adversarial_head_sees_features_of_pgd_10_against_itself(encoder, tmp_path):
    run = started("alf", tmp_path / "run", **(SMALL | {"model.width": 8, "training.start": str(encoder)}))
    rows = torch.arange(20)
    x, y = run.images.float(rows), run.images.labels[rows]
    noise = torch.Generator().set_state(run.noise.get_state())
    moved = pgd(
        run.model, x, y, eps=0.1, norm="Linf", steps=10, step_size=0.025, generator=noise, keep="last"
    )  # fmt: skip
    assert float((moved - x).abs().max()) <= 0.1 + 1e-6
    run.model.eval()
    with torch.no_grad():
        expected = functional.cross_entropy(run.model(moved), y)
    run.model.train()
    torch.testing.assert_close(run.method.loss(x, y, rows)[0].detach(), expected, rtol=1e-4, atol=1e-5)


def test_heads_leave_the_encoder_as_it_is_and_are_runs_like_any_other(tmp_path):
    few = SMALL | {"data.train": 80, "training.epochs": 1}
    encoder = train("simclr", out=tmp_path / "few", progress=False, **few)
    before = load_model(encoder, encoder=True)[0].backbone.state_dict()
    folders = fitted_heads(encoder, ["slf", "alf"], progress=False)
    assert [folder.name for folder in folders] == ["few-slf", "few-alf"]
    for folder in folders:
        model, spec, info = load_model(folder)
        assert (spec.head, info.method) == ({"name": "linear"}, folder.name[-3:])
        assert all(torch.equal(model.backbone.state_dict()[name], tensor) for name, tensor in before.items())
    stamps = [(folder / "model.safetensors").stat().st_mtime_ns for folder in folders]
    assert fitted_heads(encoder, ["slf", "alf"], progress=False) == folders
    assert [(folder / "model.safetensors").stat().st_mtime_ns for folder in folders] == stamps


def test_a_head_is_evaluated_like_any_other_run(encoder):
    (folder,) = fitted_heads(encoder, ["slf"], progress=False)
    record = evaluate(folder, n=40, progress=False)
    assert record.run == "simclr-slf"
    assert record.clean > 0.4


@pytest.mark.parametrize("kind", ["slf", "aff"])
def test_what_began_from_other_weights_is_not_taken_for_these(tmp_path, kind, monkeypatch):
    few = SMALL | {"data.train": 40, "training.epochs": 1}
    run = train("simclr", out=tmp_path / "run", progress=False, **few)
    short = {"training.epochs": 1} | ({"method.inner.steps": 1} if kind == "aff" else {})

    def shortened(name, *, overrides=None, **more):
        return load_recipe(name, overrides=None if overrides is None else overrides | short, **more)

    monkeypatch.setattr("corral.evaluation.fit_heads.load_recipe", shortened)
    (folder,) = fitted_heads(run, [kind], progress=False)
    assert load_model(folder)[2].started_from == fingerprint(load_model(run, encoder=True)[0].backbone)
    other = train("simclr", out=tmp_path / "other", progress=False, **few, **{"training.learning_rate": 0.002})
    for name in ("model.safetensors", "recipe.toml"):
        (run / name).write_bytes((other / name).read_bytes())
    with pytest.raises(CorralError, match=rf"run-{kind}: it began from other weights than .*delete the folder"):
        fitted_heads(run, [kind], progress=False)


def test_an_encoder_decides_nothing(encoder):
    for refused in (load_model, evaluate):
        with pytest.raises(CorralError, match=r"an encoder .*decides nothing; fit a head to it with `corral evaluate"):
            refused(encoder)


@pytest.mark.parametrize(
    ("recipe", "settings", "words"),
    [
        ("slf", {}, "method 'slf' begins from trained weights"),
        ("alf", {"training.start": "x", "training.warm_start.epochs": 2}, "trains a head alone"),
        ("slf", {"training.start": "x", "data.flip": True}, "'slf' computes features once"),
        ("simclr", {"training.select": "best", "data.validation": 50}, "no accuracy to select by"),
        ("simclr", {"training.warm_up": 30}, "warm_up must end before the 30 epochs do"),
        ("simclr", {"training.trust": 0.1}, "trust is a number of optimisers 'lars' and 'lars-clipped'"),
        ("simclr", {"method.temperature": 0.0}, "method.*temperature"),
    ],
)
def test_what_cannot_be_is_one_line(recipe, settings, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        started(recipe, tmp_path / "run", **settings)


@pytest.mark.parametrize("kinds", [[], ["slf", "best"]])
def test_other_heads_are_refused(encoder, kinds):
    with pytest.raises(UsageError, match=r"unknown linear evaluation .*known: aff, alf, nearest, slf, soft"):
        fitted_heads(encoder, kinds, progress=False)


@pytest.mark.parametrize("rule", ["nearest", "soft"])
def test_a_cluster_head_is_k_means_of_every_class_s_frozen_features_and_takes_no_step(encoder, rule):
    before = load_model(encoder, encoder=True)[0]
    (folder,) = fitted_heads(encoder, [rule], progress=False)
    model, spec, info = load_model(folder)
    assert (spec.head["name"], spec.head["rule"], info.method) == ("cluster", rule, rule)
    own = before.backbone.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in model.backbone.state_dict().items())
    recipe = load_recipe(folder)
    images = prepare_data(recipe, root=None)[1]
    features = extract_features(before, images)
    means = torch.stack([features[images.labels == label].mean(0) for label in range(10)])
    torch.testing.assert_close(model.head.centroids, means, rtol=1e-4, atol=1e-5)
    assert "steps" in read_metrics(Run(folder).metrics_file)[-1]
    assert read_metrics(Run(folder).metrics_file)[-1]["steps"] == 0
    test = load("digits").test
    assert float((model(test.float()).argmax(1) == test.labels).float().mean()) > 0.4


def test_adversarial_fine_tuning_moves_the_encoder_and_begins_from_it(encoder, tmp_path):
    settings = SMALL | {"model.width": 8, "training.start": str(encoder)}
    run = started("aff", tmp_path / "run", **settings)
    own = load_model(encoder, encoder=True)[0].backbone.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in run.model.backbone.state_dict().items())
    run.execute()
    model, spec, info = load_model(tmp_path / "run")
    assert (spec.head, info.method) == ({"name": "linear"}, "aff")
    assert not all(torch.equal(own[name], tensor) for name, tensor in model.backbone.state_dict().items())


# What images of no preset need.
TINY_IMAGES = {"model.backbone": "resnet", "model.width": 2, "model.depth": 10, "threat.eps": 0.1}


@pytest.fixture
def photographs(tmp_path):
    """A folder of small colour images, most of them without a class, one of those damaged."""
    draw = np.random.default_rng(0)
    for name, count in (("train/a", 6), ("train/b", 6), ("test/a", 2), ("test/b", 2), ("unlabeled", 41)):
        folder = tmp_path / "photographs" / name
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (folder / "07.png").write_bytes(b"damaged")
    return tmp_path / "photographs"


def test_an_encoder_trains_on_images_without_labels_that_lie_on_the_disk(photographs, tmp_path, monkeypatch):
    name = f"folder:{photographs}?skip-damaged"
    settings = TINY_IMAGES | {
        "model.width": 2,
        "training.epochs": 1,
        "training.batch_size": 20,
        "data.unlabeled": True,
        "data.train": 40,
    }
    recipe = load_recipe("simclr", data=name, overrides=settings)
    run = Training(recipe, Run(tmp_path / "a"), torch.device("cpu"), progress=False)
    assert (len(run.images), run.images.labels) == (40, None)
    inside = train("simclr", data=name, out=tmp_path / "inside", progress=False, **settings)
    assert load_model(inside, encoder=True)[2].train_images == 40
    monkeypatch.setattr("corral.data.loading.memmap.IN_MEMORY", 1)
    monkeypatch.setattr("corral.training.start.AT_ONCE", 0)
    monkeypatch.setattr("corral.training.start.PART", 7)
    outside = train("simclr", data=name, out=tmp_path / "outside", progress=False, **settings)
    one, other = (read_checkpoint(Run(path).model_file, kind="model")[0] for path in (inside, outside))
    for key, tensor in one.items():  # the same but for how the pixels' mean is summed
        torch.testing.assert_close(other[key], tensor, rtol=1e-3, atol=1e-4)
    heads = fitted_heads(inside, ["slf"], progress=False)
    assert load_model(heads[0])[2].train_images == 12


@pytest.mark.parametrize("in_memory", [2 * 2**30, 1])
def test_an_encoder_trains_on_labelled_and_unlabelled_images_together(photographs, tmp_path, in_memory, monkeypatch):
    """As NCP-ACL does on STL-10's 5,000 + 100,000: the training images, then those without labels."""
    monkeypatch.setattr("corral.data.loading.memmap.IN_MEMORY", in_memory)
    monkeypatch.setattr("corral.data.loading.memmap.ROWS", 7)
    name = f"folder:{photographs}?skip-damaged"
    overrides = TINY_IMAGES | {"model.width": 2, "training.batch_size": 20, "data.unlabeled": "also"}
    recipe = load_recipe("simclr", data=name, overrides=overrides)
    run = Training(recipe, Run(tmp_path / "a"), torch.device("cpu"), progress=False)
    data = load(name)
    assert run.images.labels is None
    assert torch.equal(run.images.pixels, torch.cat([data.train.pixels, data.unlabeled.pixels]))
    assert len(run.images) == 12 + 40
    held_out = load_recipe("simclr", data=name, overrides=overrides | {"data.validation": 4})
    assert len(Training(held_out, Run(tmp_path / "b"), torch.device("cpu"), progress=False).images) == 8 + 40


def test_images_that_do_not_go_together_are_not_joined():
    one, other = Images(torch.zeros(2, 1, 8, 8)), Images(torch.zeros(2, 3, 8, 8))
    with pytest.raises(CorralError, match=r"\(1, 8, 8\), float32 on cpu cannot be joined with those of \(3, 8, 8\)"):
        joined(one, other)


@pytest.mark.parametrize(
    ("recipe", "data", "words"),
    [
        ("nominal", "digits", "method 'nominal' needs labels: leave data.unlabeled out"),
        ("simclr", "digits", "digits has no unlabeled images: leave data.unlabeled out"),
    ],
)
def test_images_without_labels_are_refused_where_there_are_none_or_labels_are_needed(recipe, data, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        train(recipe, data=data, out=tmp_path / "run", progress=False, **{"data.unlabeled": True})


def test_moments_in_parts_are_those_of_all_at_once(monkeypatch):
    images = load("digits").train
    mean, deviation = moments(images)
    monkeypatch.setattr("corral.training.start.AT_ONCE", 10)
    monkeypatch.setattr("corral.training.start.PART", 37)
    parts = moments(images)
    torch.testing.assert_close(parts[0], mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts[1], deviation, rtol=1e-5, atol=1e-6)


def test_neighbours_are_of_every_class_where_not_all_images_are_asked(encoder, tmp_path, monkeypatch):
    """A folder's images are in the order of their classes."""
    run = started("simclr", tmp_path / "run", **(SMALL | {"model.width": 8}))
    order = run.images.labels.argsort(stable=True)
    images = run.images.take(order)
    run.method.context = dataclasses.replace(run.method.context, images=images)
    asked = []
    monkeypatch.setattr("corral.training.methods.encoder.MOST_ASKED", 60)
    monkeypatch.setattr(
        "corral.training.methods.encoder.neighbour_votes",
        lambda features, bank, labels, classes: (
            asked.append(labels) or neighbour_votes(features, bank, labels, classes)
        ),
    )
    run.method.validated(run.validation)
    assert len(asked[0]) == 60
    assert torch.bincount(asked[0], minlength=10).min() >= 5


def test_two_coordinates_have_no_views(tmp_path):
    with pytest.raises(UsageError, match=r"views of these methods are of gray or colour images, found 2 channels"):
        train("simclr", data="toy-moons", out=tmp_path / "run", progress=False, **TINY_IMAGES)
    assert not (tmp_path / "run").exists()


def test_a_start_that_fails_leaves_the_folder_free(encoder, tmp_path):
    settings = SMALL | {"training.epochs": 1, "model.width": 8, "method.clusterings": [2]}
    with pytest.raises(CorralError, match="nowhere"):
        train(
            "advcl", out=tmp_path / "run", progress=False, **settings, **{"method.labeller": str(tmp_path / "nowhere")}
        )
    train("advcl", out=tmp_path / "run", progress=False, **settings, **{"method.labeller": str(encoder)})
    assert load_model(tmp_path / "run", encoder=True)[2].method == "advcl"


def test_fine_tuning_sees_images_as_the_encoder_did(photographs, tmp_path):
    """Images without labels have another mean than those that the head is fitted to."""
    for file in (photographs / "unlabeled").iterdir():
        if file.name != "07.png":
            Image.fromarray(np.full((8, 8, 3), 250, dtype=np.uint8)).save(file)
    settings = TINY_IMAGES | {"training.epochs": 1, "training.batch_size": 20, "data.unlabeled": True}
    run = train("simclr", data=f"folder:{photographs}?skip-damaged", out=tmp_path / "run", progress=False, **settings)
    own = load_model(run, encoder=True)[0].normalisation.mean
    assert float(own.min()) > 0.9
    for head in fitted_heads(run, ["slf", "aff"], progress=False):
        model, spec, _ = load_model(head)
        assert torch.equal(model.normalisation.mean, own)
        assert spec.mean == tuple(own.tolist())


def test_an_encoder_s_folder_may_be_moved_with_its_heads(tmp_path):
    few = SMALL | {"data.train": 80, "training.epochs": 1}
    (head,) = fitted_heads(
        train("simclr", out=tmp_path / "here" / "run", progress=False, **few), ["slf"], progress=False
    )
    stamp = (head / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "run").rename(tmp_path / "there" / "run")
    (moved,) = fitted_heads(tmp_path / "there" / "run", ["slf"], progress=False)
    assert (moved / "model.safetensors").stat().st_mtime_ns == stamp
    (moved / "model.safetensors").unlink()
    with pytest.raises(CorralError, match=r"run-slf: it was begun where the encoder lay then, .*here/run; delete"):
        fitted_heads(tmp_path / "there" / "run", ["slf"], progress=False)
    with pytest.raises(UsageError, match=r"model\.safetensors: a file; heads are kept in the folder"):
        fitted_heads(tmp_path / "there" / "run" / "model.safetensors", ["slf"], progress=False)


def test_images_without_labels_that_changed_end_a_resumed_run(photographs, tmp_path, killed):
    name = f"folder:{photographs}?skip-damaged"
    settings = TINY_IMAGES | {"training.epochs": 2, "training.batch_size": 20, "data.unlabeled": True}
    with killed():
        train("simclr", data=name, out=tmp_path / "run", progress=False, **settings)
    file = photographs / "unlabeled" / "20.png"
    kept = file.read_bytes()
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(file)
    with pytest.raises(CorralError, match="images without labels changed since the run began; restore them"):
        train("simclr", data=name, out=tmp_path / "run", resume=True, progress=False, **settings)
    file.write_bytes(kept)
    train("simclr", data=name, out=tmp_path / "run", resume=True, progress=False, **settings)
