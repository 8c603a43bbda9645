"""Norm balls in pixel space: random points, projections and steepest-ascent steps for Linf and L2."""

from typing import Literal

import torch
from torch import Tensor

from corral.attacks.noise import normal, uniform

Norm = Literal["Linf", "L2", "L1"]
# What steepest ascent is written for here; L1 has attacks of its own.
NORMS: tuple[Norm, ...] = ("Linf", "L2")
ALL_NORMS: tuple[Norm, ...] = ("Linf", "L2", "L1")


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """(N,) values shaped to broadcast over (N, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def select(values: Tensor, rows: Tensor) -> Tensor:
    """values[rows] in the same order of memory: by the call that takes a fifth of the time where it keeps the order."""
    return values.index_select(0, rows) if values.is_contiguous() else values[rows]


def l2_norms(deltas: Tensor) -> Tensor:
    """(N,) Euclidean norms of (N, ...) perturbations; safe from underflow, the largest entry is factored out."""
    flat = deltas.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    scaled = flat / torch.where(largest > 0, largest, torch.ones_like(largest))
    return (scaled.square().sum(1, keepdim=True).sqrt() * largest).squeeze(1)


def random_in_ball(x: Tensor, eps: float, norm: Norm, generator: torch.Generator | None = None) -> Tensor:
    """Points drawn uniformly from the Linf or L2 eps-ball around each image, then clipped to [0, 1].

    Args:
        generator: source of the draws; it may live on another device than x.
    """
    device = x.device if generator is None else generator.device
    if norm == "Linf":
        noise = torch.rand(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
        return (x + (2 * noise - 1) * eps).clamp(0, 1)
    direction = torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
    share = torch.rand(len(x), generator=generator, device=device, dtype=x.dtype).to(x.device)
    dimensions = x.shape[1:].numel()
    lengths = eps * share.pow(1 / dimensions) / l2_norms(direction).clamp_min(torch.finfo(x.dtype).tiny)
    return (x + direction * per_example(lengths, x)).clamp(0, 1)


def start_in_ball(x: Tensor, eps: float | Tensor, norm: Norm, keys: Tensor, draw: int) -> Tensor:
    """As `random_in_ball`, each point drawn by its image's key, so that it is the same in any batch.

    Args:
        eps: radius in pixel units; for L2 also (N,), one an image.
        keys: (N,) from `corral.attacks.noise.image_keys`.
        draw: number of the draw; equal numbers give equal points.
    """
    if norm == "Linf":
        return (x + (2 * uniform(keys, draw, x.shape[1:]) - 1) * eps).clamp(0, 1)
    direction = normal(keys, draw, x.shape[1:])
    # The next number's values start where this one's end: a length of its own, independent of the direction.
    share = uniform(keys, draw + 1, ())
    lengths = eps * share.pow(1 / x.shape[1:].numel()) / l2_norms(direction).clamp_min(torch.finfo(x.dtype).tiny)
    return (x + direction * per_example(lengths, x)).clamp(0, 1)


def project(x_adv: Tensor, x: Tensor, eps: float | Tensor, norm: Norm) -> Tensor:
    """The nearest points of the eps-balls around x (each norm's own projection), then of the box [0, 1].

    For L2, eps may be (N,), one radius an image. The box contains x, so clipping shrinks every coordinate's
    perturbation and the result stays in the ball.
    """
    if norm == "Linf":
        return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)
    delta = x_adv - x
    lengths = l2_norms(delta)
    shrink = torch.where(lengths > eps, eps / lengths.clamp_min(torch.finfo(x.dtype).tiny), torch.ones_like(lengths))
    return (x + delta * per_example(shrink, x)).clamp(0, 1)


def ascend(x_adv: Tensor, gradient: Tensor, step_size: float | Tensor, norm: Norm) -> Tensor:
    """One step of length `step_size`, a number or (N,), in the direction of steepest ascent; none where it is zero."""
    sizes = per_example(step_size, x_adv) if isinstance(step_size, Tensor) else step_size
    if norm == "Linf":
        return gradient.sign().mul_(sizes).add_(x_adv)
    largest = gradient.flatten(1).abs().amax(1)
    scaled = gradient / per_example(torch.where(largest > 0, largest, torch.ones_like(largest)), gradient)
    lengths = l2_norms(scaled)
    unit = per_example(1 / torch.where(lengths > 0, lengths, torch.ones_like(lengths)), x_adv)
    return x_adv + scaled * unit * sizes
