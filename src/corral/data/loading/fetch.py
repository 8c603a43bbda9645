"""Where data sets lie, and fetching the official files: checked by hash, unpacked whole or not at all."""

import gzip
import os
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from corral.errors import CorralError
from corral.files import user_path
from corral.progress import Progress

# Temporary folders; one that nothing was written to for so long is of a fetch that was killed.
SCRATCH, ABANDONED_SECONDS = ".corral-", 24 * 3600
TIMEOUT_SECONDS = 30
# Names of a folder that a message lists.
SHOWN = 5
CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class Source:
    """An official file: its address and its published MD5."""

    url: str
    md5: str

    @property
    def filename(self) -> str:
        """The last part of the address."""
        return Path(urlparse(self.url).path).name


@dataclass(frozen=True)
class Release:
    """A data set as its authors publish it.

    Args:
        name: the data set's name in corral.
        folders: where it may lie below a data folder; a fetch writes the first.
        files: what makes it complete; each may lie there as ".gz" where it is published so, and under another usual
            spelling, such as "train-images.idx3-ubyte" for "train-images-idx3-ubyte".
        sources: one .tar.gz archive whose members lie in a folder called like `folders[0]`, or single files.
        extras: further archive members to unpack.
        pickled: a folder that other libraries make of the same data, which corral does not read.
    """

    name: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    sources: tuple[Source, ...]
    extras: tuple[str, ...] = ()
    pickled: str | None = None

    @property
    def archived(self) -> bool:
        """Whether the source is one archive."""
        return self.sources[0].filename.endswith(".tar.gz")

    def missing(self, folder: Path) -> list[str]:
        """The files that are not in `folder`, neither plain nor as they are published, under no usual spelling."""
        return [name for name in self.files if self._found(folder, name) is None]

    def path(self, folder: Path, name: str) -> Path:
        """Where one of the files lies in `folder`; where it would lie, if it does not."""
        return self._found(folder, name) or folder / name

    def _found(self, folder: Path, name: str) -> Path | None:
        """The file of that name, or the only one whose name differs from it in signs and capitals alone."""
        names = [name]
        if any(source.filename == f"{name}.gz" for source in self.sources):
            names.append(f"{name}.gz")
        for official in names:
            if (folder / official).is_file():
                return folder / official
        entries = _entries(folder)
        for official in names:
            alike = [entry for entry in entries if _bare(entry.name) == _bare(official) and entry.is_file()]
            if len(alike) == 1:
                return alike[0]
        return None

    def places(self, base: Path) -> list[Path]:
        """The folders below a data folder where it may lie, the official ones first."""
        spellings = (*self.folders, self.name, f"{self.name}/{self.folders[0]}")
        return list(
            dict.fromkeys([base / folder for folder in self.folders] + [_spelt(base, one) for one in spellings])
        )


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder and is not hidden, by name; nothing where it is none or cannot be read."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return []


def _bare(name: str) -> str:
    """A name without the signs and capitals in which spellings of it differ."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _spelt(base: Path, folder: str) -> Path:
    """A folder below `base`, each part of its path as it is spelt there."""
    for part in Path(folder).parts:
        alike = [entry for entry in _entries(base) if _bare(entry.name) == _bare(part) and entry.is_dir()]
        base = alike[0] if len(alike) == 1 and not (base / part).is_dir() else base / part
    return base


def data_folders(root: Path | None) -> list[Path]:
    """Where data sets may lie: `root`, or else the folder in CORRAL_DATA, if set, and the per-user cache."""
    if root is not None:
        return [user_path(root)]
    import pooch

    chosen = os.environ.get("CORRAL_DATA")
    folders = [user_path(chosen)] if chosen else []
    try:
        return [*folders, Path(pooch.os_cache("corral"))]
    except RuntimeError as error:  # a user without a home
        if not folders:
            raise CorralError("no home folder for a cache of data sets: set CORRAL_DATA, or HOME") from error
        return folders


def provide(release: Release, root: Path | None, download: bool) -> Path:
    """The folder that holds the release's files: one already there, or fetched now.

    Raises:
        CorralError: absent and `download` is false, incomplete, or the fetch failed; nothing half-written stays.
    """
    bases = data_folders(root)
    folders = [folder for base in bases for folder in release.places(base)]
    for folder in folders:
        if not release.missing(folder):
            return folder
    unread = [base / release.pickled for base in bases] if release.pickled else []
    pickled = next((folder for folder in unread if folder.exists()), None)
    hint = f" (found {pickled}, but it is pickled and corral does not unpickle)" if pickled else ""
    partial = next((folder for folder in folders if len(release.missing(folder)) < len(release.files)), None)
    if partial and (release.archived or not download):
        raise CorralError(
            f"{release.name}: {partial} is incomplete: {release.missing(partial)[0]} is missing{hint}; "
            "delete the folder and load again with download=True, or complete it from the official archive"
        )
    looked, lying = ", ".join(map(str, bases)), _lying(folders)
    if not download:
        raise CorralError(
            f"{release.name}: not found in {looked}{hint}{lying}; load it with download=True, "
            f"or put the official files into {folders[0]}"
        )
    if partial and not _published(release, partial):
        raise CorralError(
            f"{release.name}: {partial} lacks {release.missing(partial)[0]}, and what it has cannot be "
            "checked, because it is not as published: add the file, or move the others away and load again"
        )
    target = partial or folders[0]
    if release.archived and target.is_dir() and any(target.iterdir()) and release.missing(target):
        raise CorralError(
            f"{release.name}: {target} holds something else than the data set: move it away, or choose another data "
            "folder"
        )
    if lying and not partial:
        Progress("", 0, "").say(f"{release.name}: not found in {looked}{hint}{lying}; fetching it")
    try:
        with _scratch(bases[0]) as scratch:
            (_fetch_archive if release.archived else _fetch_files)(release, target, scratch)
    except OSError as error:
        raise CorralError(
            f"{release.name}{hint}: cannot be written to {target} ({error.strerror or error}); nothing was left "
            "behind: free some space or choose another data folder"
        ) from error
    return target


def _lying(folders: Sequence[Path]) -> str:
    """What lies in the folders that were looked in, as a part of a message; a few names each."""
    held = {folder.resolve(): [entry.name for entry in _entries(folder)] for folder in folders}
    words = [
        f"{folder} holds {', '.join(names[:SHOWN])}" + (f" and {len(names) - SHOWN:,} more" * (len(names) > SHOWN))
        for folder, names in held.items()
        if names
    ]
    return f" ({'; '.join(words)})" if words else ""


def _published(release: Release, folder: Path) -> bool:
    """Whether every file of a release that lies there is as published; an unpacked one has no published hash."""
    import pooch

    known = {source.filename: source.md5 for source in release.sources}
    present = {name: release.path(folder, name) for name in release.files if name not in release.missing(folder)}
    return all(
        path.suffix == ".gz" and pooch.file_hash(str(path), alg="md5") == known.get(f"{name}.gz")
        for name, path in present.items()
    )


@contextmanager
def _scratch(base: Path) -> Iterator[Path]:
    """A temporary folder beside the data sets; those that killed processes left long ago are removed."""
    base.mkdir(parents=True, exist_ok=True)
    for found in base.glob(f"{SCRATCH}*"):
        try:
            latest = max(path.stat().st_mtime for path in (found, *found.rglob("*")))
        except OSError:  # another process was first
            continue
        if time.time() - latest > ABANDONED_SECONDS:
            shutil.rmtree(found, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=base, prefix=SCRATCH) as folder:
        yield Path(folder)


def _fetch_archive(release: Release, target: Path, scratch: Path) -> None:
    archive = _download(release.sources[0], scratch)
    unpacked = scratch / "unpacked"
    unpacked.mkdir()
    _unpack(archive, release, unpacked)
    try:
        os.rename(unpacked, target)
    except OSError:
        # Another process that fetched the same archive may have been first: its files passed the same checks.
        if release.missing(target):
            raise


def _unpack(archive: Path, release: Release, folder: Path) -> None:
    """Copy the expected members only, to names chosen here: a member's path decides nothing."""
    wanted = {f"{release.folders[0]}/{name}": name for name in (*release.files, *release.extras)}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = wanted.get(member.name.removeprefix("./"))
                content = tar.extractfile(member) if name is not None and member.isreg() else None
                if name is not None and content is not None:
                    with open(folder / name, "wb") as copy:
                        shutil.copyfileobj(content, copy, 1 << 20)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorralError(
            f"{release.name}: {archive.name} is not a whole .tar.gz archive ({error}); load again to fetch it anew"
        ) from error
    absent = release.missing(folder)
    if absent:
        raise CorralError(
            f"{release.name}: {archive.name} lacks {release.folders[0]}/{absent[0]}: it is not the official archive"
        )


def _fetch_files(release: Release, target: Path, scratch: Path) -> None:
    wanted = release.missing(target)
    for source in release.sources:
        if source.filename.removesuffix(".gz") in wanted:
            path = _download(source, scratch)
            target.mkdir(parents=True, exist_ok=True)
            os.replace(path, target / source.filename)


def _download(source: Source, folder: Path) -> Path:
    """Download one file into `folder` and check its hash; a CorralError where either fails."""
    import pooch
    import requests

    path = folder / source.filename
    # pooch leaves the connection open where a download fails, so its responses are kept here to be closed.
    responses: list[requests.Response] = []
    place = f"{source.filename} from {source.url}"
    with Progress(source.filename, 0, "MB", scale=1e6) as bar:
        bar.say(f"fetching {place}")
        downloader = pooch.HTTPDownloader(
            progressbar=bar,
            chunk_size=CHUNK_BYTES,
            timeout=TIMEOUT_SECONDS,
            hooks={"response": lambda response, **_: responses.append(response)},
        )
        try:
            downloader(source.url, str(path), None)
        except requests.RequestException as error:
            reason = f"HTTP {error.response.status_code}" if error.response is not None else type(error).__name__
            raise CorralError(
                f"{place}: cannot be fetched ({reason}); nothing was kept: check the network, or fetch it elsewhere "
                "and unpack it into a folder that CORRAL_DATA names"
            ) from error
        finally:
            for response in responses:
                response.close()
        bar.say(f"fetched {source.filename}: {path.stat().st_size / 1e6:.1f} MB")
    found = pooch.file_hash(str(path), alg="md5")
    if found != source.md5:
        raise CorralError(
            f"{place}: wrong content: found MD5 {found} ({path.stat().st_size:,} bytes), expected {source.md5}; "
            "nothing was kept: try again later or fetch it elsewhere and unpack it into a folder that CORRAL_DATA names"
        )
    return path
