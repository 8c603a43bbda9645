"""The runs of a table made by several processes of this machine at once."""

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import nullcontext
from dataclasses import replace

import torch

from corral.checksums import accept_edited, accepts_edited
from corral.data import load
from corral.devices import choose_device
from corral.papers.jobs import Job, is_made, make_job
from corral.papers.measure import Setup
from corral.progress import Progress, duration
from corral.report.words import counted
from corral.workers import started_whole, worker_pool


def make_side_by_side(setup: Setup, jobs: Mapping[str, Job], workers: int, *, made: Callable[[str], None]) -> None:
    """Make what is missing of jobs in processes; one that another begins from is made before that.

    The CPU threads of this process are shared out among them, and so are the GPUs where no one of them is named. The
    processes end with this one, however it does, and leave runs that the next call takes up.

    Args:
        setup: of the table.
        jobs: as `jobs_of` has them.
        workers: the most processes at once.
        made: called in this process with the name of each job, also of one that was made before.

    Raises:
        CorralError: the first that a job raised, which ends the others; or a process was ended from outside.
    """
    left: dict[str, Job] = {}
    for name, job in jobs.items():
        if is_made(setup, job):
            made(name)
        else:
            left[name] = job
    for name in dict.fromkeys(job.recipe.data.name for job in left.values()):
        load(name, root=setup.data_root)  # what is missing is found, or downloaded, once
    count = min(workers, len(left))
    if not count:
        return
    threads, devices = max(1, torch.get_num_threads() // count), _devices(setup.device)
    running: dict[Future[float], tuple[str, str | None]] = {}
    with (
        Progress(setup.table.name, len(left), "runs", enabled=setup.progress) as bar,
        worker_pool(count, setup.plan.runs) as pool,
    ):
        bar.say(f"{counted(len(left), 'run')} by {counted(count, 'worker')} of {counted(threads, 'CPU thread')} each")
        while left or running:
            unmade = {*left, *(name for name, _ in running.values())}
            ready = [name for name, job in left.items() if job.begins_from not in unmade]
            for name in ready[: count - len(running)]:
                device = min(devices, key=[used for _, used in running.values()].count)  # the least used
                own = replace(setup, device=device, progress=False)
                with started_whole(pool):
                    running[pool.submit(_work, own, left.pop(name), threads, accepts_edited())] = name, device
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, _ = running.pop(future)
                seconds = future.result()
                made(name)
                bar.advance(1)
                bar.say(f"{jobs[name].folder.path}: made (trained {duration(seconds)})")


def _work(setup: Setup, job: Job, threads: int, accepted: bool) -> float:
    """A process's job: how long the run was trained. `accepted` is whether the first process is in `accept_edited`."""
    torch.set_num_threads(threads)
    with accept_edited() if accepted else nullcontext():
        make_job(setup, job)
        return job.folder.info.train_seconds


def _devices(name: str | None) -> list[str | None]:
    """The devices that processes are dealt to: every GPU where no one of several is named."""
    device = choose_device(name)
    if str(device) == "cuda" and torch.cuda.device_count() > 1:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [name]
