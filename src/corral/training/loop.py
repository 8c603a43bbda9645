"""The training loop: epochs of any method, with a warm start and validation."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from corral.checkpoints import read_checkpoint, write_checkpoint
from corral.data import AnyData, DataSet, Images, as_float, load
from corral.data.augment import crop_and_flip, cutmix, cutout
from corral.data.crops import Crops
from corral.devices import emulates_bfloat16
from corral.distributed import ranks, rows
from corral.distributed.batch_norm import Synchronised
from corral.files import write_atomically
from corral.models.backbones import BACKBONES, Embedded, is_own
from corral.models.fingerprint import fingerprint
from corral.progress import Progress, duration
from corral.training.clock import Clock
from corral.training.convergence import converged, settled, since_best
from corral.training.guards import FiniteGuard
from corral.training.ingredients.averaging import WeightAverage
from corral.training.ingredients.perturbation import perturbed
from corral.training.ingredients.soft_labels import SoftLabels, class_predictions
from corral.training.lines import epoch_line
from corral.training.loggers import Logged, LoggerKind, opened
from corral.training.methods import Context, Method, Metrics, method_class
from corral.training.methods.nominal import Nominal
from corral.training.optimisers import make_optimiser, schedule
from corral.training.pretrained import begin_from
from corral.training.recipes.files import with_checksum
from corral.training.recipes.recipe import Recipe
from corral.training.run import Run, RunInfo
from corral.training.start import check_head, make_model, prepare_data
from corral.training.state import outcome, restore_state, save_state, save_weights


class Training:
    """One training run: everything that an epoch needs, and what a checkpoint must hold.

    Args:
        recipe: the resolved recipe.
        folder: the run folder.
        device: where to train.
        data: what is trained on, where it is not what the recipe names.
        data_root: folder of the data-set files.
        progress: show progress on stderr.
        loggers: where each epoch's numbers go besides metrics.jsonl.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Run,
        device: torch.device,
        *,
        data: AnyData | None = None,
        data_root: str | Path | None = None,
        progress: bool = True,
        loggers: Sequence[LoggerKind] = (),
    ) -> None:
        self.recipe, self.folder, self.device = recipe, folder, device
        # Of several processes the first one speaks and writes.
        self.progress, self.loggers = progress and ranks.is_first(), loggers if ranks.is_first() else ()

        def prepared() -> tuple[DataSet, Images, Images | None]:
            return prepare_data(recipe, root=data_root, data=None if data is None else load(data))

        self.data, images, validation = ranks.agreed(prepared)
        ranks.require_equal("the data's fingerprint", self.data.fingerprint)
        # Unlabeled images may be more than a device holds: they stay where they are, and batches go to it.
        self.images = images if recipe.data.unlabeled else images.to(device)
        self.validation = None if validation is None else validation.to(device)
        seed = recipe.training.seed
        self.order = torch.Generator(device).manual_seed(seed)
        self.noise = torch.Generator(device).manual_seed(seed + 1_000_003)
        self.spec, model = make_model(recipe, self.images, num_classes=len(self.data.classes))
        self.model = model.to(device)
        ranks.from_first([*self.model.parameters(), *self.model.buffers()])
        context = Context(
            model=self.model,
            images=self.images,
            num_classes=len(self.data.classes),
            threat=recipe.threat,
            batch_size=recipe.training.batch_size,
            epochs=recipe.training.epochs,
            device=device,
            order=self.order,
            noise=self.noise,
            head=self.spec.head,
            soft=SoftLabels(recipe.training.label_smoothing, recipe.training.class_targets),
        )
        self.warm: Method = Nominal(context, Nominal.Options(name=Nominal.name))
        self.method: Method = method_class(recipe.method)(context, recipe.method)
        check_head(recipe, self.spec, self.method)
        self.clock = Clock(device)
        self.epoch, self.best, self.warm_epochs = 0, -1.0, recipe.training.warm_start.epochs
        # Of the method's epochs, without the warm start's: what `training.converged` looks at.
        self.accuracies: list[float] = []
        # Likewise under PGD: what `training.patience` looks at.
        self.robust: list[float] = []
        self.validated: dict[str, float] = {}
        self.started_from: str | None = None
        self.optimiser: torch.optim.Optimizer
        self.average: WeightAverage | None = None
        self.context = context

    @property
    def total_epochs(self) -> int:
        """Warm and main epochs together."""
        return self.warm_epochs + self.recipe.training.epochs

    @property
    def warming(self) -> bool:
        """Whether the next epoch belongs to the warm start."""
        return self.epoch < self.warm_epochs

    @property
    def converged(self) -> bool:
        """Whether the recipe's criterion of convergence is met; never, where it has none."""
        training = self.recipe.training
        rule = training.converged
        return rule is not None and converged(self.accuracies, rule, settled=settled(training))

    @property
    def stopped(self) -> Literal["patience", "collapse"] | None:
        """What else than convergence ends training after the last epoch."""
        training = self.recipe.training
        if self.method.stops and self.method.health == "failed":
            return "collapse"
        patience = training.patience
        if patience is None or since_best(self.robust, settled=settled(training)) < patience:
            return None
        return None if self.converged else "patience"

    @property
    def ended(self) -> bool:
        """Whether no further epoch is made."""
        return self.epoch >= self.total_epochs or self.converged or self.stopped is not None

    def epoch_words(self, number: int) -> str:
        """What a line calls an epoch, by its number from 1 in metrics.jsonl: the warm start's are counted apart."""
        if number <= self.warm_epochs:
            return f"warm start {number}/{self.warm_epochs}"
        return f"epoch {number - self.warm_epochs}/{self.recipe.training.epochs}"

    def begin(self, *, resume: bool) -> None:
        """Begin the run in its folder, or resume it."""
        if ranks.on_first(lambda: resume and self.folder.state_file.is_file()):
            ranks.agreed(lambda: restore_state(self))
            return
        if self.recipe.training.start is not None:
            start = self.recipe.training.start
            as_encoder = self.method.continues_from == "encoder"
            ranks.agreed(lambda: begin_from(self.model, start, normalised=as_encoder))
            self.take_normalisation()
        if self.recipe.training.start is not None or not is_own(BACKBONES[self.recipe.model.backbone]):
            self.started_from = fingerprint(self.model.backbone)
        ranks.on_first(self._write_recipe)
        try:
            self.enter_phase(fresh=True)
        except Exception:  # such a run cannot begin: another may in this folder
            if ranks.is_first():
                self.folder.recipe_file.unlink()
                self.folder.metrics_file.unlink(missing_ok=True)
            raise

    def _write_recipe(self) -> None:
        """Write the recipe, and remove what a run left that was killed before its first checkpoint."""
        folder = self.folder
        write_atomically(folder.recipe_file, with_checksum(self.recipe.to_toml()).encode())
        for path in (folder.metrics_file, folder.best_file, folder.sound_file):
            path.unlink(missing_ok=True)

    def take_normalisation(self) -> None:
        """Copy the model's normalisation, which another run's weights may have set, into the spec."""
        buffers = self.model.normalisation.named_buffers()
        self.spec = self.spec.model_copy(update={name: tuple(numbers.tolist()) for name, numbers in buffers})

    def execute(self) -> None:
        """Run the remaining epochs and write the model."""
        title = f"{self.recipe.name} on {self.data.name}"
        if self.recipe.preset is not None:
            self.say(f"{self.data.name}: settings of the preset {self.recipe.preset!r}; `corral recipes` shows them")
        if not is_own(BACKBONES[self.recipe.model.backbone]):
            inside = self.model.backbone
            inside = inside.backbone if isinstance(inside, Embedded) else inside
            self.say(f"backbone {self.spec.backbone.name}: {inside.features_dim} features, {inside.features_source}")
        if self.recipe.training.precision == "bfloat16" and emulates_bfloat16(self.device):
            self.say("this CPU has no instructions for bfloat16: float32 is 2 to 10 times as fast here")
        if any(word in self.data.note for word in ("skipped", "ignored", "split off")):
            self.say(f"{self.data.name}: {self.data.note}")
        logged = Logged(self.folder.path, self.recipe.model_dump(exclude_none=True), first_epoch=self.epoch + 1)
        with opened(self.loggers, logged) as log, Progress(title, 0, "images", enabled=self.progress) as bar:
            while not self.ended:
                bar.total = bar.done + self._images_left()
                words = self.epoch_words(self.epoch + 1)  # before the epoch, which may end the warm start early
                numbers = self._epoch(bar)
                ranks.on_first(partial(self._save, numbers))
                log(numbers, self.epoch)
                bar.say(epoch_line(words, numbers))
            ranks.on_first(self._finish)
        ending = outcome(self)["ending"]
        how = "" if ending is None else f", {ending.words()}"
        self.say(f"{self.folder.path}: trained in {duration(self.clock.wall)}{how}")

    def _images_left(self) -> int:
        """The images of the remaining epochs, counting replays."""
        warm = max(self.warm_epochs - self.epoch, 0)
        main = self.total_epochs - self.epoch - warm
        return (warm * self.warm.replays + main * self.method.replays) * len(self.images)

    def _epoch(self, bar: Progress) -> dict[str, Any]:
        warm, before = self.warming, self.clock.wall
        work = self.clock.work
        with self.clock.running():
            numbers = self._steps(bar)
            self._same_everywhere()
        self._count_work(work)
        numbers |= {"epoch_seconds": self.clock.wall - before, "train_seconds": self.clock.wall}
        numbers |= {} if self.clock.work is None else {"work_seconds": self.clock.work}
        self.epoch += 1
        if self.average is not None:
            self.average.after_epoch(self.epoch - self.warm_epochs)
        if self.recipe.training.class_targets > 0 and not warm:
            with self.clock.running(), self.averaged():
                self.context.soft.class_means = class_predictions(self.model, self.images, len(self.data.classes))
        if self.validation is not None:
            with self.averaged():
                self.validated = (self.warm if warm else self.method).validated(self.validation)
            numbers |= self.validated
        if self.recipe.training.converged is not None and not warm:
            self.accuracies.append(self.validated["validation_clean"])
            numbers |= {"converged": self.converged}
        if self.recipe.training.patience is not None and not warm:
            self.robust.append(self.validated["validation_pgd"])
            numbers |= {"epochs_since_best": since_best(self.robust, settled=settled(self.recipe.training))}
        if not warm:
            numbers |= self.method.monitored(self.validation, last=self.ended)
        stop = self.recipe.training.warm_start.stop_accuracy
        if warm and stop > 0 and self.validated["validation_clean"] >= stop:
            self.warm_epochs = self.epoch
        if self.epoch == self.warm_epochs and warm:
            self.enter_phase(fresh=True)
        return numbers

    def _same_everywhere(self) -> None:
        """Average local BatchNorm's statistics over all processes, and have the first one's clusters in all.

        Raises:
            CorralError: the weights, which all move alike, are not the same in all.
        """
        if ranks.size() == 1:
            return
        if self.recipe.training.batch_norm == "local":
            averaged = [] if self.average is None else self.average.mean.buffers()
            ranks.average([one for one in (*self.model.buffers(), *averaged) if one.is_floating_point()])
        ranks.require_equal(f"the weights after epoch {self.epoch + 1}", fingerprint(self.model.backbone))
        held = [] if self.warming else list(self.method.tensors().values())
        ranks.from_first([*self.model.state_dict().values(), *held])

    def _count_work(self, before: float | None) -> None:
        """Count the work of all processes since it was `before`."""
        if ranks.size() > 1 and before is not None and self.clock.work is not None:
            self.clock.work = before + sum(ranks.everyones(self.clock.work - before))

    def _steps(self, bar: Progress) -> dict[str, Any]:
        """An epoch's steps and what the method does after them; returns numbers to log."""
        training, warm = self.recipe.training, self.warming
        method = self.warm if warm else self.method
        self.model.train()
        sums: dict[str, Tensor] = {}
        words = self.epoch_words(self.epoch + 1)
        guard = FiniteGuard(self.model, words, self.epoch_words(self.epoch), self.folder, self.device)
        seen = 0
        batches = self._read(method)
        while True:
            try:
                if (found := next(batches, None)) is None:
                    break
                indices, stored = found
                share = seen / (method.replays * len(self.images))
                self._set_learning_rates(share)
                self._set_eps(share)
                x, y = self._batch(indices, stored)
                with self._shared(len(x)):
                    loss, metrics = self._backward(method, rows.only_own(x), y, indices)
            except ValueError:
                # Samplers and attacks refuse numbers that are not finite; the guard knows the step they came from.
                guard.check()
                raise
            guard.add(loss)
            moving = [weight for group in self.optimiser.param_groups for weight in group["params"]]
            ranks.average([weight.grad for weight in moving])
            if training.clip_gradient is not None:
                torch.nn.utils.clip_grad_norm_(moving, training.clip_gradient)
            self.optimiser.step()
            method.after_step()
            if self.average is not None:
                self.average.after_step()
            for name, value in {"loss": loss, **metrics}.items():
                sums[name] = sums.get(name, 0) + value.detach() * len(indices)
            seen += len(indices)
            bar.advance(len(indices), words)
        guard.check()
        guard.check_weights()
        return {
            "epoch": self.epoch + 1,
            "phase": "warm start" if warm else self.recipe.method.name,
            **{name: float(total) / seen for name, total in sums.items()},
            "steps": guard.steps,
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            **method.after_epoch(),
        }

    @contextmanager
    def _shared(self, count: int) -> Iterator[None]:
        """Share a batch of `count` images with the other processes, where there are any."""
        synchronised = rows.splits(count) and self.recipe.training.batch_norm is None
        with rows.split(count), Synchronised() if synchronised else nullcontext():
            yield

    def _loss(self, method: Method, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        mixed = self.recipe.training.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            return method.loss(x, y, indices)

    def _backward(self, method: Method, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        """The batch's loss, its gradients in the weights, and what to log; of perturbed weights where AWP has begun."""
        awp = self.recipe.training.perturbation
        place: AbstractContextManager[None] = nullcontext()
        if awp is not None and not self.warming and self.epoch - self.warm_epochs >= awp.warm_up:
            first = partial(self._loss, method, x, y, indices)
            chance = self.order, self.noise
            place = perturbed(self.model, first, awp.gamma, adversaries=self.context.adversaries, chance=chance)
        with place:
            found, metrics = self._loss(method, x, y, indices)
            self.optimiser.zero_grad(set_to_none=True)
            found.backward()  # type: ignore[no-untyped-call]
        return found, metrics

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Hold the network at its averaged weights, with what follows the features fitted to them, where it has any."""
        if self.average is None or not self.average.begun:
            yield
            return
        with self.average.swapped():
            self.method.fit_average()
            yield

    def _read(self, method: Method) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch's batches with their stored pixels, or random parts of these; a repeated batch is read once.

        Of several processes each reads the images whose features it computes; where images are mixed, all.

        The parts are drawn by a generator that begins each epoch at a number of the order's: however far ahead images
        are read, the same.
        """
        least, images, crops = self.recipe.data.random_resized_crop, self.images, None
        if least:
            seed = int(torch.randint(2**62, (), generator=self.order, device=self.order.device))
            images, crops = images.whole(), Crops(least, torch.Generator().manual_seed(seed))
        needed = None if self.recipe.data.cutmix else rows.own_rows
        if method.batches_ahead:
            yield from images.each(method.batches(), crops, needed)
            return
        before, stored = None, torch.empty(0)
        for indices in method.batches():
            if indices is not before:
                before, stored = indices, images.stored(indices, crops, needed)
            yield indices, stored

    def _batch(self, indices: Tensor, stored: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Augmented images in [0, 1] and labels of a batch, whose stored pixels were read before or are read now."""
        data, images = self.recipe.data, self.images
        stored = images.stored(indices) if stored is None else stored
        # Methods without labels get zeros.
        none = torch.zeros(len(indices), dtype=torch.int64, device=self.device)
        labels = none if images.labels is None else images.labels[indices]
        if not (data.crop or data.flip or data.cutout or data.cutmix):
            return as_float(stored).to(self.device), labels
        pixels = stored.to(self.device)
        pixels = crop_and_flip(pixels, padding=data.crop, flip=data.flip, generator=self.order)
        pixels = cutout(pixels, side=data.cutout, generator=self.order)
        if data.cutmix and not self.warming:
            pixels, others, shares = cutmix(pixels, generator=self.order)
            self.context.soft.mixed = labels[others], shares
        return as_float(pixels), labels

    def enter_phase(self, *, fresh: bool) -> None:
        """Set up the head and the optimiser of the phase that the next epoch belongs to.

        Args:
            fresh: the phase begins, rather than being taken up from a checkpoint.
        """
        training = self.recipe.training
        learning_rate = training.warm_start.learning_rate if self.warming else training.learning_rate
        method = self.warm if self.warming else self.method
        if not self.warming:
            method.prepare()
            if fresh:
                with self.clock.running():
                    method.start()
            else:
                self.model.head = method.make_head()
        extra = method.parameters()
        own = {id(parameter) for parameter, _ in extra}
        weights = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own] + method.learned()
        groups: list[dict[str, Any]] = [{"params": weights, "lr": learning_rate, "weight_decay": training.weight_decay}]
        groups += [{"params": [parameter], "lr": own_lr, "weight_decay": 0.0} for parameter, own_lr in extra]
        self.learning_rates = [group["lr"] for group in groups]
        self.optimiser = make_optimiser(groups, training)
        if training.weight_averaging is not None and not self.warming:
            self.average = WeightAverage(self.method.averaged(), training.weight_averaging)
            self.context.averaged_model = self.average.model

    def _set_eps(self, share: float) -> None:
        """The share of eps that is trained for at `share` of the current epoch."""
        rising = self.recipe.training.eps_warm_up
        if rising is not None and not self.warming:
            self.context.eps_share = min((self.epoch - self.warm_epochs + share) / rising, 1.0)

    def _set_learning_rates(self, share: float) -> None:
        """Learning rates at `share` of the current epoch."""
        if self.warming:
            factor = 0.1 ** sum(self.epoch >= milestone for milestone in self.recipe.training.warm_start.milestones)
        else:
            factor = schedule(self.recipe.training, self.epoch - self.warm_epochs + min(share, 1.0))
        for group, learning_rate in zip(self.optimiser.param_groups, self.learning_rates, strict=True):
            group["lr"] = learning_rate * factor

    def _save(self, numbers: dict[str, Any]) -> None:
        """Checkpoint the state between two epochs; metrics first, resuming drops lines beyond the checkpoint."""
        main = self.epoch > self.warm_epochs
        kept = None
        if self.recipe.training.select == "best":
            if main and self.validated and self.validated["validation_pgd"] > self.best:
                self.best, kept = self.validated["validation_pgd"], self.folder.best_file
        elif main and self.method.stops and self.method.health == "sound":
            kept = self.folder.sound_file
        if kept is not None:
            with self.averaged():
                save_weights(self, kept)
        lines = self.folder.metrics_file.read_text(encoding="utf-8") if self.folder.metrics_file.is_file() else ""
        # What a method could not measure, such as the accuracy on no image, is null: JSON has no NaN.
        line = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in numbers.items()
        }
        write_atomically(self.folder.metrics_file, (lines + json.dumps(line) + "\n").encode())
        save_state(self)

    def _finish(self) -> None:
        kept = self.folder.sound_file if self.stopped == "collapse" else None
        if self.recipe.training.select == "best" and self.folder.best_file.is_file():
            kept = self.folder.best_file
        if kept is not None:
            tensors, metadata = read_checkpoint(kept, kind="model")
            info = RunInfo.model_validate(metadata["info"] | outcome(self))  # the choice cost the whole run
            metadata["info"] = info.model_dump(mode="json")
            write_checkpoint(self.folder.model_file, tensors, metadata)
        else:
            with self.averaged():
                save_weights(self, self.folder.model_file)
        self.folder.sound_file.unlink(missing_ok=True)

    def say(self, text: str) -> None:
        """Show a line where progress is shown.

        Args:
            text: the line.
        """
        Progress("", 0, "", enabled=self.progress).say(text)
