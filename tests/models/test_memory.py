"""No layout that corral chooses writes outside its memory: each part in a process of its own, which may die."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHILD = Path(__file__).with_name("memory_child.py")
# glibc's allocator with its checks on: damage that would have passed for now ends the process at the next `free`.
CHECKED = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3", "OMP_NUM_THREADS": "1"}


def run(*arguments, isa="DEFAULT"):
    environment = {**os.environ, **CHECKED, "ONEDNN_MAX_CPU_ISA": isa}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
# Without AVX-512 oneDNN has other kernels, with the same fault at other sizes.
@pytest.mark.parametrize(
    ("part", "isa", "networks"),
    [
        ("layers", "DEFAULT", 96 + 4),
        ("layers", "AVX2", 96 + 4),
        ("backbones", "DEFAULT", 20 * 3),
        ("users", "DEFAULT", 9),
    ],
)
def test_every_network_survives_with_the_gradients_of_float64(part, isa, networks):
    done = run(str(CHILD), part, isa=isa)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"ended with {done.returncode} after {lines[-1:]}: {done.stderr[-2000:]}"
    assert len(lines) == networks
    assert [line for line in lines if not float(line.split()[0]) < 1e-4] == []


def test_a_narrow_resnet_trains_on_images_of_64_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        file = tmp_path / "images" / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    data, out = f"folder:{tmp_path / 'images'}", tmp_path / "run"
    narrow = ["--set", "model.backbone=resnet", "--set", "model.width=8", "--set", "model.depth=10"]
    done = run("-m", "corral", "train", "nominal", "--data", data, *narrow, "--epochs", "1", "--out", str(out))
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    assert (out / "model.safetensors").is_file()
