"""Real files in their official layouts, a local web server, and what an error message must look like."""

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from corral.errors import CorralError


def unpack(shared: Path, folder: Path, *names: str) -> Path:
    command = [sys.executable, str(shared / "unpack.py"), str(folder), *names]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def real_small(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST and the CIFAR-100 subset as unpack.py writes them."""
    return unpack(shared, tmp_path_factory.mktemp("real"), "mnist", "cifar100")


@pytest.fixture(scope="session")
def real_cifar10(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of CIFAR-10 as unpack.py writes it (about ten seconds)."""
    return unpack(shared, tmp_path_factory.mktemp("cifar10"), "cifar10")


@pytest.fixture
def refusal() -> Callable[..., str]:
    """Run a call that must fail with one clear line, and return that line."""

    def run(call: Callable[[], object], error: type[CorralError] = CorralError) -> str:
        with pytest.raises(error) as caught:
            call()
        message = str(caught.value)
        assert type(caught.value) is error
        assert message
        assert "\n" not in message
        return message

    return run


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.startswith("/cut/"):
            super().do_GET()
            return
        content = (Path(self.directory) / self.path.removeprefix("/cut/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """(address, folder) of a web server on this machine; below /cut/ it breaks off half way."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as instance:
        thread = threading.Thread(target=instance.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{instance.server_port}", folder
        instance.shutdown()
        thread.join()
