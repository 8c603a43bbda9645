import inspect

import pytest
import torch
from safetensors.torch import load_file, save_file

import corral
from corral.checkpoints import read_checkpoint, write_checkpoint
from corral.errors import CorralError, UsageError
from corral.training import Run, load_model, load_recipe, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    small = {"data.train": 100, "width": 4, "model.features": 8, "epochs": 1, "warm_start.epochs": 0}
    return train("clustr", out=tmp_path_factory.mktemp("api") / "run", progress=False, **small)


@pytest.fixture
def damaged(run, tmp_path):
    """A copy of the model file with other tensors or another description."""

    def make(edit):
        tensors, metadata = read_checkpoint(run / "model.safetensors", kind="model")
        edit(tensors, metadata)
        write_checkpoint(tmp_path / "model.safetensors", tensors, metadata)
        return tmp_path / "model.safetensors"

    return make


def test_a_run_folder_and_its_file_give_the_same_classifier_in_eval_mode(run):
    one, two = corral.load(run), corral.load(str(run / "model.safetensors"))
    assert not one.training
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(one(x), two(x))
        assert torch.equal(one(x), one.logits_from(one.features(x)))
    assert one(x).shape == (3, 10)
    saved = load_file(run / "model.safetensors")
    assert saved.keys() == one.state_dict().keys()
    assert all(torch.equal(tensor, one.state_dict()[name]) for name, tensor in saved.items())


def test_a_run_and_its_classifier_are_exported_alike(run, tmp_path):
    x = torch.rand(3, 1, 8, 8)
    of_run, of_model = corral.export(run), corral.export(corral.load(run), tmp_path / "model.pt2")
    assert of_run == run / "model.pt2"
    for path in (of_run, of_model):
        assert torch.allclose(torch.export.load(path).module()(x), corral.load(run)(x), atol=1e-5)
    of_run.unlink()
    with pytest.raises(UsageError, match="needs out, the file, such as"):
        corral.export(corral.load(run))


def test_the_commonest_overrides_are_keywords_with_types():
    keywords = inspect.signature(corral.train).parameters
    for name in ("epochs", "seed", "eps", "batch_size", "learning_rate"):
        assert keywords[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert keywords[name].default is None
        assert keywords[name].annotation is not inspect.Parameter.empty


def test_an_override_by_its_keyword_and_by_its_key_are_the_same(tmp_path):
    more = {"progress": False, "data.train": 100, "width": 4, "model.features": 8, "warm_start.epochs": 0}
    given = {"epochs": 1, "seed": 3, "eps": "8/255", "batch_size": 50, "learning_rate": 1e-3}
    one = corral.train("nominal", out=tmp_path / "one", **given, **more)
    recipe = load_recipe(one)
    assert (recipe.training.epochs, recipe.training.seed, recipe.threat.eps) == (1, 3, 8 / 255)
    assert (recipe.training.batch_size, recipe.training.learning_rate) == (50, 1e-3)
    again = corral.train(recipe, out=tmp_path / "one", resume=True, epochs=1, progress=False)
    assert again == one
    with pytest.raises(UsageError, match=r"the run's recipe differs: training\.epochs is 1, asked for 2"):
        corral.train(recipe, out=tmp_path / "one", resume=True, epochs=2, progress=False)
    both = {**more, "training.epochs": 2, "epochs": 1}
    assert load_recipe(corral.train("nominal", out=tmp_path / "two", **both)).training.epochs == 1


def test_a_model_file_tells_how_it_was_made(run):
    _, spec, info = load_model(run)
    assert (info.recipe, info.method, info.data, info.epochs, info.train_images) == (
        "clustr",
        "clustr",
        "digits",
        1,
        100,
    )
    assert (spec.head["name"], spec.head["clusters"], spec.image_shape) == ("cluster", 20, (1, 8, 8))
    assert info.corral == corral.__version__


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t, m: m["spec"]["backbone"].update(width=10**6), "does not fit its tensors"),
        (
            lambda t, m: m["spec"]["backbone"].update(width=10**9),
            r"damaged \(.*width: .* less than or equal to 1000000",
        ),
        (lambda t, m: m["spec"]["backbone"].update(width=10**30), "a whole number beyond 64 bits"),
        (
            lambda t, m: m["spec"]["backbone"].update(width=0),
            r"damaged \(backbone: backbone .* width: Input should be greater than or equal to 1",
        ),
        (
            lambda t, m: m["spec"]["backbone"].update(name="foo"),
            "unknown backbone 'foo'; known: .* --plugin .* the model's description is damaged",
        ),
        (
            lambda t, m: m["spec"].update(backbone={"name": "wideresnet", "depth": 6004}),
            "depth 6004 with",
        ),
        (lambda t, m: m["spec"].update(image_shape=[1, 10**6, 10**6]), "does not fit its tensors"),
        (lambda t, m: m["spec"].update(clusters=10**6), r"head\.centroids should be \(1000000, 8\)"),
        (lambda t, m: m["spec"].update(head="linear", rule=None, clusters=None), r"head\.linear\.weight should be"),
        (lambda t, m: m["spec"].update(std=[0.0]), r"damaged \(std\.0"),
        (lambda t, m: m["spec"].update(std=[1e-300]), "damaged .*std positive"),
        (lambda t, m: m.pop("info"), "missing 'info'"),
        (lambda t, m: m["info"].update(norm="L7"), r"damaged \(norm"),
        (lambda t, m: m["info"].update(eps=-1), r"damaged \(eps"),
        (lambda t, m: m.update(spec=3), "damaged"),
        (lambda t, m: t["backbone.layers.0.weight"].fill_(torch.nan), r"backbone\.layers\.0\.weight holds NaN"),
        (lambda t, m: t["head.classes"].fill_(0), "every class needs a cluster"),
        (lambda t, m: t["head.classes"].add_(100), "cluster classes must be in"),
        (lambda t, m: t.update({"head.classes": t["head.classes"].float()}), r"head\.classes is torch\.float32"),
        (lambda t, m: t["head.variance"].fill_(-1), "variance must be one positive"),
        (lambda t, m: t["head.log_temperature"].fill_(1e4), "variance × temperature is inf"),
        (lambda t, m: t.update(extra=torch.zeros(1)), "tensor extra is unexpected"),
    ],
)
def test_a_damaged_model_is_one_line_naming_the_file(damaged, edit, message):
    path = damaged(edit)
    with pytest.raises(CorralError, match=message) as caught:
        corral.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_safetensors_file_from_elsewhere_and_a_missing_one_are_refused(tmp_path):
    save_file({"weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(CorralError, match=r"not a corral model file .found no corral metadata."):
        corral.load(tmp_path)
    with pytest.raises(CorralError, match="no such run or model file; `corral train RECIPE --out"):
        corral.load(tmp_path / "none")


def test_a_training_state_is_not_a_model(run):
    with pytest.raises(CorralError, match=r"not a corral model file .found training."):
        corral.load(Run(run).state_file)
