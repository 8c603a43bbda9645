"""What benchmarks found before: every run appends its ratios to history.jsonl and says what changed beyond noise.

A line is {"benchmark", "made", "machine": {...}, "versions": {...}, "load", "ratios": {name: [median, low, high, n]}}.
Lines of one benchmark on one kind of machine (processor, cores, threads, device) are compared, each with the last
before it.
"""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from corral.records import environment, now

FILE = Path(__file__).resolve().parent / "history.jsonl"
# Medians that differ by less are no change, however narrow their ranges: the machine's own drift between days; and
# where there are fewer than three repeats, whose range says little.
DRIFT, FEW_DRIFT = 0.05, 0.15


def machine(device: str = "cpu") -> dict[str, Any]:
    """What decides a ratio: processor, cores, threads and device."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    processor = next(names, platform.processor() or platform.machine())
    return {"processor": processor, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "device": device}


def spread(values: Sequence[float]) -> list[float]:
    """Median, least, greatest and number of some repeats."""
    return [round(value, 4) for value in (statistics.median(values), min(values), max(values))] + [len(values)]


def words(values: Sequence[float]) -> str:
    """A ratio with its range, "0.72 (0.70-0.75)"."""
    median, low, high, _ = spread(values)
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def last(benchmark: str, kind: Mapping[str, Any], file: Path = FILE) -> dict[str, list[float]]:
    """The latest ratios of each name that a benchmark has on this kind of machine."""
    found: dict[str, list[float]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        entry = json.loads(line)
        if entry["benchmark"] == benchmark and entry["machine"] == kind:
            found |= entry["ratios"]
    return found


def changes(before: Mapping[str, Sequence[float]], now: Mapping[str, Sequence[float]]) -> list[str]:
    """Lines on ratios whose ranges do not meet and whose medians differ by more than `DRIFT`."""
    lines = []
    for name, (median, low, high, count) in now.items():
        if name in before:
            earlier, least, most, had = before[name]
            apart = low > most or high < least
            drift = DRIFT if min(count, had) >= 3 else FEW_DRIFT
            if apart and abs(median - earlier) > drift * abs(earlier):
                lines.append(
                    f"CHANGED {name}: {earlier:.3g} ({least:.3g}-{most:.3g}) before, "
                    f"{median:.3g} ({low:.3g}-{high:.3g}) now"
                )
    return lines


def append(
    benchmark: str, ratios: Mapping[str, Sequence[float]], *, device: str = "cpu", file: Path = FILE
) -> list[str]:
    """Add a line for this run; print and return what changed beyond noise since the last on such a machine.

    Args:
        benchmark: its file's name without ending.
        ratios: of each name, the repeats' values: of ratios, so that machines of one kind can be compared.
        device: "cpu", or the accelerator's name.
        file: the history.
    """
    kind = machine(device)
    found = {name: spread(values) for name, values in ratios.items() if values}
    lines = changes(last(benchmark, kind, file), found)
    made = environment(torch.device("cpu"))
    entry = {
        "benchmark": benchmark,
        "made": now(),
        "machine": kind,
        "versions": {"corral": made.corral, "torch": made.torch, "python": made.python},
        "load": round(os.getloadavg()[0], 2),
        "ratios": found,
    }
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")
    for line in lines:
        print(line, flush=True)
    return lines
