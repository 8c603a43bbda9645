"""The images of an audit, in an order in which every first part is a fair sample of them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from corral.data import AnyData, Images, Measured, load_measured, stratified_subset


@dataclass(frozen=True)
class AuditImages:
    """What is audited on: the images in their order, and where they come from."""

    data: Measured
    images: Images
    labels: Tensor
    available: int
    note: str


def audit_images(
    data: AnyData,
    *,
    n: int | None,
    seed: int,
    root: str | Path | None,
    device: torch.device,
    trained_on: str | None = None,
) -> AuditImages:
    """Load the test images; all images of a source that has no test part of its own.

    Args:
        data, root, trained_on: as `corral.data.load_measured` takes them.
        n: a class-balanced subset of this many; default all.
        seed: of the order.
        device: where the images go.

    Raises:
        UsageError: an unknown data set, no data, or an impossible n.
        CorralError: data that are absent or damaged.
    """
    found = load_measured(data, root=root, trained_on=trained_on)
    images = found.test
    available = len(images)
    if n is not None and n != available:
        images = stratified_subset(images, n, seed=0)
    assert images.labels is not None
    images = images.take(_fair_order(images.labels, seed)).to(device)
    assert images.labels is not None
    return AuditImages(found, images, images.labels, available, found.note)


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
