import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.data import shuffled


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 10))
def test_an_epoch_draws_every_row_once_in_whole_batches(n: int, batch_size: int, seed: int) -> None:
    batches = list(shuffled(n, batch_size, generator=torch.Generator().manual_seed(seed)))
    assert torch.cat(batches).sort().values.tolist() == list(range(n))
    sizes = [len(batch) for batch in batches]
    assert all(size == batch_size for size in sizes[:-1])
    left = n % batch_size
    if n <= batch_size:
        assert sizes == [n]
    elif left == 1:
        assert sizes[-1] == batch_size + 1
    else:
        assert sizes[-1] == (left or batch_size)


def test_the_generator_decides_the_order_on_every_device(device: torch.device) -> None:
    orders = [
        torch.cat(list(shuffled(50, 8, generator=torch.Generator().manual_seed(seed), device=where))).tolist()
        for seed, where in ((1, "cpu"), (1, device), (2, device))
    ]
    assert orders[0] == orders[1] != orders[2]
    assert next(shuffled(50, 8, device=device)).device.type == device.type


def test_one_generator_gives_another_order_each_epoch() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.cat(list(shuffled(50, 8, generator=generator))) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("n", "batch_size"), [(0, 4), (4, 0)])
def test_empty_epochs_and_batches_are_errors(n: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"n = {n} and batch_size = {batch_size}"):
        shuffled(n, batch_size)
