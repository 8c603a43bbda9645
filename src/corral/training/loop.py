"""The training loop: epochs of any method, with a warm start, validation, checkpoints and resume."""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import corral
from corral.attacks import PgdProtocol
from corral.data import DataSet, Images, load, split_validation, stratified_subset
from corral.data.augment import crop_and_flip
from corral.devices import choose_device, device_name
from corral.errors import CorralError, UsageError
from corral.files import write_atomically
from corral.models import BackboneSpec, Classifier, ClusterHead, ModelSpec, build_classifier
from corral.progress import Progress, duration
from corral.training.board import Board
from corral.training.checkpoints import (
    load_optimiser,
    load_tensors,
    optimiser_tensors,
    read_checkpoint,
    write_checkpoint,
)
from corral.training.features import evaluating
from corral.training.methods import Context, Method, Nominal, build_method
from corral.training.recipe import Recipe, TrainingConfig, load_recipe
from corral.training.run import RunFolder, RunInfo, read_metrics, save_model

# Validation's own attack: the same for every method, cheap, and never a result.
VALIDATION = PgdProtocol("validation", "PGD-10", 10, 1, None, "cross_entropy", "cross_entropy", "best")


def train(
    recipe: str | Path | Recipe,
    *,
    data: str | None = None,
    out: str | Path,
    data_root: str | Path | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    progress: bool = True,
    **overrides: Any,
) -> Path:
    """Train a classifier by a recipe into a run folder.

    Args:
        recipe: a shipped recipe's name, a TOML file, a run folder (repeats it), or a Recipe.
        data: data-set name; default the recipe's own. The recipe's values for that set apply.
        out: the run folder; must not hold a run already, unless `resume`.
        data_root: folder of the data-set files; default CORRAL_DATA or the per-user cache.
        resume: continue an interrupted run of the same recipe; a finished one is left as it is.
        device: "cpu", "cuda" ...; default a GPU if there is one.
        progress: show progress on stderr.
        **overrides: recipe keys, as `epochs=3` or `**{"training.epochs": 3}`.

    Returns:
        The run folder, with recipe.toml, metrics.jsonl, checkpoints/, tensorboard/ and model.safetensors.

    Raises:
        UsageError: an unknown recipe, key, value or data set.
        CorralError: the loss is not finite, a file is damaged or cannot be written.
    """
    resolved = load_recipe(recipe, data=data, overrides=overrides)
    folder = RunFolder(Path(out))
    if finished(folder, resolved, resume=resume):
        Progress("", 0, "", enabled=progress).say(f"{folder.path}: finished already")
        return folder.path
    run = Run(resolved, folder, choose_device(device), data_root=data_root, progress=progress)
    run.begin(resume=resume)
    run.execute()
    return folder.path


def finished(folder: RunFolder, recipe: Recipe, *, resume: bool) -> bool:
    """Whether there is nothing left to train in a folder that may be trained in.

    Raises:
        UsageError: the folder holds a run although none is to be resumed, or the other way round, or one of another
            recipe, or something else.
    """
    path = folder.path
    if not folder.recipe.is_file():
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(f"{path}: exists and is not a run; choose another --out")
        if resume:
            raise UsageError(f"{path}: holds no run to resume; leave out --resume to begin one")
        return False
    if not resume:
        raise UsageError(f"{path}: holds a run already; continue it with --resume, or choose another --out")
    words = {"summary", "source"}  # these may be written better without another run coming of it
    before = load_recipe(folder.recipe).model_dump(exclude=words)
    differing = _first_difference(before, recipe.model_dump(exclude=words))
    if differing:
        raise UsageError(f"{path}: the run's recipe differs: {differing}; ask for the same or choose another --out")
    return folder.model.is_file()


def prepare_data(recipe: Recipe, *, root: str | Path | None) -> tuple[DataSet, Images, Images | None]:
    """The data set of a recipe, its training images (subset taken) and the held-out validation images."""
    data = load(recipe.data.name, root=root)
    images, validation = data.train, None
    if recipe.data.validation:
        images, validation = split_validation(images, recipe.data.validation, seed=0)
    if recipe.data.train is not None:
        images = stratified_subset(images, recipe.data.train, seed=0)
    return data, images, validation


class Run:
    """One training run: everything that an epoch needs, and what a checkpoint must hold."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        device: torch.device,
        *,
        data_root: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        self.recipe, self.folder, self.device, self.progress = recipe, folder, device, progress
        self.data, images, validation = prepare_data(recipe, root=data_root)
        if len(images) < 2:
            raise UsageError(f"training needs at least 2 images, found {len(images)}: raise data.train")
        if recipe.data.crop >= min(images.shape[1:]):
            raise UsageError(f"data.crop {recipe.data.crop} moves images of {images.shape[1:]} pixels out of sight")
        self.images = images.to(device)
        self.validation = None if validation is None else validation.to(device)
        seed = recipe.training.seed
        self.order = torch.Generator(device).manual_seed(seed)
        self.noise = torch.Generator(device).manual_seed(seed + 1_000_003)
        self.model = self._make_model(seed)
        context = Context(
            model=self.model,
            images=self.images,
            num_classes=len(self.data.classes),
            threat=recipe.threat,
            batch_size=recipe.training.batch_size,
            order=self.order,
            noise=self.noise,
        )
        self.warm: Method = Nominal(context)
        self.method: Method = build_method(recipe.method, context)
        self.epoch, self.seconds, self.best, self.warm_epochs = 0, 0.0, -1.0, recipe.training.warm_start.epochs
        self.validated: dict[str, float] = {}
        self.optimiser: torch.optim.Optimizer

    def _make_model(self, seed: int) -> Classifier:
        config, pixels = self.recipe.model, self.images.float()
        mean = pixels.mean((0, 2, 3)).tolist()
        std = pixels.std((0, 2, 3)).clamp_min(1e-3).tolist()
        backbone = BackboneSpec.model_validate(
            {"name": config.backbone, **config.model_dump(exclude={"backbone"}, exclude_none=True)}
        )
        self.backbone_spec, self.mean, self.std = backbone, tuple(mean), tuple(std)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_classifier(self._spec("linear"))
        return model.to(self.device)

    def _spec(self, head: str) -> ModelSpec:
        kind: dict[str, Any] = {"head": head}
        if head == "cluster":
            own = self.model.head
            assert isinstance(own, ClusterHead)
            kind |= {"rule": own.rule, "clusters": len(own.centroids)}
        return ModelSpec(
            backbone=self.backbone_spec,
            image_shape=self.images.shape,
            num_classes=len(self.data.classes),
            mean=self.mean,
            std=self.std,
            **kind,
        )

    @property
    def total_epochs(self) -> int:
        """Warm and main epochs together."""
        return self.warm_epochs + self.recipe.training.epochs

    @property
    def warming(self) -> bool:
        """Whether the next epoch belongs to the warm start."""
        return self.epoch < self.warm_epochs

    def begin(self, *, resume: bool) -> None:
        """Claim the folder, or take up where it was left."""
        if resume and self.folder.state.is_file():
            self._restore()
            return
        write_atomically(self.folder.recipe, self.recipe.to_toml().encode())
        if self.folder.metrics.is_file():  # of a run that was killed before its first checkpoint
            write_atomically(self.folder.metrics, b"")
        self._enter_phase(fresh=True)

    def execute(self) -> None:
        """Run the epochs that are left and write the model."""
        title = f"{self.recipe.name} on {self.data.name}"
        with (
            Board(self.folder.path / "tensorboard", first_epoch=self.epoch + 1) as board,
            Progress(title, 0, "images", enabled=self.progress) as bar,
        ):
            while self.epoch < self.total_epochs:
                bar.total = bar.done + (self.total_epochs - self.epoch) * len(self.images)
                numbers = self._epoch(bar)
                self._save(numbers)
                board.write(numbers, self.epoch)
                bar.say(_line(numbers, self.total_epochs))
            self._finish()
        self._say(f"{self.folder.path}: trained in {duration(self.seconds)}")

    def _epoch(self, bar: Progress) -> dict[str, Any]:
        training, started = self.recipe.training, time.perf_counter()
        warm = self.warming
        method = self.warm if warm else self.method
        self.model.train()
        sums: dict[str, Tensor] = {}
        pending: list[Tensor] = []
        check_every = 1 if self.device.type == "cpu" else 25
        images = seen = steps = 0
        batches = iter(method.batches())
        while True:
            try:
                rows = next(batches, None)
                if rows is None:
                    break
                self._set_learning_rates(images / len(self.images))
                x, y = self._batch(rows)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=training.precision == "bfloat16"):
                    loss, metrics = method.loss(x, y, rows)
            except ValueError:
                # Samplers and attacks refuse numbers that are not finite; the loop knows the step they came from.
                _require_finite(pending, self.epoch, steps - len(pending), self.folder)
                raise
            pending.append(loss.detach())
            if len(pending) == check_every:
                _require_finite(pending, self.epoch, steps - len(pending) + 1, self.folder)
                pending.clear()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            for name, value in {"loss": loss, **metrics}.items():
                sums[name] = sums.get(name, 0) + value.detach() * len(rows)
            images, seen, steps = images + len(rows), seen + len(rows), steps + 1
            bar.advance(len(rows), f"epoch {self.epoch + 1}/{self.total_epochs}")
        if pending:
            _require_finite(pending, self.epoch, steps - len(pending), self.folder)
        self._require_sound_weights(steps)
        numbers: dict[str, Any] = {"epoch": self.epoch + 1, "phase": "warm start" if warm else self.recipe.method.name}
        numbers |= {name: float(total) / seen for name, total in sums.items()}
        numbers |= {"steps": steps, "learning_rate": self.optimiser.param_groups[0]["lr"]}
        numbers |= method.after_epoch()
        _synchronise(self.device)
        elapsed = time.perf_counter() - started
        self.seconds += elapsed
        numbers |= {"epoch_seconds": elapsed, "train_seconds": self.seconds}
        self.epoch += 1
        if self.validation is not None:
            self.validated = self._validate(self.validation)
            numbers |= self.validated
        stop = self.recipe.training.warm_start.stop_accuracy
        if warm and stop > 0 and self.validated["validation_clean"] >= stop:
            self.warm_epochs = self.epoch
        if self.epoch == self.warm_epochs and warm:
            self._enter_phase(fresh=True)
        return numbers

    def _require_sound_weights(self, steps: int) -> None:
        """The last steps' updates have no later loss to show what they did."""
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.model.state_dict().values()):
            kept = _kept(self.folder, self.epoch)
            raise CorralError(
                f"the weights are not finite after step {steps} of epoch {self.epoch + 1}: "
                f"lower the learning rate{kept}"
            )

    def _batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        data, labels = self.recipe.data, self.images.labels
        assert labels is not None
        if not data.crop and not data.flip:
            return self.images.float(rows), labels[rows]
        part = self.images.take(rows)
        pixels = crop_and_flip(part.pixels, padding=data.crop, flip=data.flip, generator=self.order)
        return Images(pixels, labels[rows]).float(), labels[rows]

    def _enter_phase(self, *, fresh: bool) -> None:
        """Set up the head and the optimiser of the phase that the next epoch belongs to."""
        training = self.recipe.training
        rate = training.warm_start.learning_rate if self.warming else training.learning_rate
        extra: list[tuple[nn.Parameter, float]] = []
        shared: list[nn.Parameter] = []
        if not self.warming:
            if fresh:
                self.method.start()
            else:
                self.model.head = self.method.make_head()
            extra, shared = self.method.parameters(), self.method.learned()
        own = {id(parameter) for parameter, _ in extra}
        weights = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]
        groups: list[dict[str, Any]] = [{"params": weights + shared, "lr": rate, "weight_decay": training.weight_decay}]
        groups += [{"params": [parameter], "lr": own_rate, "weight_decay": 0.0} for parameter, own_rate in extra]
        self.rates = [group["lr"] for group in groups]
        if training.optimiser == "adam":
            self.optimiser = torch.optim.Adam(groups)
        else:
            self.optimiser = torch.optim.SGD(groups, lr=rate, momentum=training.momentum)

    def _set_learning_rates(self, share: float) -> None:
        """Learning rates at `share` of the current epoch."""
        if self.warming:
            factor = 0.1 ** sum(self.epoch >= milestone for milestone in self.recipe.training.warm_start.milestones)
        else:
            factor = schedule(self.recipe.training, self.epoch - self.warm_epochs + min(share, 1.0))
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def _validate(self, images: Images) -> dict[str, float]:
        """Clean accuracy and accuracy under a short attack on the held-out images."""
        generator = torch.Generator(self.device).manual_seed(0)
        threat, labels = self.recipe.threat, images.labels
        assert labels is not None
        clean = robust = 0
        with evaluating(self.model):
            for rows in torch.split(torch.arange(len(images), device=self.device), 500):
                x, y = images.float(rows), labels[rows]
                clean += int((self.model(x).argmax(1) == y).sum())
                if threat.eps > 0:
                    x = VALIDATION.attack(self.model, x, y, eps=threat.eps, norm=threat.norm, generator=generator)
                robust += int((self.model(x).argmax(1) == y).sum())
        return {"validation_clean": clean / len(images), "validation_pgd": robust / len(images)}

    def _save(self, numbers: dict[str, Any]) -> None:
        """Checkpoint the state between two epochs; metrics first, resuming drops lines beyond the checkpoint."""
        if self.recipe.training.select == "best" and self.validated and not self.warming:
            score = self.validated["validation_pgd"]
            main = self.epoch > self.warm_epochs
            if main and score > self.best:
                self.best = score
                save_model(self.folder.best, self.model, self._spec(self._kind()), self._info())
        lines = self.folder.metrics.read_text() if self.folder.metrics.is_file() else ""
        write_atomically(self.folder.metrics, (lines + json.dumps(numbers) + "\n").encode())
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimiser.{name}": tensor for name, tensor in optimiser_tensors(self.optimiser).items()}
        if not self.warming:
            tensors |= {f"method.{name}": tensor for name, tensor in self.method.tensors().items()}
        tensors |= {"order": self.order.get_state(), "noise": self.noise.get_state()}
        metadata = {
            "kind": "training",
            "epoch": self.epoch,
            "warm_epochs": self.warm_epochs,
            "seconds": self.seconds,
            "best": self.best,
            "validated": self.validated,
            "data_fingerprint": self.data.fingerprint,
            "device": self.device.type,
        }
        write_checkpoint(self.folder.state, tensors, metadata)

    def _restore(self) -> None:
        path = self.folder.state
        tensors, metadata = read_checkpoint(path, kind="training")
        try:
            self._take(tensors, metadata, path)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:  # parts missing or of other shapes
            reason = f"missing {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise CorralError(
                f"{path}: not a checkpoint of this run ({reason}); delete it to begin again with --resume"
            ) from error
        kept = [entry for entry in read_metrics(self.folder.metrics) if entry["epoch"] <= self.epoch]
        write_atomically(self.folder.metrics, "".join(json.dumps(entry) + "\n" for entry in kept).encode())
        self._say(f"{self.folder.path}: resumed after epoch {self.epoch} of {self.total_epochs}")

    def _take(self, tensors: dict[str, Tensor], metadata: dict[str, Any], path: Path) -> None:
        """Take back what `_save` wrote."""
        if metadata["data_fingerprint"] != self.data.fingerprint:
            found, expected = self.data.fingerprint, metadata["data_fingerprint"]
            raise CorralError(
                f"{path}: the data changed since the run began (fingerprint {found}, was {expected}); restore them"
            )
        if metadata["device"] != self.device.type:
            raise UsageError(
                f"{path}: the run was on {metadata['device']}; resume it with --device {metadata['device']}"
            )
        self.epoch, self.warm_epochs = int(metadata["epoch"]), int(metadata["warm_epochs"])
        if (
            not 0 <= self.epoch <= self.total_epochs
            or not 0 <= self.warm_epochs <= self.recipe.training.warm_start.epochs
        ):
            raise ValueError(
                f"epoch {self.epoch} after {self.warm_epochs} of warm start is outside the recipe's epochs"
            )
        self.seconds, self.best = float(metadata["seconds"]), float(metadata["best"])
        self.validated = dict(metadata["validated"])
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}, "method": {}}
        for name, tensor in tensors.items():
            if "." in name:
                part, rest = name.split(".", 1)
                parts[part][rest] = tensor
        self._enter_phase(fresh=False)
        load_tensors(self.model, parts["model"], path)
        load_optimiser(self.optimiser, parts["optimiser"])
        if not self.warming:
            self.method.load(parts["method"])
        self.order.set_state(tensors["order"])
        self.noise.set_state(tensors["noise"])

    def _finish(self) -> None:
        if self.recipe.training.select == "best" and self.folder.best.is_file():
            tensors, metadata = read_checkpoint(self.folder.best, kind="model")
            metadata["info"]["train_seconds"] = self.seconds  # the choice cost the whole run
            write_checkpoint(self.folder.model, tensors, metadata)
        else:
            save_model(self.folder.model, self.model, self._spec(self._kind()), self._info())

    def _kind(self) -> str:
        return "cluster" if isinstance(self.model.head, ClusterHead) else "linear"

    def _info(self) -> RunInfo:
        return RunInfo(
            recipe=self.recipe.name,
            method=self.recipe.method.name,
            data=self.data.name,
            data_fingerprint=self.data.fingerprint,
            classes=list(self.data.classes),
            norm=self.recipe.threat.norm,
            eps=self.recipe.threat.eps,
            seed=self.recipe.training.seed,
            epochs=self.epoch,
            train_images=len(self.images),
            train_seconds=self.seconds,
            validation=self.validated,
            corral=corral.__version__,
            torch=torch.__version__,
            device=device_name(self.device),
        )

    def _say(self, text: str) -> None:
        Progress("", 0, "", enabled=self.progress).say(text)


def schedule(training: TrainingConfig, epochs: float) -> float:
    """The learning rate's factor after `epochs` (a fraction counts) of the main phase."""
    if training.schedule == "cosine":
        return (1 + math.cos(math.pi * epochs / training.epochs)) / 2
    if training.schedule == "steps":
        return float(0.1 ** sum(int(epochs) >= milestone for milestone in training.milestones))
    return 1.0


def _require_finite(losses: list[Tensor], epoch: int, first_step: int, folder: RunFolder) -> None:
    if not losses or bool((finite := torch.isfinite(torch.stack(losses))).all()):
        return
    step = first_step + int((~finite).nonzero()[0]) + 1
    kept = _kept(folder, epoch)
    raise CorralError(f"the loss is not finite at step {step} of epoch {epoch + 1}: lower the learning rate{kept}")


def _kept(folder: RunFolder, epoch: int) -> str:
    return f"; the checkpoint of epoch {epoch} is kept in {folder.state}" if folder.state.is_file() else ""


def _first_difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = _first_difference(before, after, f"{prefix}{key}.")
            if inner:
                return inner
        elif before != after:
            return f"{prefix}{key} is {before!r}, asked for {after!r}"
    return ""


def _line(numbers: dict[str, Any], total: int) -> str:
    shown = [f"epoch {numbers['epoch']}/{total} ({numbers['phase']})", f"loss {numbers['loss']:.4f}"]
    if "validation_clean" in numbers:
        clean, robust = numbers["validation_clean"], numbers["validation_pgd"]
        shown.append(f"validation clean {100 * clean:.1f}%, PGD {100 * robust:.1f}%")
    return "  ".join([*shown, f"{numbers['epoch_seconds']:.1f} s"])


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
