import os
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from corral.checkpoints import (
    load_optimiser,
    load_tensors,
    optimiser_tensors,
    read_checkpoint,
    write_checkpoint,
)
from corral.errors import CorralError
from corral.training.optimisers import make_optimiser, state_names
from corral.training.recipes.recipe import TrainingConfig

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3, dtype=torch.int64)}
METADATA = {"kind": "training", "epoch": 3, "nested": {"x": [1.5, None, "ü"]}}


def test_what_was_written_is_read_back(tmp_path):
    path = tmp_path / "deep" / "last.safetensors"
    view = {**TENSORS, "a": TENSORS["a"].T}  # not contiguous
    write_checkpoint(path, view, METADATA)
    tensors, metadata = read_checkpoint(path, kind="training")
    assert metadata == METADATA
    assert tensors.keys() == view.keys()
    assert all(torch.equal(tensors[name], view[name]) and tensors[name].dtype == view[name].dtype for name in view)
    assert sorted(os.listdir(path.parent)) == ["last.safetensors"]


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 50, -30, -1])
def test_a_truncated_file_is_one_line_naming_it(tmp_path, keep):
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, TENSORS, METADATA)
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(CorralError, match=r"last\.safetensors: truncated or not a safetensors file") as caught:
        read_checkpoint(path, kind="training")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": 1}), "not a safetensors file"),
        (bytes(range(256)) * 20, "not a safetensors file"),
        (save(TENSORS), "not a corral training file .found no corral metadata."),
        (save(TENSORS, {"corral": '{"kind": "model"}'}), "not a corral training file .found model."),
        (save(TENSORS, {"corral": "[1]"}), "not a corral training file"),
        (save(TENSORS, {"corral": "not json"}), "not a safetensors file"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CorralError, match=message):
        read_checkpoint(path, kind="training")


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(CorralError, match="no such checkpoint; make one with `corral train`"):
        read_checkpoint(tmp_path / "none", kind="model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.full((2, 3), torch.nan)}, "tensor weight holds NaN"),
        ({"weight": torch.full((2, 3), torch.inf)}, "tensor weight holds NaN or infinite"),
        ({"weight": torch.zeros(3, 2)}, r"tensor weight has shape \(3, 2\), expected \(2, 3\)"),
        ({"weight": torch.zeros(2, 3, dtype=torch.float64)}, "tensor weight is torch.float64, expected torch.float32"),
        ({"more": torch.zeros(1)}, "tensor more is unexpected"),
        ({"bias": None}, "tensor bias is missing"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    module = nn.Linear(3, 2)
    tensors = {name: t for name, t in {**module.state_dict(), **change}.items() if t is not None}
    before = module.weight.detach().clone()
    with pytest.raises(CorralError, match=message):
        load_tensors(module, tensors, tmp_path / "x")
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("make", [torch.optim.Adam, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_an_optimiser_takes_up_where_it_was(make):
    def step(module, optimiser):
        optimiser.zero_grad()
        module(torch.ones(1, 3)).square().sum().backward()
        optimiser.step()

    torch.manual_seed(0)
    one = nn.Linear(3, 2)
    first = make(one.parameters())
    step(one, first)
    two = nn.Linear(3, 2)
    two.load_state_dict(one.state_dict())
    second = make(two.parameters())
    state = {name: tensor.clone() for name, tensor in optimiser_tensors(first).items()}
    load_optimiser(second, state, names=state_names(second), moved=True)
    step(one, first)
    step(two, second)
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"7.exp_avg": torch.zeros(2, 3)}, "fits no parameter"),
        ({"0.exp_avg": torch.zeros(3, 3)}, "fits no parameter"),
        ({"0.exp_avg": torch.full((2, 3), torch.nan)}, "NaN"),
        (
            {"1.momentum_buffer": torch.zeros(2)},
            "parameter 1 is momentum_buffer, this optimiser keeps exp_avg, exp_avg_sq, step",
        ),
        ({"0.exp_avg": torch.zeros(2, 3), "0.exp_avg_sq": torch.zeros(2, 3)}, "is exp_avg, exp_avg_sq, this optimiser"),
        ({}, "the optimiser's state is missing"),
    ],
)
def test_an_optimisers_state_that_does_not_fit_is_refused(state, message):
    optimiser = torch.optim.Adam(nn.Linear(3, 2).parameters())
    with pytest.raises(ValueError, match=message):
        load_optimiser(optimiser, state, names=state_names(optimiser), moved=True)


@pytest.mark.parametrize("name", ["adam", "sgd", "lars", "lars-clipped"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_names_of_an_optimiser_s_state_are_those_that_it_keeps(name, momentum):
    module = nn.Linear(3, 2)
    groups = [{"params": list(module.parameters()), "lr": 0.1, "weight_decay": 0.0}]
    optimiser = make_optimiser(groups, TrainingConfig(optimiser=name, momentum=momentum))
    module(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    kept = {key.split(".")[1] for key in optimiser_tensors(optimiser)}
    assert kept == state_names(optimiser)


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_one_flipped_bit_anywhere_is_noticed(place, bit):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.safetensors"
        write_checkpoint(path, TENSORS, METADATA)
        content = bytearray(path.read_bytes())
        content[place % len(content)] ^= 1 << bit
        path.write_bytes(content)
        message = ""
        try:
            tensors, metadata = read_checkpoint(path, kind="training")
        except CorralError as error:
            message = str(error)
        if message:
            assert message.startswith(str(path))
            assert "\n" not in message
        else:
            # A flip in the header's padding, or in how a number is spelt there, may change nothing.
            assert metadata == METADATA
            assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_a_flipped_weight_is_called_damage(tmp_path):
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, TENSORS, METADATA)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorralError, match=r"model\.safetensors: damaged, its contents do not match their checksum"):
        read_checkpoint(path, kind="training")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.uint8, torch.int64])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_of_every_kind_have_a_checksum(tmp_path, dtype, shape):
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, {"x": torch.ones(shape).to(dtype)}, METADATA)
    tensors, _ = read_checkpoint(path, kind="training")
    assert torch.equal(tensors["x"], torch.ones(shape).to(dtype))
