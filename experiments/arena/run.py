"""One run of the arena: trained or taken up, measured, and its row added to the results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corral.attacks.threat import Threat
from corral.devices import choose_device
from corral.evaluation import evaluate
from corral.evaluation.evaluate import record_label
from corral.models.fingerprint import fingerprint
from corral.papers.entries import SeedResult, Trained, Worst, row_entries
from corral.papers.lines import RowKey, content_id
from corral.papers.result import packed
from corral.papers.store import Store, changing, read_store
from corral.progress import Progress
from corral.records import Record, environment, now, read_record
from corral.report.runs.collect import read_run
from corral.report.runs.outcomes import CLEAN
from corral.report.words import WORST_CASE
from corral.training import Run, load_model, train
from corral.training.guards import DivergedError
from corral.training.start import data_of, prepare_data

from .definition import Arena
from .plan import DIVERGED, Job, averaged_twins, line_of
from .unaveraged import begin_unaveraged


def make(
    arena: Arena,
    job: Job,
    *,
    runs: Path,
    results: Path,
    data_root: Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> bool:
    """Make a run and add its row; a killed call is taken up by the next, and a row that is there is not made again.

    Returns:
        Whether there was something to do.
    """
    if line_of(read_store(results), job) is not None:
        return False
    where: dict[str, Any] = {"data_root": data_root, "device": device, "progress": progress}
    path = runs / job.task / job.folder
    for name in averaged_twins(arena, job):
        begin_unaveraged(job.recipe, path, runs / job.task / name)
    try:
        folder = train(job.recipe, out=path, resume="auto", **where)
    except DivergedError as error:
        if job.stage == "final":
            raise
        # Settings that a method cannot be trained with are a result of the search.
        Progress("", 0, "", enabled=progress).say(f"{path}: {error}")
        record = _diverged(job, where)
        found = _entries(job, record, {}, Trained(0.0, None, None, None), 0)
    else:
        record, kept = (_screened if job.stage == "screen" else _attacked)(arena, job, folder, where)
        info = load_model(folder.path)[2]
        trained = Trained(info.train_seconds, info.work_seconds, info.work_clock, info.ending)
        found = _entries(job, record, kept, trained, info.train_images)
    with changing(results) as store:
        store.add(with_other_seeds(found, store))
    return True


def _attacked(arena: Arena, job: Job, folder: Run, where: Mapping[str, Any]) -> tuple[Record, dict[str, str]]:
    """The record of the task's protocol on test images, and which are classified right: the test set's one use."""
    model, _, info = load_model(folder.path)
    task = arena.of_task(job.task)
    own = Threat(info.norm, info.eps)
    n_test = len(data_of(folder, info, data=None, root=where["data_root"]).test)
    label = record_label(task.protocol, n=task.n or n_test, n_test=n_test, threat=own, own=own, seed=0)
    if not _is_of(folder.records_folder / f"{label}.json", fingerprint(model)):
        evaluate(folder.path, protocol=task.protocol, n=task.n, **where)
    return _read(folder.path, label)


def _screened(arena: Arena, job: Job, folder: Run, where: Mapping[str, Any]) -> tuple[Record, dict[str, str]]:
    """The record of the screening's attacks on the held-out training images, and which are classified right."""
    model, _, info = load_model(folder.path)
    attacks = arena.of_task(job.task).screen.attacks
    data, _, held_out = prepare_data(job.recipe, root=where["data_root"])
    assert held_out is not None
    assert held_out.labels is not None
    own, n, place = Threat(info.norm, info.eps), len(held_out), folder.path / f"screen-{content_id(*attacks)}"
    label = record_label("custom", n=n, n_test=n, threat=own, own=None, seed=0)
    if not _is_of(place / "records" / f"{label}.json", fingerprint(model)):
        given = {"threat": own, "attacks": attacks, "out": place, "device": where["device"]}
        evaluate(model, (held_out.float(), held_out.labels), progress=where["progress"], **given)
    record, kept = _read(place, label)
    # It was measured as a module on tensors: what is the run's is said here.
    return record.model_copy(
        update={
            "run": folder.path.name,
            "kind": "run",
            "recipe": info.recipe,
            "method": info.method,
            "data": info.data,
            "data_fingerprint": info.data_fingerprint,
            "n_test": len(data.test),
            "train_seed": info.seed,
            "classes": info.classes,
            "protocol": "screen",
        }
    ), kept


def _is_of(path: Path, weights: str) -> bool:
    """Whether a record lies there that is of these weights."""
    return path.is_file() and read_record(path).model_fingerprint == weights


def _read(place: Path, label: str) -> tuple[Record, dict[str, str]]:
    record, _, outcomes = read_run(place, [label])[0]
    return record, {name: packed(found) for name, found in outcomes.items() if name in (CLEAN, WORST_CASE)}


def _diverged(job: Job, where: Mapping[str, Any]) -> Record:
    """A record of a training that ended without a model: no image is classified right."""
    data, _, held_out = prepare_data(job.recipe, root=where["data_root"])
    assert held_out is not None
    return Record(
        run=job.folder,
        recipe=job.recipe.name,
        method=job.recipe.method.name,
        head="none",
        rule=None,
        data=data.name,
        data_fingerprint=data.fingerprint,
        model_fingerprint=DIVERGED,
        n=len(held_out),
        n_test=len(data.test),
        train_seed=job.seed,
        train_seconds=0.0,
        created=now(),
        environment=environment(choose_device(where["device"])),
        classes=list(data.classes),
        reduced=len(held_out) < len(data.test),
        norm=job.recipe.threat.norm,
        eps=job.recipe.threat.eps,
        clean=0.0,
        clean_per_class=[0.0 for _ in data.classes],
        attacks=[],
        eval_seed=0,
        eval_seconds=0.0,
        protocol="screen",
    )


def _entries(job: Job, record: Record, kept: dict[str, str], trained: Trained, images: int) -> Store:
    """The lines of a run that was trained on so many images, its training's passes among them."""
    robust = round(min((attack.accuracy for attack in record.attacks), default=record.clean) * record.n)
    one = SeedResult(
        run=job.folder,
        seed=job.seed,
        records={1.0: [record]},
        outcomes={1.0: kept},
        worst={1.0: Worst(robust, kept.get(WORST_CASE, ""))},
        analyses=[],
        trained=trained,
    )
    found = row_entries(job.key, [one], recipe=job.recipe.name, rule=None, eps=job.recipe.threat.eps, columns="")
    epochs = job.epochs if trained.ending is None else trained.ending.epochs  # some methods stop themselves
    forwards = round((epochs * job.cost.forwards + job.cost.once) * images)
    backwards = round(epochs * job.cost.backwards * images)
    counts = {"epochs": epochs, "forwards": forwards, "backwards": backwards} if images else {}
    found.runs = {key: run.model_copy(update=counts) for key, run in found.runs.items()}
    return found


def with_other_seeds(found: Store, store: Store) -> Store:
    """Rows of a store beside their other seeds in another, in the order of the seeds."""
    rows: dict[RowKey, Any] = {}
    for key, lines in found.rows.items():
        seeds = {line.seed for line in lines}
        others = [line for line in store.rows.get(key, []) if line.seed not in seeds]
        rows[key] = sorted([*others, *lines], key=lambda line: line.seed)
    return Store(found.runs, found.attacks, found.analyses, rows)
