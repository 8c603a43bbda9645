"""How much memory images may take: what would be more is streamed from where it lies."""

import os
from pathlib import Path

import torch

from corral.errors import UsageError

# The share of memory that a data set's pixels take at most, and what changes it. Splitting copies them once, and
# what trains on them needs the rest.
SHARE, VARIABLE = 0.25, "CORRAL_MEMORY_SHARE"
# Where Linux says which control groups a process is in, and what their limits are.
GROUPS, LIMITS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def share() -> float:
    """The share of memory that pixels may take: that of the environment variable, or a quarter.

    Raises:
        UsageError: the variable holds no number from 0 on.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        found = float(text) if text else SHARE
    except ValueError:
        found = -1.0
    if not found >= 0:
        raise UsageError(f"{VARIABLE} must be a share of memory, such as 0.25 (0 streams everything), found {text!r}")
    return found


def host_bytes() -> int:
    """Bytes of memory that this process may use: the machine's, or the least limit of its control groups (SLURM)."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else []
    return min([*limits, *group_limits(GROUPS, LIMITS)], default=2**34)


def group_limits(groups: Path, limits: Path) -> list[int]:
    """The memory limits of the control groups of a process, and of those that these are in; none where there are none.

    Args:
        groups: the file that lists them.
        limits: the folder that their files lie in.
    """
    try:
        lines = [line.split(":", 2) for line in groups.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    files = []
    for number, controllers, group in lines:
        if number == "0":  # version 2
            top, name = limits, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = limits / "memory", "memory.limit_in_bytes"
        else:
            continue
        place = top / group.lstrip("/")
        files += [folder / name for folder in (place, *place.parents) if folder.is_relative_to(top)]
    found = []
    for file in files:
        try:
            found.append(int(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):  # not there, as in a container, or "max"
            continue
    return found


def device_bytes(device: torch.device) -> int:
    """Bytes of memory of the device that tensors lie on."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return host_bytes()


def too_many(size: int, device: torch.device | str = "cpu") -> bool:
    """Whether so many bytes of pixels are more than their share of a device's memory."""
    return size > share() * device_bytes(torch.device(device))
