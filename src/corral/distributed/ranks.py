"""Which of several processes this one is, and what all of them say to each other."""

import atexit
import importlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from corral.distributed.watch import Watch
from corral.errors import CorralError, UsageError

T = TypeVar("T")
# How long a process waits for the others to begin.
BEGIN_SECONDS = 300.0


@dataclass(frozen=True)
class Place:
    """One process of several.

    Attributes:
        rank: its number among all of them, from 0.
        size: how many there are.
        local_rank: its number among those of its machine, and of its GPU.
        address, port: where rank 0 is found.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = "127.0.0.1"
    port: int = 0


class _State:
    """The place of this process while it works with others, and what it reaches them by."""

    place = Place()
    joined: Place | None = None
    watch: Watch | None = None
    # Whether the last work together ended in all processes.
    whole = True


def rank() -> int:
    """The number of this process; 0 of one alone."""
    return _State.place.rank


def size() -> int:
    """How many processes work together; 1 of one alone."""
    return _State.place.size


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return _State.place.rank == 0


def speaks() -> bool:
    """Whether this process is the first, or alone, also when the work together has ended."""
    return _State.joined is None or _State.joined.rank == 0


@contextmanager
def together(place: Place | None) -> Iterator[None]:
    """Work with the other processes in the block; None, or the place of one alone, changes nothing.

    A process that fails in the block ends the others' blocks too; all leave it together.

    Raises:
        CorralError: the others did not come, or one of them was lost; the message names it.
    """
    if place is None or place.size == 1 or _State.place.size > 1:
        yield
        return
    watch = _join(place)
    _State.place, _State.whole = place, False
    try:
        with watch.watching():
            yield
            barrier()
    except CorralError as error:
        if not getattr(error, "shared", False):
            watch.tell(f"rank {place.rank}: {error}")
        raise
    except BaseException as error:
        watch.tell(f"rank {place.rank} ended ({type(error).__name__})")
        raise
    else:
        _State.whole = True
    finally:
        _State.place = Place()


def is_taken() -> bool:
    """Whether torch.distributed has been initialised by others than this package."""
    return dist.is_initialized() and _State.watch is None


@contextmanager
def alone() -> Iterator[None]:
    """Work in the block as one process: on a part of what is shared, or for all."""
    place, _State.place = _State.place, Place()
    try:
        yield
    finally:
        _State.place = place


def _join(place: Place) -> Watch:
    """Meet the others, once in a process."""
    # Imported later, as torch.optim does, it keeps the group in its functions' defaults: `_leave` would not end it.
    importlib.import_module("torch.distributed.nn.functional")
    if _State.watch is not None:
        if _State.joined != place:
            raise UsageError(f"this process works as {_State.joined} already, found {place}")
        return _State.watch
    if dist.is_initialized():
        raise UsageError("torch.distributed is initialised already: leave that to corral, or leave devices= out")
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            place.address, place.port, place.size, place.rank == 0, timeout=timedelta(seconds=BEGIN_SECONDS)
        )
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        # What hangs is found by the watch, which can name it; a step of a large network may be slow.
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", store),  # type: ignore[attr-defined]
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(days=1),
        )
    except (RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise CorralError(
            f"rank {place.rank} of {place.size} did not meet the others at {place.address}:{place.port} ({words}): "
            "start all of them, with one address and port that they all reach"
        ) from error
    _State.joined, _State.watch = place, Watch(store, place.rank, place.size)
    atexit.register(_leave)
    return _State.watch


def _leave() -> None:
    """End the group's threads before Python's own end, in which one that needs it aborts the process.

    NCCL's group is left alone where another process may be gone: its end waits for all.
    """
    if dist.is_initialized() and (_State.whole or dist.get_backend() == "gloo"):
        dist.destroy_process_group()


def exchanged(collective: Callable[[], T]) -> T:
    """What a collective gives.

    Raises:
        CorralError: another process was lost; the message names it.
    """
    try:
        return collective()
    except RuntimeError as error:  # gloo's and NCCL's are no other class
        assert _State.watch is not None
        raise _State.watch.lost(error) from error


def barrier() -> None:
    """Wait for all."""
    everyones(None)


def everyones(value: T) -> list[T]:
    """The value of each process, in their order; values are small, and pickled."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    exchanged(lambda: dist.all_gather_object(found, value))
    return found


def merged(own: Mapping[int, T]) -> list[T]:
    """What all processes have by number, in the order of the numbers; as `everyones` has it."""
    found: dict[int, T] = {}
    for theirs in everyones(dict(own)):
        found |= theirs
    return [found[number] for number in sorted(found)]


def dealt(items: Iterable[T]) -> Iterator[tuple[int, T]]:
    """This process's items, with their numbers among all: every P-th of P processes."""
    return (pair for pair in enumerate(items) if pair[0] % size() == rank())


@contextmanager
def held_by_first(make: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """A context of the first process alone, which the others wait for to be entered.

    Raises:
        CorralError: it cannot be entered.
    """
    with ExitStack() as stack:
        on_first(lambda: stack.enter_context(make()) and None)
        yield


def agreed(make: Callable[[], T]) -> T:
    """What this process makes, if no process fails; else all raise the first one's failure.

    Raises:
        CorralError: one failed, as it failed.
    """
    if size() == 1:
        return make()
    made, failure = _tried(make)
    _raise_first(everyones(failure))
    return made  # type: ignore[return-value]


def on_first(make: Callable[[], T]) -> T:
    """What the first process makes, alone, in all of them; they wait for it.

    Raises:
        CorralError: it failed, as it failed.
    """
    if size() == 1:
        return make()
    made, failure = None, None
    if is_first():
        with alone():
            made, failure = _tried(make)
    value, failure = everyones((made, failure))[0]
    _raise_first([failure])
    return value  # type: ignore[return-value]


def once_a_machine(make: Callable[[], T]) -> T:
    """What the first process of this machine makes, in all of the machine's; all processes wait for all machines.

    Raises:
        CorralError: one failed, as it failed.
    """
    if size() == 1:
        return make()
    made, failure, local = None, None, _State.place.local_rank
    if local == 0:
        made, failure = _tried(make)
    found = everyones((platform.node(), local, made, failure))
    _raise_first([failure for _, _, _, failure in found])
    return next(made for node, number, made, _ in found if (node, number) == (platform.node(), 0))  # type: ignore[return-value]


def _tried(make: Callable[[], T]) -> tuple[T | None, tuple[type[CorralError], str] | None]:
    try:
        return make(), None
    except CorralError as error:
        kind = UsageError if isinstance(error, UsageError) else CorralError
        return None, (kind, str(error))


def _raise_first(failures: Sequence[tuple[type[CorralError], str] | None]) -> None:
    """Raise the first failure, which all processes know of."""
    for number, failure in enumerate(failures):
        if failure is not None:
            kind, words = failure
            error = kind(words if number == 0 else f"rank {number}: {words}")
            error.shared = True  # type: ignore[attr-defined]
            raise error


def require_equal(what: str, value: T) -> None:
    """Refuse a value that is not the same in all processes.

    Raises:
        CorralError: names the first process that has another.
    """
    values = everyones(value)
    for number, other in enumerate(values):
        if other != values[0]:
            failure = (CorralError, f"{what}: rank 0 has {values[0]!r}, rank {number} has {other!r}")
            _raise_first([failure])


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, without gradient; the tensor itself of one alone."""
    if size() == 1:
        return tensor
    total = tensor.detach().clone()
    exchanged(lambda: dist.all_reduce(total))
    return total


def gathered(tensor: Tensor) -> list[Tensor]:
    """The (n, ...) numbers of each process, in their order; n may differ."""
    if size() == 1:
        return [tensor]
    counts = everyones(len(tensor))
    most = max(counts)
    own = tensor.detach()
    padded = torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])]).contiguous()
    parts = [torch.empty_like(padded) for _ in counts]
    exchanged(lambda: dist.all_gather(parts, padded))
    return [part[:count] for part, count in zip(parts, counts, strict=True)]


def rows(block: Tensor, indices: Tensor, start: int) -> Tensor:
    """The (n, ...) rows at (n,) indices of what lies in the processes in blocks, one after the other; no gradient.

    Args:
        block: (b, ...), this process's.
        indices: among the rows of all, the same in every process.
        start: the index of this block's first row.
    """
    if size() == 1:
        return block[indices]
    found = block.new_zeros(len(indices), *block.shape[1:])
    own = (indices >= start) & (indices < start + len(block))
    found[own] = block[indices[own] - start]
    return summed(found)


def average(tensors: Sequence[Tensor | None]) -> None:
    """Put the mean over all processes in the place of each tensor's numbers, in one exchange a dtype."""
    if size() == 1:
        return
    present = [tensor.detach() for tensor in tensors if tensor is not None]
    for dtype in dict.fromkeys(tensor.dtype for tensor in present):
        some = [tensor for tensor in present if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in some])
        exchanged(partial(dist.all_reduce, flat))
        flat /= size()
        for tensor, mean in zip(some, torch.split(flat, [one.numel() for one in some]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def from_first(tensors: Sequence[Tensor]) -> None:
    """Put the first process's numbers in the place of each tensor's."""
    if size() == 1:
        return
    for tensor in tensors:
        sent = tensor.detach().contiguous()
        exchanged(partial(dist.broadcast, sent, 0))
        tensor.detach().copy_(sent)


def place_from_environment() -> Place | None:
    """The place that torchrun, or `launch`, gave this process; None without one.

    Raises:
        UsageError: only a part of it, or no numbers.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    found = {name: os.environ.get(name) for name in names}
    if found["RANK"] is None or found["WORLD_SIZE"] is None:
        return None
    missing = [name for name, value in found.items() if value is None]
    try:
        number, count, local, port = (
            int(found[name] or 0) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
        )
    except ValueError:
        missing = missing or ["whole numbers"]
    if missing or not 0 <= number < count:
        raise UsageError(f"RANK and WORLD_SIZE are set, and not as torchrun does: check {', '.join(missing or names)}")
    return Place(number, count, local, found["MASTER_ADDR"] or "127.0.0.1", port)
