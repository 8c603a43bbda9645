"""Disks that end and folders that cannot be written, for root on Linux; False where they cannot be made."""

import subprocess
from pathlib import Path

# A disk that had no limit cannot get one.
ENOUGH = {"size": 1 << 28, "nr_inodes": 10_000}


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def tmpfs(place: Path) -> bool:
    """An empty disk in memory, with room enough."""
    place.mkdir(exist_ok=True)
    options = ",".join(f"{kind}={most}" for kind, most in ENOUGH.items())
    return _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place))


def limit(place: Path, kind: str, most: int | None = None) -> None:
    """Limit a disk's "size" in bytes or its "nr_inodes"; None for enough again."""
    most = ENOUGH[kind] if most is None else most
    if not _run("mount", "-o", f"remount,{kind}={most}", str(place)):
        raise OSError(f"{place}: {kind} cannot be limited to {most}")


def read_only(folder: Path) -> bool:
    """Make a folder read-only, for root too."""
    if not _run("mount", "--bind", str(folder), str(folder)):
        return False
    if _run("mount", "-o", "remount,ro,bind", str(folder)):
        return True
    unmount(folder)
    return False


def unmount(place: Path) -> None:
    """Undo what was mounted there."""
    _run("umount", "-l", str(place))


def used(folder: Path) -> tuple[int, int]:
    """Bytes, in whole pages as a disk in memory counts them, and inodes of a folder."""
    paths = [folder, *folder.rglob("*")]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in paths if path.is_file()), len(paths)
