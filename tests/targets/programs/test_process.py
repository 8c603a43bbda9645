"""The process of a program: what it may not do even if a check is passed by, its gradients, and how it ends."""

import contextlib
import gc
import os
import platform
import runpy
import signal
import subprocess
import sys
import time
import zipfile
from functools import cache

import pytest
import torch
from tests.targets.programs.crafted import SHAPE, Net, changed, compiled, exported, scripted
from tests.targets.programs.test_export_archive import MODEL, TREES, with_context
from tests.targets.programs.test_script_archive import Overwrites, Saves, SavesWhenLoaded
from torch import nn

from corral.attacks.state import attacked
from corral.errors import CorralError
from corral.targets.outputs import check_outputs
from corral.targets.programs import process, rights
from corral.targets.programs.process import Process
from corral.targets.programs.remote import Remote
from corral.targets.target import load_target

CPU = torch.device("cpu")


@cache
def landlock():
    """The kernel's version of Landlock, asked in a process that has nothing to lose."""
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['_landlock'](2, {}, alone=False))"
    return int(subprocess.run([sys.executable, "-c", code, rights.__file__], capture_output=True, check=True).stdout)


needs_landlock = pytest.mark.skipif(landlock() == 0, reason="this kernel has no Landlock: nothing stops an overwrite")


@pytest.fixture(autouse=True)
def fresh_environment(monkeypatch):
    """What torch itself has put into the environment of this process is not there in a fresh one's."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)


def unchecked(path, kind="torchscript"):
    """The process of a file that no check has seen."""
    return Process(str(path), kind, path.read_bytes(), CPU)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A network, and the same in a process of its own."""
    torch.manual_seed(0)
    net = Net().eval()
    return net, load_target(str(scripted(net, tmp_path_factory.mktemp("pair") / "m.pt"))).model


@needs_landlock
@pytest.mark.parametrize("kind", [Saves, Overwrites, SavesWhenLoaded])
def test_a_program_that_no_check_has_seen_changes_no_file(tmp_path, kind):
    victim, absent = tmp_path / "victim", tmp_path / "absent"
    victim.write_bytes(b"precious bytes!!")
    for place in (victim, absent):
        path = scripted(kind(str(place)), tmp_path / "m.pt")
        before = victim.stat()
        # torch says nothing where it cannot save, and raises where it cannot map.
        with contextlib.suppress(RuntimeError):
            unchecked(path).forward(torch.rand(2, *SHAPE), gradient=False)
        assert victim.read_bytes() == b"precious bytes!!"
        assert victim.stat().st_mtime_ns == before.st_mtime_ns
        assert not absent.exists()


@pytest.mark.parametrize("kind", [Saves, Overwrites, SavesWhenLoaded])
def test_the_trap_of_these_programs_is_one(tmp_path, kind):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious bytes!!")
    compiled(scripted(kind(str(victim)), tmp_path / "m.pt"))(torch.rand(2, *SHAPE))
    assert victim.read_bytes() != b"precious bytes!!"


@needs_landlock
def test_a_module_that_no_check_has_stopped_writes_nothing(tmp_path, monkeypatch):
    """The tree spec imports it, as torch makes it do; what it wanted to do there fails."""
    (tmp_path / "evil.py").write_text(
        f"import os\nos.stat({str(tmp_path)!r})\n"
        f"try:\n    open({str(tmp_path / 'trace')!r}, 'w')\n"
        "except PermissionError:\n    raise ValueError('it came so far')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = exported(Net(), tmp_path / "m.pt2")
    changed(path, {MODEL: with_context(*TREES["enum"])})
    with pytest.raises(CorralError, match="it came so far"):
        unchecked(path, "export")
    assert not (tmp_path / "trace").exists()


# What is tried, and since which version of Landlock it is refused; 0 is for what seccomp refuses.
TRIED = {
    "make": ("open(folder + '/new', 'w')", 1),
    "append": ("open(folder + '/old', 'a')", 1),
    "overwrite": ("open(folder + '/old', 'r+')", 1),
    "map": ("import mmap; f = os.open(folder + '/old', os.O_RDWR); mmap.mmap(f, 4)", 1),
    "remove": ("os.remove(folder + '/old')", 1),
    "rename": ("os.rename(folder + '/old', folder + '/new')", 1),
    "link": ("os.link(folder + '/old', folder + '/new')", 1),
    "folder": ("os.mkdir(folder + '/new')", 1),
    "mode": ("os.chmod(folder + '/old', 0o777)", 0),
    "time": ("os.utime(folder + '/old', (1, 1))", 0),
    "read": ("open(folder + '/old').read()", 1),
    "run": ("os.execv('/bin/sh', ['sh', '-c', 'exit 7'])", 1),
    "socket": ("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", 0),
    "signal": ("os.kill(os.getppid(), 0)", 6),
}


@pytest.mark.parametrize("what", TRIED)
def test_each_right_is_gone(tmp_path, what):
    (tmp_path / "old").write_text("text")
    tried, version = TRIED[what]
    if landlock() < version or (version == 0 and platform.machine() not in rights.SECCOMP):
        pytest.skip(f"this kernel cannot refuse it: Landlock {landlock()} on {platform.machine()}")
    code = (
        "import os, runpy, socket, sys\nfolder = sys.argv[2]\n"
        "held = runpy.run_path(sys.argv[1])\nheld['hold_writes']('cpu')\nheld['hold_reads']('cpu')\n"
        f"try:\n    {tried}\nexcept PermissionError:\n    sys.exit(42)\n"
    )
    before = (tmp_path / "old").stat()
    command = [sys.executable, "-P", "-c", code, rights.__file__, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, check=False)
    assert ended.returncode == 42, ended.stderr
    assert sorted(os.listdir(tmp_path)) == ["old"]
    after = (tmp_path / "old").stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (before.st_mode, before.st_mtime_ns, before.st_size)


def test_without_landlock_it_is_said_what_is_open(monkeypatch):
    held = runpy.run_path(rights.__file__)
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert held["hold_writes"]("cpu") == ["making and overwriting files"]
    assert held["hold_reads"]("cpu") == ["reading files", "the network"]


def test_logits_and_every_gradient_are_those_of_the_program(pair):
    net, model = pair
    x = torch.rand(3, *SHAPE)
    with attacked(net), attacked(model):
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        found, expected = model(ours), net(theirs)
        assert torch.equal(found, expected)
        # Every class's gradient over one forward pass, as FAB takes them, and a pass in between.
        model(x.clone().requires_grad_())
        for column in range(3):
            (left,) = torch.autograd.grad(found[:, column].sum(), ours, retain_graph=True)
            (right,) = torch.autograd.grad(expected[:, column].sum(), theirs, retain_graph=True)
            assert torch.equal(left, right)
        (again,) = torch.autograd.grad(found.logsumexp(1).sum() + model(ours).sum(), ours)
        (right,) = torch.autograd.grad(expected.logsumexp(1).sum() + net(theirs).sum(), theirs)
        assert torch.allclose(again, right, atol=1e-6)
        with torch.no_grad():
            assert not model(ours).requires_grad


def test_a_graph_that_nobody_needs_is_dropped_in_the_process(pair):
    _, model = pair
    process, x = model.__dict__["process"], torch.rand(2, *SHAPE, requires_grad=True)
    output = model(x)
    number = process._number
    gradient = torch.ones(2, 3)
    assert process.backward(number, gradient).shape == x.shape
    del output
    gc.collect()
    model(x.detach())
    with pytest.raises(RuntimeError):
        process.backward(number, gradient)


class Cut(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach().flatten(1)


class Two(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.flatten(1), x


def test_a_program_without_gradient_has_none_and_one_of_two_outputs_is_refused(tmp_path):
    x = torch.rand(2, *SHAPE, requires_grad=True)
    assert not load_target(str(scripted(Cut(), tmp_path / "cut.pt"))).model(x).requires_grad
    two = load_target(str(scripted(Two(), tmp_path / "two.pt"))).model
    with pytest.raises(CorralError, match=r"two\.pt: the model returns a tuple, expected a tensor of logits"):
        check_outputs("two", two, x.detach(), torch.zeros(2))


def test_what_the_program_refuses_is_an_error_and_not_its_end(pair):
    net, model = pair
    with pytest.raises(RuntimeError):
        model(torch.rand(2, 1, 9, 9))
    x = torch.rand(2, *SHAPE)
    assert torch.equal(model(x), net(x))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_ends_is_one_line(tmp_path, number):
    model = load_target(str(scripted(Net(), tmp_path / "m.pt"))).model
    child = model.__dict__["process"]._child
    os.kill(child.pid, number)
    words = rf"m\.pt: the model ended its process \(signal {number:d}, {number.name}\)"
    for _ in range(2):
        with pytest.raises(CorralError, match=words) as caught:
            check_outputs("name", model, torch.rand(2, *SHAPE), torch.zeros(2))
        assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert child.returncode == -number


def test_an_interruption_in_the_middle_ends_the_process(tmp_path, monkeypatch):
    model = load_target(str(scripted(Net(), tmp_path / "m.pt"))).model
    child = model.__dict__["process"]._child

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model(torch.rand(2, *SHAPE))
    assert child.returncode == -signal.SIGKILL


def test_the_process_ends_with_the_module(tmp_path):
    model = load_target(str(scripted(Net(), tmp_path / "m.pt"))).model
    child = model.__dict__["process"]._child
    assert child.poll() is None
    del model
    gc.collect()
    assert child.returncode is not None


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_process_does_not_outlive_a_killed_one(tmp_path):
    path = scripted(Net(), tmp_path / "m.pt")
    code = (
        "import sys, time\nfrom corral.targets.target import load_target\n"
        "model = load_target(sys.argv[1]).model\n"
        "print(model.__dict__['process']._child.pid, flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        assert running(child)
        parent.kill()
    end = time.monotonic() + 20
    while running(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not running(child)


def running(number):
    try:
        with open(f"/proc/{number}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_file_is_never_given_to_torch_here(tmp_path, monkeypatch, dynamic):
    paths = [exported(Net(), tmp_path / "m.pt2", dynamic=dynamic), scripted(Net(), tmp_path / "m.pt")]
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)

    def loaded(*_, **__):
        raise AssertionError("loaded in this process")

    for name in ("torch.jit.load", "torch.export.load", "torch.load"):
        monkeypatch.setattr(name, loaded)
    for path in paths:
        assert zipfile.is_zipfile(path)
        model = load_target(str(path)).model
        assert isinstance(model, Remote)
        assert model(torch.rand(4, *SHAPE)).shape == (4, 3)
