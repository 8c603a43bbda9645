"""What two processes do together for the tests of this folder: `job.py FOLDER`, one of them writes to it."""

import atexit
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from tests.distributed.trainings import MEASURED, TRAININGS, train

import corral
from corral.distributed import ranks, rows
from corral.distributed.batch_norm import Synchronised
from corral.distributed.launch import shared
from corral.errors import CorralError
from corral.geometry import kmeans, mean_width
from corral.models import Classifier, LinearHead
from corral.models.backbones.resnet import ResNet


def whole_batch() -> dict[str, float]:
    """How far gradients of a split batch are from those of a whole one, of a loss that couples all images."""
    found = {}
    for count in (8, 7):  # 7: the processes have unequal parts
        torch.manual_seed(0)
        model = Classifier(ResNet(1, width=2), LinearHead(16, 3), [0.5], [0.5]).double()
        x = torch.rand(count, 1, 8, 8, dtype=torch.float64)

        def loss(images: torch.Tensor, model: Classifier = model) -> torch.Tensor:
            both = model.features(torch.cat([images, images.flip(3)]))
            logits = model(images)
            return torch.logsumexp(both @ both.T / 9, 1).mean() + (logits - logits.mean(0)).square().sum()

        results = []
        for together in (False, True):
            model.zero_grad()
            for buffer in model.buffers():  # BatchNorm's
                buffer.copy_(torch.ones_like(buffer) if buffer.dim() else torch.zeros_like(buffer))
            images = x.clone().requires_grad_()
            if together:
                with rows.split(count), Synchronised():
                    value = loss(rows.only_own(images))
            else:
                value = loss(images)
            value.backward()
            weights = [weight.grad for weight in model.parameters()]
            if together:
                ranks.average(weights)
            own = list(range(ranks.rank(), count, 2))
            results.append([value.detach(), *weights, images.grad[own], *model.buffers()])
            results[-1] = [one.clone() for one in results[-1]]
        pairs = list(zip(*results, strict=True))
        found[f"whole {count}"] = max(float((one - other).abs().max()) for one, other in pairs)
    return found


def batch_norm() -> dict[str, float]:
    """How far BatchNorm of parts is from that of the whole, in bfloat16 and without weights too."""
    found = {}
    for name, dtype, affine in (("float64", torch.float64, True), ("bfloat16", torch.bfloat16, False)):
        torch.manual_seed(1)
        x = (3 * torch.randn(10, 5, 4, 4) + 100).to(dtype)
        weight, bias = (torch.rand(5, dtype=dtype), torch.rand(5, dtype=dtype)) if affine else (None, None)
        own = slice(0, 3) if ranks.rank() == 0 else slice(3, 10)
        wide = (one if one is None else one.double() for one in (x, None, None, weight, bias))
        expected = F.batch_norm(*wide, True)[own]
        with Synchronised():
            y = F.batch_norm(x[own], None, None, weight, bias, True)
        found[f"batch norm {name}"] = float((y - expected).abs().max())
        assert y.dtype == dtype
    return found


def clusters() -> dict[str, list[float]]:
    """How far k-means of two blocks is from that of all points, in centroids, assignments, inertia and silhouette."""
    found = {}
    generator = torch.Generator().manual_seed(3)
    spread = 3 * torch.randn(8, 6, generator=generator)
    for count in (501, 4001):  # 4001: points whose cluster cannot have changed are skipped
        points = torch.randn(count, 6, generator=generator) + spread[torch.arange(count) % 8]
        block = points.tensor_split(2)[ranks.rank()]
        for spherical, seeding in ((False, "k-means++"), (True, "afk-mc2")):
            options = {"spherical": spherical, "seeding": seeding, "restarts": 3}
            whole, part = (
                kmeans(x, 9, generator=torch.Generator().manual_seed(5), shared=shared_, **options)
                for x, shared_ in ((points, False), (block, True))
            )
            assignments = torch.cat(ranks.gathered(part.assignments))
            found[f"{count} {seeding}"] = [
                float((whole.centroids - part.centroids).abs().max()),
                int((whole.assignments != assignments).sum()),
                abs(float(part.inertia / whole.inertia) - 1),
                abs(mean_width(points, assignments) - mean_width(block, part.assignments, shared=True)),
            ]
    few = points[torch.arange(40) % 5]  # fewer points that differ than clusters
    part = kmeans(few.tensor_split(2)[ranks.rank()], 9, generator=torch.Generator().manual_seed(0), shared=True)
    found["few"] = [0, 0, float(part.inertia), 0]
    return found


def failures() -> dict[str, str]:
    """What every process raises where one of them fails."""
    found = {}

    def fail() -> None:
        raise CorralError("no such thing")

    for name, attempt in (
        ("first", lambda: ranks.on_first(fail)),
        ("other", lambda: ranks.agreed(fail if ranks.rank() == 1 else lambda: None)),
        ("differing", lambda: ranks.require_equal("the data", ranks.rank())),
    ):
        try:
            attempt()
        except CorralError as error:
            found[name] = str(error)
    return found


def say_what_is_left(path: Path) -> None:
    """The names of this process's threads, where the group's are gone."""
    threads = []
    for task in sorted(Path("/proc/self/task").glob("*/comm")):
        with suppress(OSError):  # it has just ended
            threads.append(task.read_text().strip())
    path.write_text(json.dumps({"joined": torch.distributed.is_initialized(), "threads": threads}))


def main(folder: Path) -> None:
    """Train, measure, and write what is compared."""
    torch.set_num_threads(1)
    # What is registered first is called last.
    atexit.register(say_what_is_left, folder / f"left-{os.environ['RANK']}.json")
    with shared(None, None):
        found = whole_batch() | batch_norm()
        clustered = clusters()
        raised = failures()
        said = ranks.everyones(raised)
    for name in TRAININGS:
        train(name, folder / name)
    corral.evaluate(folder / "at", **MEASURED)
    corral.evaluate(folder / "at", protocol="screening", **MEASURED)
    corral.certify(folder / "certified", radii=[0.5], **MEASURED)
    record = corral.audit(str(folder / "at"), eps=0.3, n=30, minutes=60, progress=False)
    if ranks.speaks():
        (folder / "audit.json").write_text(record.model_dump_json())
        (folder / "found.json").write_text(json.dumps({"distances": found, "raised": said, "clusters": clustered}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
