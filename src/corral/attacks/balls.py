"""Norm balls in pixel space: random points, projections and steepest-ascent steps for Linf and L2."""

from typing import Literal

import torch
from torch import Tensor

Norm = Literal["Linf", "L2"]
NORMS: tuple[Norm, ...] = ("Linf", "L2")


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """(N,) values shaped to broadcast over (N, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def l2_norms(deltas: Tensor) -> Tensor:
    """(N,) Euclidean norms of (N, ...) perturbations; safe from underflow, the largest entry is factored out."""
    flat = deltas.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    scaled = flat / torch.where(largest > 0, largest, torch.ones_like(largest))
    return (scaled.square().sum(1, keepdim=True).sqrt() * largest).squeeze(1)


def random_in_ball(x: Tensor, eps: float, norm: Norm, generator: torch.Generator | None = None) -> Tensor:
    """Points drawn uniformly from the eps-ball around each image, then clipped to [0, 1].

    Args:
        x: (N, C, H, W) images.
        eps: radius in pixel units.
        norm: "Linf" or "L2".
        generator: source of the draws; it may live on another device than x.

    Returns:
        A tensor like x.
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


def project(x_adv: Tensor, x: Tensor, eps: float, norm: Norm) -> Tensor:
    """The nearest points of the eps-balls around x (each norm's own projection), then of the box [0, 1].

    The box contains x, so clipping shrinks every coordinate's perturbation and the result stays in the ball.
    """
    if norm == "Linf":
        return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)
    delta = x_adv - x
    lengths = l2_norms(delta)
    shrink = torch.where(lengths > eps, eps / lengths.clamp_min(torch.finfo(x.dtype).tiny), torch.ones_like(lengths))
    return (x + delta * per_example(shrink, x)).clamp(0, 1)


def ascend(x_adv: Tensor, gradient: Tensor, step_size: float, norm: Norm) -> Tensor:
    """One step of length `step_size` in the direction of steepest ascent; where the gradient is zero, no step."""
    if norm == "Linf":
        return x_adv + step_size * gradient.sign()
    largest = gradient.flatten(1).abs().amax(1)
    scaled = gradient / per_example(torch.where(largest > 0, largest, torch.ones_like(largest)), gradient)
    lengths = l2_norms(scaled)
    return x_adv + scaled * per_example(step_size / torch.where(lengths > 0, lengths, torch.ones_like(lengths)), x_adv)
