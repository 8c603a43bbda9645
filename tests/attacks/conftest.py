"""Models that several tests of attacks share."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from corral.data import load


@pytest.fixture(scope="session")
def digits_network():
    """A network on real digits, briefly trained against noise so that some images stand and others fall."""
    data = load("digits")
    x, y = data.train.float(), data.train.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimiser = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(150):
            noisy = (x + 0.3 * torch.randn_like(x)).clamp(0, 1)
            optimiser.zero_grad()
            F.cross_entropy(model(noisy), y).backward()
            optimiser.step()
    return model.eval(), data.test.float()[:300], data.test.labels[:300]
