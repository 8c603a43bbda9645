"""What images may take of the memory that there is."""

import os

import pytest
import torch

from corral.data import memory
from corral.data.loading import workers
from corral.errors import UsageError


def test_the_least_limit_of_a_job_s_control_groups_counts(tmp_path):
    """Version 2's groups limit those inside of them, as SLURM's jobs their steps; so do version 1's memory groups."""
    groups, limits = tmp_path / "cgroup", tmp_path / "limits"
    groups.write_text("12:cpu,cpuacct:/elsewhere\n4:memory:/job\n0::/slurm/job/step\n")
    for place, text in (
        ("slurm/job/step/memory.max", "max\n"),
        ("slurm/job/memory.max", "3000\n"),
        ("slurm/memory.max", "9000\n"),
        ("memory/job/memory.limit_in_bytes", "5000\n"),
        ("elsewhere/memory.max", "1\n"),
    ):
        (limits / place).parent.mkdir(parents=True, exist_ok=True)
        (limits / place).write_text(text)
    assert sorted(memory.group_limits(groups, limits)) == [3000, 5000, 9000]
    assert memory.group_limits(tmp_path / "absent", limits) == []


def test_pixels_of_more_than_their_share_are_too_many(monkeypatch):
    monkeypatch.setattr(memory, "GROUPS", memory.Path("/absent"))
    whole = memory.host_bytes()
    assert whole == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.delenv(memory.VARIABLE, raising=False)
    assert not memory.too_many(whole // 4)
    assert memory.too_many(whole // 4 + 1)
    for text, size, expected in (("0", 1, True), ("0.5", whole // 2, False), ("inf", 2**62, False)):
        monkeypatch.setenv(memory.VARIABLE, text)
        assert memory.too_many(size) is expected
    monkeypatch.setenv(memory.VARIABLE, "-1")
    with pytest.raises(UsageError, match="CORRAL_MEMORY_SHARE must be a share of memory"):
        memory.too_many(1)
    monkeypatch.setenv(memory.VARIABLE, "0.25")
    monkeypatch.setattr(memory, "device_bytes", lambda device: 1000 if device.type == "cuda" else whole)
    assert memory.too_many(251, torch.device("cuda"))
    assert not memory.too_many(250, "cuda")


def test_ranks_of_a_machine_share_its_cores(monkeypatch):
    monkeypatch.delenv(workers.VARIABLE, raising=False)
    for cores, ranks, expected in ((64, None, 16), (8, None, 8), (8, "4", 2), (2, "4", 1)):
        monkeypatch.setattr(workers, "cores", lambda cores=cores: cores)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        if ranks is not None:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert workers.worker_count(1) == expected
