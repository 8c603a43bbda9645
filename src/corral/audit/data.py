"""The images of an audit, in an order in which every first part is a fair sample of them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from corral.data import DataSet, Images, load, stratified_subset


@dataclass(frozen=True)
class AuditImages:
    """What is audited on: the images in their order, and where they come from."""

    data: DataSet
    images: Images
    labels: Tensor
    available: int
    note: str


def audit_images(
    data: str | DataSet,
    *,
    n: int | None,
    seed: int,
    root: str | Path | None,
    device: torch.device,
    trained_on: str | None = None,
) -> AuditImages:
    """Load the test images; all images of a source that has no test part of its own.

    Args:
        data, root: as `corral.data.load` takes them; or a data set.
        n: a class-balanced subset of this many; default all.
        seed: of the order.
        device: where the images go.
        trained_on: fingerprint of the data that the model was trained on, where it is a run: of these only the test
            part is new to it.

    Raises:
        UsageError: an unknown data set or an impossible n.
        CorralError: data that are absent or damaged.
    """
    found = load(data, root=root) if isinstance(data, str) else data
    images, note = found.test, found.note
    if found.split_off and found.fingerprint != trained_on:
        parts = (found.train, found.test)
        labels = torch.cat([part.labels for part in parts if part.labels is not None])
        images = Images(torch.cat([part.pixels for part in parts]), labels)
        note = f"{note.split(';')[0]}; all {len(images):,} images, the source has no test part"
    available = len(images)
    if n is not None and n != available:
        images = stratified_subset(images, n, seed=0)
    assert images.labels is not None
    images = images.take(_fair_order(images.labels, seed)).to(device)
    assert images.labels is not None
    return AuditImages(found, images, images.labels, available, note)


def _fair_order(labels: Tensor, seed: int) -> Tensor:
    """(N,) indices in a random order in which every first part holds the classes in their shares, up to one image."""
    host = labels.cpu()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(host), generator=generator)
    position = torch.empty(len(host), dtype=torch.float64)
    for label in set(host.tolist()):
        indices = order[host[order] == label]
        shift = torch.rand((), generator=generator, dtype=torch.float64)
        position[indices] = (torch.arange(len(indices), dtype=torch.float64) + shift) / len(indices)
    return position.argsort(stable=True)
