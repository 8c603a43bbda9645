"""Trained weights to begin from: which files serve, what is taken from them, what is refused and how."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from corral.errors import CorralError, UsageError
from corral.training import Run, Training, load_model, load_recipe
from corral.training.pretrained import begin_from
from corral.training.start import make_model, prepare_data

TINY = {"data.train": 200, "model.width": 4, "model.features": 16}


def fresh(**overrides):
    recipe = load_recipe("at", overrides=TINY | overrides)
    data, images, _ = prepare_data(recipe, root=None)
    return make_model(recipe, images, num_classes=len(data.classes))[1]


@pytest.fixture
def trained(tiny):
    """A finished run of another method, with a cluster head, on other digits."""
    return tiny("clustr", "trained", seed=5)


@pytest.fixture
def weights(trained):
    """Its backbone's weights by their own names."""
    return load_model(trained)[0].backbone.state_dict()


def assert_begins_there(model, weights):
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_the_backbone_is_taken_from_a_run_its_model_and_its_checkpoint(trained, weights):
    folder = Run(trained)
    for start in (trained, folder.model_file, folder.state_file):
        model = fresh()
        head, mean = model.head.linear.weight.clone(), model.normalisation.mean.clone()
        begin_from(model, start)
        assert_begins_there(model, weights)
        assert torch.equal(model.head.linear.weight, head)
        assert torch.equal(model.normalisation.mean, mean)


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_any_safetensors_file_of_the_backbone_serves(tmp_path, weights, prefix, dtype):
    path = tmp_path / "weights.safetensors"
    others = {"head.weight": torch.zeros(3)} if prefix else {}
    tensors = {prefix + name: tensor.to(dtype) for name, tensor in weights.items()} | others
    save_file(tensors, path, metadata={"format": "pt", "sha256": "what its maker means by it"})
    model = fresh()
    begin_from(model, path)
    assert_begins_there(model, {name: tensor.to(dtype).float() for name, tensor in weights.items()})


def first(weights):
    return next(iter(weights))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.update({first(w): torch.zeros(5, 1, 3, 3)}), r"tensor \S+ has shape \(5, 1, 3, 3\), expected"),
        (lambda w: w.pop(first(w)), r"tensor \S+ is missing"),
        (lambda w: w.update(fc=torch.zeros(2)), "tensor fc is unexpected"),
        (lambda w: w[first(w)].fill_(torch.nan), "holds NaN"),
        (lambda w: w.update({first(w): torch.zeros(w[first(w)].shape, dtype=torch.int64)}), "is torch.int64, expected"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_in_one_line(tmp_path, weights, edit, message):
    path = tmp_path / "weights.safetensors"
    edit(weights)
    save_file(weights, path)
    with pytest.raises(CorralError, match=rf"weights\.safetensors: .*{message}.*the recipe's own backbone") as caught:
        begin_from(fresh(), path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_width_are_refused_before_anything_is_written(tiny, trained, tmp_path):
    with pytest.raises(CorralError, match=r"tensor layers\.0\.bias has shape \(4,\), expected \(8,\)"):
        tiny("at", "wide", start=str(trained), **{"model.width": 8, "method.inner.steps": 1})
    assert not (tmp_path / "wide").exists()


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    for content in (pickle.dumps(Bomb()), b"", b"x" * 100):
        (tmp_path / "weights.pt").write_bytes(content)
        with pytest.raises(CorralError, match=r"weights\.pt: truncated or not a safetensors file"):
            begin_from(fresh(), tmp_path / "weights.pt")
    torch.save({"a": Bomb()}, tmp_path / "weights.pt")
    with pytest.raises(CorralError, match="not a safetensors file"):
        begin_from(fresh(), tmp_path / "weights.pt")
    assert not (tmp_path / "ran").exists()


def test_what_is_not_there_is_one_line(tmp_path):
    with pytest.raises(CorralError, match=r"nowhere: no such file; training\.start takes"):
        begin_from(fresh(), tmp_path / "nowhere")
    with pytest.raises(CorralError, match=r"no model\.safetensors in this folder.*finish that run first"):
        begin_from(fresh(), tmp_path)


def test_at_pretrained_says_that_it_needs_weights_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(UsageError, match=r"begins from trained weights: set training\.start"):
        tiny("at-pretrained")
    assert not (tmp_path / "run").exists()


def test_at_pretrained_is_at_from_those_weights(tiny, trained, weights, monkeypatch):
    begun = []
    epoch = Training._epoch

    def seen(self, bar):
        begun.append({name: tensor.clone() for name, tensor in self.model.backbone.state_dict().items()})
        return epoch(self, bar)

    monkeypatch.setattr(Training, "_epoch", seen)
    settings = {"method.inner.steps": 2, "start": str(trained), "warm_start.epochs": 0}
    one = tiny("at-pretrained", "one", **settings)
    assert all(torch.equal(begun[0][name], weights[name]) for name in weights)
    two = tiny("at", "two", **settings)
    for name, tensor in load_model(one)[0].state_dict().items():
        assert torch.equal(tensor, load_model(two)[0].state_dict()[name])
    assert load_recipe(one).training.start == str(trained)


def test_a_run_resumes_without_the_weights_it_began_from(tiny, trained, monkeypatch):
    settings = {"method.inner.steps": 1, "start": str(trained)}
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tiny("at-pretrained", "cut", **settings)
    Run(trained).model_file.unlink()
    cut = tiny("at-pretrained", "cut", resume=True, **settings)
    assert load_model(cut)[2].method == "at-pretrained"
