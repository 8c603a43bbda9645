"""torch.export files: nothing that torch would import, evaluate, execute or unpickle gets past the check."""

import json
import shutil
import subprocess
import sys
import typing
import zipfile
from dataclasses import fields, is_dataclass

import pytest
import torch
from tests.targets.programs.crafted import Net, changed, edited, exported
from torch._export.serde import schema
from torch._export.serde.union import _Union

from corral.errors import CorralError
from corral.targets.programs.archive import rebuilt_export
from corral.targets.programs.export_schema import OBJECTS, UNIONS
from corral.targets.programs.operators import computes, refused
from corral.targets.target import load_target

MODEL = "models/model.json"
LEFT_OUT = {"as_custom_obj", "custom_obj", "token"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return exported(Net(), tmp_path_factory.mktemp("whole") / "m.pt2").read_bytes()


@pytest.fixture
def file(whole, tmp_path):
    (tmp_path / "m.pt2").write_bytes(whole)
    return tmp_path / "m.pt2"


def signature(document):
    return next(entry["signature"] for entry in document["graph_module"]["module_call_graph"] if entry["signature"])


def with_context(kind, context, which="in_spec"):
    """The document with one node more in a tree spec."""

    def edit(document):
        holder = signature(document)
        protocol, spec = json.loads(holder[which])
        child = {"type": kind, "context": context, "children_spec": []}
        holder[which] = json.dumps([protocol, spec | {"children_spec": [*spec["children_spec"], child]}])

    return edited(edit)


def enum(module, name):
    return json.dumps({"__enum__": True, "fqn": module, "name": name})


TREES = {
    "enum": ("builtins.tuple", enum("evil:nothing", "x")),
    "enum in a list": ("builtins.dict", f"[{enum('evil:nothing', 'x')}]"),
    "defaultdict": (
        "collections.defaultdict",
        {"default_factory_module": "evil", "default_factory_name": "x", "dict_context": "[]"},
    ),
    "named tuple": ("collections.namedtuple", json.dumps("evil.X")),
    "deque": ("collections.deque", "1"),
    "ordered": ("collections.OrderedDict", "[]"),
    "custom": ("evil.Type", "null"),
    "a name of an argument that is code": ("builtins.dict", json.dumps(["x): import evil\n#"])),
}


@pytest.mark.parametrize("which", ["in_spec", "out_spec"])
@pytest.mark.parametrize("case", TREES)
def test_a_tree_spec_imports_no_module(file, tmp_path, monkeypatch, case, which):
    """torch's own reader, given the same file, imports it where the kind of tree is made to."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = changed(file, {MODEL: with_context(*TREES[case], which)})
    with pytest.raises(CorralError, match=rf"{which} with .* is none that torch\.export writes"):
        load_target(path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("case", ["enum", "enum in a list", "defaultdict"])
def test_the_trap_of_these_tree_specs_is_one(file, tmp_path, monkeypatch, case):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = changed(file, {MODEL: with_context(*TREES[case])})
    with pytest.raises(AttributeError):
        torch.export.load(path)
    sys.modules.pop("evil")
    assert (tmp_path / "trace").exists()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build a library with")
def test_a_file_that_is_a_library_too_is_not_loaded_as_one(file, tmp_path):
    """`{"fqn": "ctypes:cdll", "name": PATH}` in a context is `ctypes.cdll[PATH]`, which runs the constructors there."""
    trace = tmp_path / "trace"
    (tmp_path / "m.c").write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) void run(void) {{ fclose(fopen("{trace}", "w")); }}\n'
    )
    library = tmp_path / "both.pt2"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "m.c"], check=True)
    changed(file, {MODEL: with_context("builtins.tuple", enum("ctypes:cdll", str(library)))})
    with open(library, "ab") as stream:
        stream.write(file.read_bytes())
    assert zipfile.is_zipfile(library)
    with pytest.raises(CorralError, match=r"in_spec with .*ctypes"):
        load_target(str(library))
    assert not trace.exists()


def node(document):
    return document["graph_module"]["graph"]["nodes"][0]


def user_input(document):
    specs = document["graph_module"]["signature"]["input_specs"]
    return next(spec["user_input"] for spec in specs if "user_input" in spec)


def parameter(document):
    specs = document["graph_module"]["signature"]["input_specs"]
    return next(spec["parameter"] for spec in specs if "parameter" in spec)


CODE = "x): pass\nimport evil\n#"
EDITS = {
    "key 'extra' in it": lambda d: d.update(extra=1),
    "key 'hook' in graph_module": lambda d: d["graph_module"].update(hook="evil"),
    "key 'payload' in nodes": lambda d: node(d).update(payload={"x": 1}),
    "key 'as_custom_obj' in arg": lambda d: node(d)["inputs"][0].update(arg={"as_custom_obj": {"name": "x"}}),
    "forward_arg_names": lambda d: signature(d).update(forward_arg_names=[CODE]),
    "as_name": lambda d: d["graph_module"]["graph"]["inputs"].append({"as_sym_int": {"as_name": CODE}}),
    "name": lambda d: user_input(d).update(arg={"as_tensor": {"name": CODE}}),
    "parameter_name": lambda d: parameter(d).update(parameter_name='a", evil(), "b'),
    "as_operator": lambda d: node(d)["inputs"][0].update(arg={"as_operator": "torch.os.system"}),
    "target 'torch.ops.aten.save.default'": lambda d: node(d).update(target="torch.ops.aten.save.default"),
    "target 'torch.ops.aten.from_file.default'": lambda d: node(d).update(target="torch.ops.aten.from_file.default"),
    "target 'torch.ops.debugprims.load_tensor": lambda d: node(d).update(target="torch.ops.debugprims.load_tensor"),
    "target 'torch.ops.c10d.send": lambda d: node(d).update(target="torch.ops.c10d.send.default"),
    "arg is no Argument": lambda d: node(d)["inputs"][0].update(arg={"as_int": 1, "as_string": "x"}),
    "as_int 'x'": lambda d: node(d)["inputs"][0].update(arg={"as_int": "x"}),
    "custom_obj_values": lambda d: d["graph_module"]["graph"].update(custom_obj_values={"x": {"class_fqn": "evil"}}),
}


@pytest.mark.parametrize("words", EDITS)
def test_what_torch_does_not_write_is_named_and_refused(file, words):
    path = changed(file, {MODEL: edited(EDITS[words])})
    with pytest.raises(CorralError, match=r"is none that torch\.export writes; give module:function") as caught:
        rebuilt_export(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_keys_of_the_weights_are_refused(file):
    mark = edited(lambda d: d["config"]["linear.bias"].update(reader="evil"))
    with pytest.raises(CorralError, match=r"key 'reader' in linear\.bias is none that"):
        rebuilt_export(changed(file, {"model_weights_config.json": mark}))


def test_nothing_that_could_be_evaluated_is_left_of_guards_and_metadata(file, tmp_path):
    def poison(document):
        document["guards_code"] = ["evil()"]
        document["graph_module"]["metadata"] = {"custom": "evil"}
        node(document)["metadata"] = {"source_fn_stack": "x,torch.os.system"}

    clean = tmp_path / "clean.zip"
    clean.write_bytes(rebuilt_export(changed(file, {MODEL: edited(poison)})))
    with zipfile.ZipFile(clean) as archive:
        assert b"evil" not in (content := archive.read("archive/models/model.json"))
        assert b"os.system" not in content
        assert archive.read("archive/data/sample_inputs/model.pt") == b""


def kinds(hint):
    """The names of the schema's classes inside a type."""
    if typing.get_origin(hint) is not None:
        return set().union(*(kinds(part) for part in typing.get_args(hint)))
    return {hint} if isinstance(hint, type) and is_dataclass(hint) else set()


def test_the_tables_name_every_key_of_this_torch_but_custom_objects_and_tokens():
    seen, waiting = set(), [schema.ExportedProgram, schema.PayloadConfig]
    while waiting:
        found = waiting.pop()
        if found in seen or found.__name__ in ("CustomObjArgument", "NamedTupleDef"):
            continue
        seen.add(found)
        names = {field.name for field in fields(found)} - LEFT_OUT
        table = UNIONS if issubclass(found, _Union) else OBJECTS
        assert names <= set(table[found.__name__]), found
        hints = typing.get_type_hints(found)
        waiting += [kind for name in names for kind in kinds(hints[name])]
    assert {kind.__name__ for kind in seen} == set(OBJECTS) | set(UNIONS)


def test_an_operator_that_is_told_a_files_name_does_not_only_compute():
    assert {"save", "from_file"} <= refused()
    # And no operator that computes, in whatever version of torch: 2.8 names dimensions in overloads of most.
    assert refused() == {"save", "from_file"}
    assert all(computes("aten", name) for name in ("flatten", "mean", "cat", "max", "softmax", "linear"))
    for name in ("conv2d", "linear", "einsum", "gelu", "div", "pad", "scatter_reduce", "linalg_svd", "as_strided"):
        assert computes("aten", name)
    for namespace, name in (("aten", "save"), ("aten", "absent"), ("c10d", "send"), ("prim", "rpc_sync")):
        assert not computes(namespace, name)
    texts = [
        schema.name
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("aten::") and any("file" in argument.name for argument in schema.arguments)
    ]
    assert {name.removeprefix("aten::") for name in texts} <= refused()
