"""TorchScript files: what writes, reads or asks others is found however it is spelled; what torch writes passes."""

import io
import struct
import warnings
import zipfile

import pytest
import torch
from tests.targets.programs.crafted import SHAPE, Net, Opens, changed, compiled, pickled, scripted, written
from torch import nn

from corral.errors import CorralError
from corral.targets.programs.archive import rebuilt_script
from corral.targets.programs.script_check import unsafe, unsafe_pickle
from corral.targets.target import load_target


class Saves(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.ops.aten.save(x, self.path)
        return x.flatten(1)


class SavesWhenLoaded(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.ops.aten.save(state[0], state[0])


class Overwrites(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mapped = torch.from_file(self.path, True, 4)
        return x.flatten(1) + mapped.fill_(0.0).sum()


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Saves, "torch.save"), (SavesWhenLoaded, "torch.save"), (Overwrites, "torch.from_file")],
)
def test_programs_that_write_files_are_refused_before_they_are_loaded(tmp_path, kind, words):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious bytes!!")
    path = scripted(kind(str(victim)), tmp_path / "m.pt")
    with pytest.raises(CorralError, match=rf"{words}, which may do more than compute; give module:function") as caught:
        load_target(str(path))
    assert "\n" not in str(caught.value)
    assert victim.read_bytes() == b"precious bytes!!"


SPELLED = {
    "a call": 'torch.save(x, "f")\nreturn x',
    "a method": 'x.save("f")\nreturn x',
    "spaces": 'torch . save(x, "f")\nreturn x',
    "through ops": 'ops.aten.save(x, "f")\nreturn x',
    "a name for it": 'f = torch.save\nf(x, "f")\nreturn x',
    "a name for torch": 't = torch\nt.save(x, "f")\nreturn x',
    "a name for ops": 'o = ops\no.aten.save(x, "f")\nreturn x',
    "getattr": 'getattr(torch, "save")(x, "f")\nreturn x',
    "getattr of a name": 'getattr(x, "save")("f")\nreturn x',
    "getattr with a default": 'getattr(x, "save", "0")("f")\nreturn x',
    "getattr inside": 'getattr(getattr(x, "save"), "y")\nreturn x',
    "getattr of joined text": 'getattr(x, "sa" "ve")("f")\nreturn x',
    "getattr of escaped text": 'getattr(x, "\\x73ave")("f")\nreturn x',
    "a file": 'return torch.from_file("f", True, 4)',
    "another process": "return ops.c10d_functional.wait_tensor(x)",
    "remote": 'return ops.prim.rpc_sync("a", "b")',
    "a profiler": 'h = ops.profiler._record_function_enter("x")\nreturn x',
    "unknown": "return torch.no_such_operator(x)",
    "a C++ class": "p = __torch__.torch.classes.c10d.ProcessGroup(1, 2)\nreturn x",
    "after single quotes": "a = '\"'\nb = '\"'\nreturn x",
    "after three quotes": 'a = """ " """\ntorch.save(x, "f")\nreturn x',
    "after a comment": 'a = 1 # "\ntorch.save(x, "f") # "\nreturn x',
    "after a backslash": "a = 1 \\\n\nreturn x",
    "beyond ASCII": "ａ = 1\nreturn x",
}


@pytest.mark.parametrize("case", SPELLED)
def test_no_spelling_reaches_an_operator_that_does_more(tmp_path, case):
    with pytest.raises(CorralError, match=r"linear\.py has .*, which may do more than compute"):
        rebuilt_script(written(tmp_path / "m.pt", SPELLED[case]))


def test_text_and_attributes_that_only_sound_so_pass():
    assert (
        unsafe('a = "to save it, use torch.save(x) or \\"ops\\""\nb = getattr(getattr(self.layers, "0"), "1.x")\n')
        is None
    )
    assert (
        unsafe("x = torch.conv2d(x, w)\ny = ops.prim.dtype(x)\nz = __torch__.torch.nn.functional.relu(x, )\n") is None
    )
    assert (
        unsafe("a = torch.add(x, 1, alpha=2)\nb = 1.0000000000000001e-05\nc = ops.quantized.add(x, y, 1., 0)\n") is None
    )


class Everything(nn.Module):
    """Control flow, containers, dictionaries, strings, casts, loops, recurrent and attention layers, prints."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.recurrent = nn.LSTM(6, 4, batch_first=True)
        self.attention = nn.TransformerEncoderLayer(4, 2, batch_first=True)
        self.norm, self.end, self.shift = nn.BatchNorm1d(4), nn.Linear(4, 3), torch.arange(3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() != 4:
            raise ValueError(f"expected 4 dimensions to 'save' in, found {x.dim()}")
        y = x.flatten(1, 2)
        for layer in self.layers:
            y = nn.functional.gelu(layer(y), approximate="tanh")
        found = {"y": self.attention(self.recurrent(y)[0])}
        scaled = nn.functional.interpolate(found["y"].transpose(1, 2), size=5, mode="linear").mean(-1)
        future = torch.jit.fork(self.end, self.norm(scaled))
        zeros = torch.zeros(x.shape[0], 3, device=x.device, dtype=torch.float32)
        return torch.jit.wait(future) + self.shift.to(x.dtype) + zeros


@pytest.mark.parametrize("kind", ["script", "trace", "freeze"])
@pytest.mark.parametrize("net", [Net, Everything])
def test_programs_that_torch_writes_pass_unchanged(tmp_path, net, kind):
    torch.manual_seed(0)
    model, x = net().eval(), torch.rand(2, *SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "trace":
            program = torch.jit.trace(model, x, check_trace=False)
        else:
            program = torch.jit.script(model)
            program = torch.jit.freeze(program) if kind == "freeze" else program
        program.save(str(tmp_path / "m.pt"))
        again = compiled(io.BytesIO(rebuilt_script(tmp_path / "m.pt")))
    assert torch.equal(again(x), program(x))


def test_the_pickles_of_a_script_name_script_classes_and_tensors_alone(tmp_path):
    path = scripted(Net(), tmp_path / "m.pt")
    trace = tmp_path / "trace"
    for protocol in (2, 4):
        with pytest.raises(CorralError, match=r"data\.pkl has the (class|step)"):
            rebuilt_script(changed(path, {"data.pkl": lambda _, p=protocol: pickled(Opens(trace), p)}))
        scripted(Net(), path)
    assert not trace.exists()
    for name in ("__torch__.torch.classes.c10d ProcessGroup", "os system", "torch._utils _rebuild_parameter"):
        module, _, member = name.partition(" ")
        assert unsafe_pickle(f"c{module}\n{member}\n.".encode()) is not None
    for name in ("__torch__.a.b Net", "__torch__.torch.nn.modules.linear Linear", "collections OrderedDict"):
        module, _, member = name.partition(" ")
        assert unsafe_pickle(f"c{module}\n{member}\n.".encode()) is None
    assert "damaged" in unsafe_pickle(b"\x80\x02")


def test_a_damaged_script_is_one_line(tmp_path):
    path = scripted(Net(), tmp_path / "m.pt")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = next(entry.header_offset for entry in archive.infolist() if "/code/" in entry.filename)
    name, extra = struct.unpack_from("<HH", content, place + 26)
    content[place + 30 + name + extra + 20] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(CorralError, match="truncated or damaged"):
        load_target(str(path))
