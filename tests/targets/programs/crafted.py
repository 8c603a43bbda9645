"""Files that a stranger could make: archives with parts exchanged, and programs whose text is written by hand."""

import io
import json
import pickle
import warnings
import zipfile

import torch
from torch import nn

SHAPE = (1, 6, 6)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(x).tanh().flatten(1))


def exported(net, path, *, dynamic=False):
    shapes = ({0: torch.export.Dim("n")},) if dynamic else None
    torch.export.save(torch.export.export(net.eval(), (torch.rand(4, *SHAPE),), dynamic_shapes=shapes), path)
    return path


def scripted(net, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(net).save(str(path))
    return path


def compiled(file):
    """What torch makes of a TorchScript file, in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(file)


def changed(path, changes):
    """The archive with entries changed, by the end of their name; returns its path as text."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    assert all(any(name.endswith(end) for name in entries) for end in changes)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            for end, change in changes.items():
                content = change(content) if name.endswith(end) else content
            archive.writestr(name, content)
    return str(path)


def edited(edit):
    """Changes one entry that is JSON."""

    def change(content):
        document = json.loads(content)
        edit(document)
        return json.dumps(document).encode()

    return change


def written(path, body, *, extra=""):
    """A TorchScript file whose forward has this body (of `x`), as text that nothing has compiled."""
    scripted(nn.Identity(), path)
    indented = "".join(f"    {line}\n" for line in body.splitlines())

    def code(content):
        head, _, _ = content.decode().partition("  def forward(")
        name = head.split("class ")[1].split("(")[0]
        scope = "__torch__.torch.nn.modules.linear." + name
        return f"{head}  def forward(self: {scope}, x: Tensor) -> Tensor:\n{indented}{extra}".encode()

    return changed(path, {"linear.py": code})


class Opens:
    """Unpickling it makes a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def pickled(thing, protocol=2):
    stream = io.BytesIO()
    pickle.dump(thing, stream, protocol)
    return stream.getvalue()
