"""Which device work runs on."""

import os
import platform
from collections.abc import Callable

import torch

from corral.errors import UsageError


def choose_device(name: str | torch.device | None) -> torch.device:
    """The device of a name, or a GPU if there is one and the CPU otherwise.

    Raises:
        UsageError: unknown, or not present on this machine.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" makes tensors, but computes nothing
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {str(name)!r} is not usable here ({str(error).splitlines()[0]}); use cpu") from error
    return device


def device_name(device: torch.device) -> str:
    """The device as a record states it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether a device is known to compute bfloat16 by other instructions, 2 to 10 times slower than float32."""
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    told: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)  # torch 2.8 does not say
    found = told()
    return bool(found) and not (found.get("avx512_bf16") or found.get("amx_bf16"))
