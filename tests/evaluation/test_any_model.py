"""Every measurement of a model that corral did not train is that of a run with the same weights."""

import copy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import corral
from corral.analysis.analyze import analyze
from corral.attacks.threat import Threat
from corral.data import load
from corral.errors import CorralError, UsageError
from corral.evaluation import read_record
from corral.evaluation.certification import certify_run
from corral.models import Classifier
from corral.models.fingerprint import fingerprint
from corral.targets import Preparation

N, QUIET = 40, {"progress": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("any") / "mlp"
    return corral.train("corral", data="digits", out=out, progress=False, **{"model.backbone": "mlp", "epochs": 3})


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    test = corral.data.stratified_subset(load("digits").test, N, seed=0)
    return test.float(), test.labels


@pytest.fixture
def net() -> nn.Module:
    """A network of torch's own with a dropout and a parameter that is not trained, in train mode."""
    torch.manual_seed(0)
    found = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))
    optimiser, test = torch.optim.Adam(found.parameters(), 0.01), load("digits").train
    for _ in range(60):
        loss = nn.functional.cross_entropy(found(test.float()), test.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found[1].bias.requires_grad_(False)
    return found


def rows(record: corral.records.Record) -> dict[str, tuple[float, list[float | None]]]:
    return {attack.name: (attack.accuracy, attack.per_class) for attack in record.attacks}


def test_a_run_and_its_model_have_the_same_record(run, images):
    of_run = corral.evaluate(run, n=N, **QUIET)
    model = corral.load(run)
    of_model = corral.evaluate(model, images, threat=("Linf", 0.1), **QUIET)
    assert (of_run.norm, of_run.eps) == ("Linf", 0.1)
    assert of_model.clean_per_class == of_run.clean_per_class
    assert rows(of_model) == rows(of_run)
    assert of_model.model_fingerprint == of_run.model_fingerprint
    assert (of_model.kind, of_run.kind) == ("module", "run")
    assert (of_model.head, of_model.rule) == (of_run.head, of_run.rule)
    assert (of_model.recipe, of_model.method, of_model.train_seed, of_model.train_seconds) == (None,) * 4
    assert of_model.n == of_model.n_test == N


def test_a_module_is_given_back_as_it_was_and_nothing_is_written(net, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first = corral.evaluate(net, images, threat=Threat("L2", 0.5), **QUIET)
    assert [module.training for module in net.modules()] == [True] * 6
    assert [parameter.requires_grad for parameter in net.parameters()] == [True, False, True, True]
    assert all(bool((parameter.grad == 1).all()) for parameter in net.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert list(tmp_path.iterdir()) == []
    second = corral.evaluate(net.eval(), images, threat=("l2", "0.5"), **QUIET)
    assert rows(first) == rows(second)  # eval mode and no dropout in both
    with torch.no_grad():
        assert first.clean == float((net(images[0]).argmax(1) == images[1]).double().mean())


def test_records_of_runs_and_of_other_models_stand_side_by_side(run, net, tmp_path):
    data = load("digits")
    corral.evaluate(run, n=N, **QUIET)
    made = corral.evaluate(net, data, threat=("Linf", 0.1), n=N, out=tmp_path / "mine", **QUIET)
    stored = read_record(tmp_path / "mine" / "records" / f"quick-n{N}-Linf-eps0.1.json")
    assert stored == made
    assert stored.run == "mine"
    page = corral.report([run, tmp_path / "mine"], out=tmp_path / "page.html").read_text()
    for words in ("mlp", "mine", "module"):
        assert words in page
    assert page.count("digits, Linf eps 0.1, n = 40") >= 1  # one group: they are compared


def test_an_interrupted_evaluation_goes_on(net, images, tmp_path, monkeypatch):
    whole = corral.evaluate(net, images, threat=("Linf", 0.1), batch_size=10, **QUIET)
    from corral.evaluation import cache

    written, original = [], cache.EvaluationCache.write

    def ends(self, key, number, batch):
        original(self, key, number, batch)
        written.append(number)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(cache.EvaluationCache, "write", ends)
    ask = {"threat": ("Linf", 0.1), "batch_size": 10, "out": tmp_path / "mine", **QUIET}
    with pytest.raises(KeyboardInterrupt):
        corral.evaluate(net, images, **ask)
    again = corral.evaluate(net, images, **ask)
    assert rows(again) == rows(whole)
    assert not list((tmp_path / "mine" / "records").glob("*.unfinished"))


def test_what_was_measured_with_other_inputs_is_never_mixed_in(net, images, tmp_path, monkeypatch):
    from corral.evaluation import cache

    original = cache.EvaluationCache.write

    def ends(self, key, number, batch):
        original(self, key, number, batch)
        raise KeyboardInterrupt

    ask = {"threat": ("Linf", 0.1), "batch_size": 10, "out": tmp_path / "mine", **QUIET}
    with monkeypatch.context() as patch:
        patch.setattr(cache.EvaluationCache, "write", ends)
        with pytest.raises(KeyboardInterrupt):
            corral.evaluate(net, images, **ask)
    half = Preparation(mean=(0.5,), std=(0.5,))
    with pytest.raises(
        CorralError, match=r"an unfinished evaluation with another inputs: there \[\], now \['--normalise"
    ):
        corral.evaluate(net, images, preparation=half, **ask)
    corral.evaluate(net, images, **ask)
    corral.evaluate(net, images, preparation=half, attacks=["fgsm"], **ask)
    with pytest.raises(CorralError, match=r"records of different models \(.*custom of \w{16} --normalise half"):
        corral.report([tmp_path / "mine"], out=tmp_path / "page.html")


@pytest.mark.parametrize("kind", ["softmax", "offset", "spare", "normalised", "nhwc", "dictionary", "half"])
def test_the_forms_of_a_model_do_not_change_its_record(kind, net, images):
    """Each wraps the same function in another form, and says so by `preparation` where it has to."""
    net.eval()
    plain = corral.evaluate(net, images, threat=("Linf", 0.1), **QUIET)

    class Form(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x):
            if kind == "normalised":
                return self.net(x * 0.5 + 0.25)
            if kind == "nhwc":
                return self.net(x.permute(0, 3, 1, 2))
            logits = self.net(x)
            if kind == "softmax":
                return logits.softmax(1)
            if kind == "offset":  # its class 0 is of nothing
                return torch.cat([logits.new_full((len(x), 1), -30.0), logits], 1)
            if kind == "spare":
                return torch.cat([logits, logits.new_full((len(x), 2), -30.0)], 1)
            return {"logits": logits} if kind == "dictionary" else logits.half()

    preparation = {
        "offset": Preparation(offset=1),
        "normalised": Preparation(mean=(0.25,), std=(0.5,)),
        "nhwc": Preparation(nhwc=True),
    }.get(kind, Preparation())
    record = corral.evaluate(Form(), images, threat=("Linf", 0.1), preparation=preparation, **QUIET)
    extra = {"offset": 1, "spare": 2}.get(kind, 0)
    assert record.classes == [*plain.classes, *(f"output {10 + number}" for number in range(extra))]
    assert record.clean == plain.clean
    got, want = ({a.name: a.accuracy for a in found.attacks} for found in (record, plain))
    tolerance = 0.05 if kind in ("half", "softmax", "normalised") else 1e-9  # of 40 images: rounding moves two at most
    assert got.keys() == want.keys()
    assert all(abs(got[name] - want[name]) <= tolerance for name in got), (got, want)
    assert record.inputs == preparation.options()
    if kind == "softmax":
        assert any("ends in a softmax" in note for note in record.notes)


FILE = """
import torch
from torch import nn

def load():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


def test_python_code_in_the_shell_is_the_module(images, tmp_path, monkeypatch, capsys):
    from corral.cli import main

    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FILE)
    command = ["evaluate", "mine.py:load", "--data", "digits", "--norm", "L2", "--eps", "0.5", "--n", str(N), "--quiet"]
    monkeypatch.setattr(sys, "argv", ["corral", *command, "--normalise", "0.5/0.5", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    (path,) = Path("measured").glob("*/records/*.json")
    stored = read_record(path)
    want = corral.evaluate(net, images, threat=("L2", 0.5), preparation=Preparation(mean=(0.5,), std=(0.5,)), **QUIET)
    assert rows(stored) == rows(want)
    assert stored.model_fingerprint == want.model_fingerprint == fingerprint(net)
    assert (stored.run, stored.kind) == ("mine.py:load", "python")
    assert f'"run": "{stored.run}"' in out


def test_a_program_in_a_file_is_named_by_its_bytes(net, images, tmp_path):
    import hashlib

    path = tmp_path / "net.ts"
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        torch.jit.script(net.eval()).save(str(path))
    record = corral.evaluate(str(path), images, threat=("Linf", 0.1), n=10, **QUIET)
    assert record.model_fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert record.kind == "torchscript"
    assert rows(record) == rows(corral.evaluate(net, images, threat=("Linf", 0.1), n=10, **QUIET))


def _refused(net: nn.Module, images, change: dict) -> None:
    corral.evaluate(change.pop("model", net), **{"data": images, "threat": ("Linf", 0.1), **QUIET} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threat": None}, r"Sequential: give threat=\(norm, eps\), such as \('Linf', 8/255\)"),
        ({"threat": None, "eps": 0.1}, r"Sequential: give threat=\(norm, eps\)"),
        ({"eps": 0.1}, r"give threat=\(norm, eps\) or eps, found both"),
        ({"threat": "Linf"}, r"a threat is \(norm, eps\), such as \('Linf', 8/255\), found a str"),
        ({"threat": ("Lp", 0.1)}, "norm 'Lp' is not one of Linf, L2, L1"),
        ({"threat": ("Linf", 8)}, "did you mean 8/255"),
        ({"data": None}, "Sequential: give data, such as"),
        ({"protocol": "adaptive"}, "the loss that the model was trained with is not known"),
        ({"model": nn.Flatten(0)}, r"Flatten: the model returns torch.float32 \(512,\) for 8 images"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 4))}, "has 4 classes .* but the labels run from 0 to 9"),
        ({"model": nn.Conv2d(3, 4, 3)}, "Conv2d: the model takes images of|Conv2d: the model does not take images of"),
        ({"attacks": []}, "attacks must be one or more"),
        ({"batch_size": 0}, "batch size must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_one_line(net, images, change, message):
    with pytest.raises(CorralError, match=message) as caught:
        _refused(net, images, change)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_classifier_has_the_certificate_of_its_run(run, images, tmp_path):
    of_run = certify_run(run, n=N, **QUIET)
    of_model = certify_run(corral.load(run), images, out=tmp_path / "mine", **QUIET)
    assert of_model.at == of_run.at
    assert of_model.lipschitz == of_run.lipschitz
    held = [np.load(next((place / "certificates").glob("*.npz"))) for place in (run, tmp_path / "mine")]
    assert all(np.array_equal(held[0][name], held[1][name]) for name in ("labels", "predicted", "radius", "distance"))


def test_another_model_has_no_certificate(net, images):
    with pytest.raises(UsageError, match="a Sequential has no certificate here, only runs and corral's classifiers"):
        certify_run(net, images, **QUIET)


def test_a_classifier_has_the_analyses_of_its_run(run, tmp_path):
    names = ["cosine", "match", "silhouettes"]
    of_run = analyze(run, only=names, n=N, **QUIET)
    of_model = analyze(
        corral.load(run), load("digits"), threat=("Linf", 0.1), only=names, n=N, out=tmp_path / "mine", **QUIET
    )
    for name in names:
        assert of_model[name].numbers == of_run[name].numbers
    assert len(list((tmp_path / "mine" / "analyses").glob("*.json"))) == len(names)


def test_a_network_is_analysed_as_its_features_and_its_last_layer(net):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = copy.deepcopy(net[:4]), copy.deepcopy(net[4])

        def forward(self, x):
            return self.fc(self.body(x))

    whole = Net().train()
    found = analyze(whole, load("digits"), threat=("Linf", 0.1), only=["norms"], n=N, **QUIET)
    assert whole.training
    assert isinstance(whole.fc, nn.Linear)
    parts = corral.models.split.split(whole, (1, 8, 8))
    assert isinstance(parts, Classifier)
    x = load("digits").test.float()
    whole.eval()
    with torch.no_grad():
        assert torch.allclose(parts.eval()(x), whole(x), atol=1e-5)
        features = whole.body(x)
        assert torch.equal(parts.features(x), features)
    assert found["norms"].n == N
    with pytest.raises(UsageError, match="in a Sequential no last linear layer is evident"):
        analyze(net, load("digits"), threat=("Linf", 0.1), n=N, **QUIET)
