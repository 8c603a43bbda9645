"""Fetching, from a web server on this machine: good, broken off, missing, and with another hash than published."""

import dataclasses
import errno
import gzip
import hashlib
import io
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from corral.data import load
from corral.data.loading.fetch import Source, data_folders
from corral.data.loading.idx import FILES
from corral.data.sets import cifar10, mnist

Refusal = Callable[..., str]
Server = tuple[str, Path]
TOP = "cifar-10-batches-bin"


def batch(seed: int) -> bytes:
    rows = np.random.default_rng(seed).integers(0, 256, (20, 3073), dtype=np.uint8)
    rows[:, 0] = np.arange(20) % 10
    return rows.tobytes()


MEMBERS = {
    **{f"{TOP}/{name}": batch(number) for number, name in enumerate(cifar10.CIFAR10.files)},
    f"{TOP}/batches.meta.txt": b"airplane\n",
}


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def everything(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


@pytest.fixture
def publish(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Serve `content` as the CIFAR-10 archive, below `path`, with the MD5 of `promised`."""

    def run(content: bytes, promised: bytes | None = None, path: str = "") -> None:
        address, folder = server
        (folder / "cifar-10-binary.tar.gz").write_bytes(content)
        md5 = hashlib.md5(content if promised is None else promised).hexdigest()
        source = Source(f"{address}/{path}cifar-10-binary.tar.gz", md5)
        monkeypatch.setattr(cifar10, "CIFAR10", dataclasses.replace(cifar10.CIFAR10, sources=(source,)))

    return run


def test_an_archive_is_fetched_once_and_unpacked(
    publish: Callable[..., None], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(archive(MEMBERS))
    root = tmp_path / "new" / "root"
    data = load("cifar10", root=root)
    assert everything(root) == sorted(root / name for name in MEMBERS)
    assert all((root / name).read_bytes() == content for name, content in MEMBERS.items())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("fetching cifar-10-binary.tar.gz from http://127.0.0.1")
    assert lines[-1].startswith("fetched cifar-10-binary.tar.gz: 0.")
    (server[1] / "cifar-10-binary.tar.gz").unlink()
    assert load("cifar10", root=root).fingerprint == data.fingerprint


def test_progress_moves_on_a_terminal(
    publish: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(archive(MEMBERS))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("corral.progress.LIVE_SECONDS", 0.0)
    load("cifar10", root=tmp_path / "root")
    first, moving, rest = capsys.readouterr().err.split("\n")
    assert first.startswith("\r\x1b[Kfetching cifar-10-binary.tar.gz from ")
    assert moving.startswith("\rcifar-10-binary.tar.gz  0.3/0.4 MB")  # the first chunk of two
    assert "\rcifar-10-binary.tar.gz  0.4/0.4 MB" in moving
    assert moving.endswith("\r\x1b[Kfetched cifar-10-binary.tar.gz: 0.4 MB")
    assert rest == "\r\x1b[K"


def test_only_expected_members_are_unpacked_and_none_outside(publish: Callable[..., None], tmp_path: Path) -> None:
    hostile = {
        "../escaped.bin": b"x",
        "/tmp/escaped-corral.bin": b"x",
        f"{TOP}/../../escaped2.bin": b"x",
        f"{TOP}/more": b"x",
    }
    publish(archive({**hostile, **MEMBERS}))
    root = tmp_path / "deep" / "root"
    load("cifar10", root=root)
    assert everything(tmp_path / "deep") == sorted(root / name for name in MEMBERS)
    assert not Path("/tmp/escaped-corral.bin").exists()


def test_a_link_in_place_of_a_member_is_not_followed(
    publish: Callable[..., None], tmp_path: Path, refusal: Refusal
) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name in MEMBERS:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    publish(stream.getvalue())
    assert f"lacks {TOP}/data_batch_1.bin" in refusal(lambda: load("cifar10", root=tmp_path / "root"))
    assert everything(tmp_path / "root") == []


def test_another_hash_is_refused(publish: Callable[..., None], tmp_path: Path, refusal: Refusal) -> None:
    good, bad = archive(MEMBERS), archive({**MEMBERS, "more": b"x"})
    publish(bad, promised=good)
    message = refusal(lambda: load("cifar10", root=tmp_path / "root"))
    assert f"found MD5 {hashlib.md5(bad).hexdigest()} ({len(bad):,} bytes)" in message
    assert f"expected {hashlib.md5(good).hexdigest()}" in message
    assert list((tmp_path / "root").iterdir()) == []


def test_a_download_that_breaks_off_leaves_nothing(
    publish: Callable[..., None], tmp_path: Path, refusal: Refusal
) -> None:
    publish(archive(MEMBERS), path="cut/")
    message = refusal(lambda: load("cifar10", root=tmp_path / "root"))
    assert "cifar-10-binary.tar.gz from http://127.0.0.1" in message
    assert "cannot be fetched" in message
    assert list((tmp_path / "root").iterdir()) == []


def test_a_missing_file_or_server_is_named(publish: Callable[..., None], tmp_path: Path, refusal: Refusal) -> None:
    publish(archive(MEMBERS), path="elsewhere/")
    message = refusal(lambda: load("cifar10", root=tmp_path / "root"))
    assert "cannot be fetched (HTTP 404)" in message
    assert "CORRAL_DATA" in message
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("part", [0.5, 0.0])
def test_a_corrupt_archive_with_the_right_hash_is_refused(
    part: float, publish: Callable[..., None], tmp_path: Path, refusal: Refusal
) -> None:
    whole = archive(MEMBERS)
    publish(whole[: int(part * len(whole))])
    message = refusal(lambda: load("cifar10", root=tmp_path / "root"))
    assert "cifar-10-binary.tar.gz is not a whole .tar.gz archive" in message
    assert list((tmp_path / "root").iterdir()) == []


def test_a_damaged_byte_in_an_archive_with_the_right_hash_is_refused(
    publish: Callable[..., None], tmp_path: Path, refusal: Refusal
) -> None:
    content = bytearray(archive(MEMBERS))
    content[len(content) // 2] ^= 255
    publish(bytes(content))
    assert "cifar10: cifar-10-binary.tar.gz" in refusal(lambda: load("cifar10", root=tmp_path / "root"))
    assert list((tmp_path / "root").iterdir()) == []


def test_a_full_disk_leaves_nothing(
    publish: Callable[..., None], tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = shutil.copyfileobj

    def full(source: io.BufferedIOBase, target: io.BufferedIOBase, length: int = 0) -> None:
        if "unpacked" not in str(getattr(target, "name", "")):
            serve(source, target)  # the web server writes to a socket
            return
        raise OSError(errno.ENOSPC, "No space left on device")

    publish(archive(MEMBERS))
    monkeypatch.setattr(shutil, "copyfileobj", full)
    message = refusal(lambda: load("cifar10", root=tmp_path / "root"))
    assert f"cannot be written to {tmp_path / 'root' / TOP} (No space left on device)" in message
    assert list((tmp_path / "root").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(publish: Callable[..., None], tmp_path: Path, refusal: Refusal) -> None:
    publish(archive(MEMBERS))
    (tmp_path / "file").write_text("x")
    assert "cannot be written" in refusal(lambda: load("cifar10", root=tmp_path / "file" / "root"))


def test_single_files_are_fetched_where_they_are_missing(
    server: Server, tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MNIST in tiny files of the official layout: two are there, two are fetched; then one has another hash."""
    address, folder = server
    contents = {}
    for name in FILES:
        count = 20 if name.startswith("train") else 10
        shape = (count, 28, 28) if "images" in name else (count,)
        header = bytes((0, 0, 8, len(shape))) + b"".join(length.to_bytes(4, "big") for length in shape)
        contents[name] = gzip.compress(header + bytes(int(np.prod(shape))))
        (folder / f"{name}.gz").write_bytes(contents[name])
    sources = tuple(Source(f"{address}/{name}.gz", hashlib.md5(contents[name]).hexdigest()) for name in FILES)
    monkeypatch.setattr(mnist, "MNIST", dataclasses.replace(mnist.MNIST, sources=sources))
    raw = tmp_path / "root/MNIST/raw"
    raw.mkdir(parents=True)
    for name in FILES[:2]:
        (raw / name).write_bytes(gzip.decompress(contents[name]))
    message = refusal(lambda: load("mnist", root=tmp_path / "root", download=False))
    assert f"mnist: {raw} is incomplete: t10k-images-idx3-ubyte is missing" in message
    # Unpacked files have no published hash: they may be another data set's.
    message = refusal(lambda: load("mnist", root=tmp_path / "root"))
    assert f"{raw} lacks t10k-images-idx3-ubyte, and what it has cannot be checked" in message
    for name in FILES[:2]:
        (raw / name).unlink()
        (raw / f"{name}.gz").write_bytes(contents[name])
        (folder / f"{name}.gz").unlink()
    (folder / f"{FILES[3]}.gz").write_bytes(b"other")
    assert "wrong content" in refusal(lambda: load("mnist", root=tmp_path / "root"))
    assert sorted(path.name for path in raw.iterdir()) == sorted(f"{name}.gz" for name in FILES[:3])
    (folder / f"{FILES[3]}.gz").write_bytes(contents[FILES[3]])
    assert len(load("mnist", root=tmp_path / "root").train) == 20
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["MNIST"]


def test_a_folder_of_something_else_is_named_before_anything_is_fetched(
    publish: Callable[..., None], server: Server, tmp_path: Path, refusal: Refusal
) -> None:
    publish(archive(MEMBERS))
    (server[1] / "cifar-10-binary.tar.gz").unlink()
    (tmp_path / TOP).mkdir()
    (tmp_path / TOP / "README").write_text("mine")
    message = refusal(lambda: load("cifar10", root=tmp_path))
    assert f"{tmp_path / TOP} holds something else than the data set: move it away" in message
    assert (tmp_path / TOP / "README").read_text() == "mine"


def test_what_killed_fetches_left_goes_after_a_day(publish: Callable[..., None], tmp_path: Path) -> None:
    publish(archive(MEMBERS))
    for name, age in (("old", 2 * 24 * 3600), ("new", 60)):
        left = tmp_path / f".corral-{name}"
        left.mkdir()
        (left / "cifar-10-binary.tar.gz").write_bytes(b"half")
        for path in (left / "cifar-10-binary.tar.gz", left):
            os.utime(path, (time.time() - age, time.time() - age))
    load("cifar10", root=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".corral-new", TOP, "served"]


def test_data_folders_and_the_order_they_are_looked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    cache, chosen = tmp_path / "cache", tmp_path / "chosen"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("CORRAL_DATA", str(chosen))
    first, second = data_folders(None)
    assert first == chosen
    assert second.name == "corral"
    assert data_folders(tmp_path) == [tmp_path]
    message = refusal(lambda: load("cifar10", download=False))
    assert f"cifar10: not found in {chosen}, {second}" in message
    assert "download=True" in message
    for name, content in MEMBERS.items():
        (second / name).parent.mkdir(parents=True, exist_ok=True)
        (second / name).write_bytes(content)
    assert len(load("cifar10", download=False).train) == 100
    assert not chosen.exists()
    monkeypatch.delenv("CORRAL_DATA")
    assert data_folders(None) == [second]


def write_mnist(folder: Path, spelling: Callable[[str], str], *, packed: bool = False) -> None:
    folder.mkdir(parents=True)
    for name in FILES:
        count = 20 if name.startswith("train") else 10
        shape = (count, 28, 28) if "images" in name else (count,)
        content = bytes((0, 0, 8, len(shape))) + b"".join(length.to_bytes(4, "big") for length in shape)
        content += bytes(range(10)) * (int(np.prod(shape)) // 10)
        (folder / spelling(name)).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("place", ["MNIST/raw", "mnist/raw", "mnist", "Mnist", "mnist/MNIST/raw", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_official_files_are_taken_under_other_usual_names(place: str, packed: bool, tmp_path: Path) -> None:
    spellings: list[Callable[[str], str]] = [
        lambda name: name,
        lambda name: name.replace("-idx", ".idx"),
        lambda name: name.replace("-", "_"),
        str.upper,
    ]
    found = set()
    for number, spelling in enumerate(spellings):
        root = tmp_path / str(number)
        name = (lambda name, s=spelling: f"{s(name)}.gz") if packed else spelling
        write_mnist(root / place, name, packed=packed)
        found.add(load("mnist", root=root, download=False).fingerprint)
    assert len(found) == 1


def test_a_folder_in_the_place_of_a_file_holds_it_not(tmp_path: Path) -> None:
    """An archive unpacked by a browser: a folder of the file's name beside the file under another."""
    write_mnist(tmp_path / "MNIST/raw", lambda name: name.replace("-idx", ".idx"))
    (tmp_path / "MNIST/raw" / FILES[0]).mkdir()
    assert len(load("mnist", root=tmp_path, download=False).train) == 20


def test_two_files_that_could_be_meant_are_not_chosen_from(tmp_path: Path, refusal: Refusal) -> None:
    write_mnist(tmp_path / "MNIST/raw", lambda name: name.replace("-idx", ".idx"))
    shutil.copy(tmp_path / "MNIST/raw/train-images.idx3-ubyte", tmp_path / "MNIST/raw/train_images_idx3_ubyte")
    words = refusal(lambda: load("mnist", root=tmp_path, download=False))
    assert "is incomplete: train-images-idx3-ubyte is missing" in words


@pytest.mark.parametrize("place", ["CIFAR10", "cifar-10", "cifar10/cifar-10-batches-bin", "Cifar_10_Batches_Bin"])
def test_cifar_is_taken_from_other_usual_folders(place: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir(parents=True)
    for name, content in MEMBERS.items():
        (tmp_path / place / Path(name).name.replace("_", "-")).write_bytes(content)
    assert len(load("cifar10", root=tmp_path, download=False).train) == 100


def test_what_lies_there_is_said_before_a_download_is_begun(
    publish: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str], refusal: Refusal
) -> None:
    publish(archive(MEMBERS))
    root = tmp_path / "root"
    (root / "cifar10").mkdir(parents=True)
    for number in range(7):
        (root / "cifar10" / f"part{number}.zip").write_bytes(b"x")
    names = ", ".join(f"part{number}.zip" for number in range(5))
    words = f"cifar10: not found in {root} ({root / 'cifar10'} holds {names} and 2 more"
    assert words in refusal(lambda: load("cifar10", root=root, download=False))
    load("cifar10", root=root)
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith(words)
    assert first.endswith("fetching it")
    assert second.startswith("fetching cifar-10-binary.tar.gz")
