"""Models to audit: the model that comes out is the one that was put in, and nothing is run that was not asked for."""

import io
import pickle
import sys
import textwrap
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from tests.targets.programs.crafted import edited
from torch import nn

from corral.attacks.state import attacked
from corral.errors import CorralError, UsageError
from corral.targets.target import load_target

SHAPE = (1, 6, 6)
MODELS = """
    import sys
    import torch
    from torch import nn
    from layers import Scale

    print("a greeting that is no result")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.linear = Scale(), nn.Linear(36, 3)

        def forward(self, x):
            return self.linear(self.scale(x).flatten(1))

    def load():
        torch.manual_seed(3)
        return Net()

    ready = load()
    number = 5

    def dictionary():
        return {}

    def broken():
        raise KeyError("weights")

    def leaves():
        sys.exit(0)
"""
LAYERS = """
    from torch import nn

    class Scale(nn.Module):
        def forward(self, x):
            return 2 * x
"""


class Net(nn.Module):
    """With what must not be active in an attack (dropout, batch statistics), and a constant that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.linear, self.shift = nn.Linear(64, 3), torch.arange(3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.drop(self.norm(self.conv(x)).relu()).flatten(1)) + self.shift


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code").mkdir()
    for name, text in (("audited_models", MODELS), ("layers", LAYERS)):
        (tmp_path / "code" / f"{name}.py").write_text(textwrap.dedent(text))
    package = tmp_path / "code" / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text("from .make import make\n")
    (package / "make.py").write_text("from torch import nn\ndef make():\n    return nn.Flatten()\n")
    return tmp_path / "code"


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Net()
    for _ in range(3):
        net(torch.rand(8, *SHAPE))
    return net.eval()


def exported(net, path, *, batch=4, dynamic=False):
    shapes = ({0: torch.export.Dim("n")},) if dynamic else None
    torch.export.save(torch.export.export(net, (torch.rand(batch, *SHAPE),), dynamic_shapes=shapes), path)
    return path


def scripted(net, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(net).save(str(path))
    return path


@pytest.mark.parametrize("name", ["load", "ready", "Net"])
def test_code_is_imported_by_its_path_with_its_neighbours_and_leaves_no_trace(folder, capfd, name):
    path, modules = list(sys.path), set(sys.modules)
    target = load_target(f"{folder}/audited_models.py:{name}")
    assert target.kind == "python"
    assert target.model(torch.rand(2, *SHAPE)).shape == (2, 3)
    assert sys.path == path
    assert set(sys.modules) == modules
    out, err = capfd.readouterr()
    assert out == ""
    assert "a greeting" in err


def test_the_models_mode_is_left_as_the_code_made_it(folder):
    assert load_target(f"{folder}/audited_models.py:load").model.training


def test_a_dotted_name_is_found_in_the_named_folder_or_the_current_one_and_nowhere_else(folder, tmp_path, monkeypatch):
    assert isinstance(load_target("pack.net:make", path=folder).model, nn.Flatten)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorralError, match="without --path nowhere else: give --path DIR"):
        load_target("pack.net:make")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(CorralError, match=r"no module pack\.net in"):
        load_target("pack.net:make")
    monkeypatch.chdir(folder)
    assert isinstance(load_target("pack.net:make").model, nn.Flatten)


@pytest.mark.parametrize("name", ["json:loads", "torch.nn:Flatten", "torch:nn"])
def test_installed_packages_are_no_targets(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorralError, match="no module"):
        load_target(name)


def test_a_file_with_the_name_of_a_loaded_module_is_refused_not_confused(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit\n")
    with pytest.raises(CorralError, match="another module of this name is loaded; rename the file or package json"):
        load_target(f"{tmp_path}/json.py:load")


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        ("audited_models.py:number", CorralError, "found int, expected a function that returns an nn.Module"),
        ("audited_models.py:dictionary", CorralError, "returned dict, expected an nn.Module"),
        ("audited_models.py:broken", CorralError, "calling it without arguments failed: KeyError: 'weights'"),
        ("audited_models.py:leaves", CorralError, "calling it without arguments failed: SystemExit"),
        ("audited_models.py:absent", UsageError, "has no 'absent'; it has Net, Scale, broken, dictionary"),
        ("audited_models.py", UsageError, "needs the function that makes the model"),
        ("audited_models.py:", UsageError, "needs a function's name after the colon"),
        ("absent.py:load", UsageError, "no file absent.py"),
        ("pack/net.py:make", CorralError, "give the dotted name with --path DIR"),
        ("needy.py:make", CorralError, "install nowhere_to_be_found, or give --path DIR"),
        ("absent", UsageError, "no such file or run; give a run folder"),
        ("a-b:c", UsageError, "'a-b' is neither a .py file nor a module's name"),
    ],
)
def test_what_is_wrong_with_a_target_is_one_line_with_a_remedy(folder, monkeypatch, target, error, words):
    (folder / "needy.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(folder)
    before = list(sys.path), set(sys.modules)
    with pytest.raises(CorralError) as caught:
        load_target(target)
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (list(sys.path), set(sys.modules)) == before


@pytest.mark.parametrize("kind", ["torchscript", "fixed", "dynamic"])
def test_a_compiled_program_gives_the_models_own_logits_and_gradients(net, tmp_path, kind):
    path = tmp_path / "model.pt2"
    scripted(net, path) if kind == "torchscript" else exported(net, path, dynamic=kind == "dynamic")
    target = load_target(str(path))
    assert target.kind == ("torchscript" if kind == "torchscript" else "export")
    for count in (1, 3, 4, 9):
        x = torch.rand(count, *SHAPE)
        with attacked(target.model):
            ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
            assert torch.allclose(target.model(ours), net(theirs), atol=1e-6)
            for model, leaf in ((target.model, ours), (net, theirs)):
                model(leaf).square().sum().backward()
            assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)
    assert not any(parameter.grad is not None for parameter in target.model.parameters())


def test_a_frozen_script_has_no_mode_and_still_loads(net, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.freeze(torch.jit.script(net)).save(str(tmp_path / "frozen.pt"))
    model = load_target(str(tmp_path / "frozen.pt")).model
    x = torch.rand(2, *SHAPE)
    with attacked(model):
        assert torch.allclose(model(x), net(x), atol=1e-6)


def test_a_program_inside_python_code_is_held_like_one_from_a_file(net, tmp_path):
    program = torch.export.load(exported(net, tmp_path / "model.pt2", dynamic=True)).module()
    target = load_target(program)
    with attacked(target.model):
        assert target.model(torch.rand(2, *SHAPE)).shape == (2, 3)


def test_a_program_says_which_images_it_takes(net, tmp_path):
    model = load_target(str(exported(net, tmp_path / "model.pt2", dynamic=True))).model
    with pytest.raises(ValueError, match=r"takes images of \(1, 6, 6\), found \(3, 8, 8\)"):
        model(torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_pickles_are_recognised_and_never_unpickled(tmp_path, form):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    if form == "plain":
        path.write_bytes(pickle.dumps(Trap(trace)))
    else:
        torch.save({"w": Trap(trace)}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CorralError, match=r"weight files are never unpickled; give file.py:function"):
        load_target(str(path))
    assert not trace.exists()


def test_other_files_are_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(CorralError, match=r"neither TorchScript, torch\.export nor a corral run"):
        load_target(str(tmp_path / "model.onnx"))
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(CorralError, match="neither TorchScript"):
        load_target(str(tmp_path / "model.zip"))


def changed(path, changes, *, twice=None):
    """The archive with entries changed (by the end of their name), and perhaps one entry a second time."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            for end, change in changes.items():
                content = change(content) if name.endswith(end) else content
            archive.writestr(name, content)
            if twice and name.endswith(twice):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    archive.writestr(name, content)
    return str(path)


def test_the_example_inputs_of_an_export_are_not_unpickled(net, tmp_path):
    trace, stream = tmp_path / "trace", io.BytesIO()
    torch.save((Trap(trace),), stream)
    path = changed(exported(net, tmp_path / "m.pt2"), {"sample_inputs/model.pt": lambda _: stream.getvalue()})
    assert load_target(path).model(torch.rand(2, *SHAPE)).shape == (2, 3)
    assert not trace.exists()


def test_a_pickled_weight_in_an_export_is_refused(net, tmp_path):
    trace, stream = tmp_path / "trace", io.BytesIO()
    torch.save(Trap(trace), stream)
    mark = edited(lambda program: program["config"]["linear.bias"].update(use_pickle=True))
    path = changed(
        exported(net, tmp_path / "m.pt2"),
        {"model_weights_config.json": mark, "weights/weight_5": lambda _: stream.getvalue()},
    )
    with pytest.raises(CorralError, match=r"linear.bias is pickled, and weight files are never unpickled"):
        load_target(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "target",
    ["torch.os.system", "torch.ops.load_library.x", "torch.ops.aten.__init__.x", "_operator.methodcaller", "#x.y"],
)
def test_an_operator_that_torch_does_not_export_is_refused(net, tmp_path, target):
    edit = edited(lambda program: program["graph_module"]["graph"]["nodes"][0].update(target=target))
    path = changed(exported(net, tmp_path / "m.pt2"), {"models/model.json": edit})
    with pytest.raises(CorralError, match=r"is none that torch\.export writes"):
        load_target(path)


def test_expressions_and_guards_of_an_export_are_not_evaluated(net, tmp_path):
    def poison(part, text):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            if key == "expr_str":
                part[key] = text
            elif isinstance(value, dict | list):
                poison(value, text)

    trace = tmp_path / "trace"
    path = exported(net, tmp_path / "m.pt2", dynamic=True)
    guard = edited(lambda program: program.update(guards_code=[f"open({str(trace)!r}, 'w')"]))
    assert load_target(changed(path, {"models/model.json": guard})).model(torch.rand(2, *SHAPE)).shape == (2, 3)
    edit = edited(lambda program: poison(program, f"open({str(trace)!r}, 'w')"))
    with pytest.raises(CorralError, match=r"is none that torch\.export writes"):
        load_target(changed(path, {"models/model.json": edit}))
    assert not trace.exists()


def test_damaged_exports_are_one_line(net, tmp_path):
    path = exported(net, tmp_path / "m.pt2")
    with pytest.raises(CorralError, match="two entries of one name"):
        load_target(changed(path, {}, twice="models/model.json"))
    with pytest.raises(CorralError, match="truncated or damaged"):
        load_target(changed(exported(net, path), {"models/model.json": lambda content: content[:50]}))
    whole = exported(net, path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorralError):
        load_target(str(path))


def test_a_run_comes_with_its_story(tmp_path):
    from corral.training import train

    small = {"data.train": 100, "width": 4, "model.features": 8, "epochs": 1, "warm_start.epochs": 0}
    run = train("nominal", out=tmp_path / "run", progress=False, **small)
    for place in (str(run), str(run / "model.safetensors")):
        target = load_target(place)
        assert (target.kind, target.info.data, target.info.norm) == ("run", "digits", "Linf")
    with pytest.raises(CorralError, match=r"no model\.safetensors in this folder"):
        load_target(str(tmp_path))
