"""Bits of a training by the number of threads: the same for the same number, and rounding apart for another."""

import json
import os
import subprocess
import sys

import pytest
import torch

CHILD = """
import json, sys
import torch
torch.set_num_threads(int(sys.argv[1]))
import corral
from corral.data import load
out = corral.train("nominal", out=sys.argv[2], progress=False, device="cpu",
                   **{"data.train": 200, "training.epochs": 2, "model.width": 4})
model = corral.load(out)
with torch.no_grad():
    logits = model(load("digits").test.float())
print(json.dumps({"weights": [t.double().flatten().tolist() for t in model.state_dict().values()],
                  "logits": logits.double().tolist(), "threads": torch.get_num_threads()}))
"""


def trained(threads, folder):
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(threads), str(folder)], env=environment, capture_output=True, check=True
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["threads"] == threads
    return found


@pytest.mark.slow
def test_equal_numbers_of_threads_give_equal_bits_and_others_differ_by_rounding(tmp_path):
    one, two, again = (trained(threads, tmp_path / str(k)) for k, threads in enumerate((1, 2, 2)))
    assert two == again
    first, other = torch.tensor(one["logits"]), torch.tensor(two["logits"])
    assert float((first - other).abs().max()) <= 1e-5 * float(first.abs().max())
    assert torch.equal(first.argmax(1), other.argmax(1))
