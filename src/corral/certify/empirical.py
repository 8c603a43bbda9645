"""Lower bounds on a network's Lipschitz constant, found at images, to compare certified upper bounds with."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from corral.models import Classifier
from corral.models.contract import ask, one_tensor
from corral.models.modes import eval_mode

# Images are moved by this much, off the kinks on which a derivative would be a matter of convention.
NUDGE = 1e-7


def empirical_lipschitz_lower(
    model: nn.Module, x: Tensor, *, steps: int = 20, batch_size: int = 256, generator: torch.Generator | None = None
) -> float:
    """The largest spectral norm of the features' Jacobian found at images: a LOWER bound, never a certificate.

    Power iteration on J^T J at each image: ||J v|| of any unit v is no larger than ||J||, and ||J|| at a point no
    larger than the l2 Lipschitz constant in eval mode. No radius may be divided by it. In float64; images are nudged by
    1e-7 of normal noise, since at an exact kink (a black image without biases) automatic derivatives may be of no
    neighbouring piece.

    Args:
        model: a `Classifier` (its features, in pixel units) or a module of images; left as it was.
        x: (N, channels, H, W), or whatever the module takes, at least one.
        steps: of power iteration, at least 1.
        batch_size: images at once.
        generator: of the nudge and the first directions, on x's device.

    Raises:
        ValueError: no images, or no steps.
        CorralError: the model fails, or gives something else than one tensor.
    """
    if len(x) == 0 or steps < 1 or batch_size < 1:
        raise ValueError(f"x, steps and batch_size must be at least 1, found {len(x)}, {steps} and {batch_size}")
    body = nn.Sequential(model.normalisation, model.backbone) if isinstance(model, Classifier) else model
    tensors = {
        name: tensor.detach().double() if tensor.is_floating_point() else tensor.detach()
        for name, tensor in (*body.named_parameters(), *body.named_buffers())
    }

    largest = 0.0
    with eval_mode(body), torch.enable_grad():
        for part in torch.split(x.detach().double(), batch_size):
            noise, direction = (
                torch.randn(part.shape, dtype=part.dtype, device=part.device, generator=generator) for _ in range(2)
            )
            images = (part + NUDGE * noise).requires_grad_(True)
            features = one_tensor(ask(lambda x: functional_call(body, tensors, (x,)), images))
            # J^T u is linear in u: its derivative along v is J v, from the same graph for every step.
            dual = torch.zeros_like(features, requires_grad=True)
            (pulled,) = torch.autograd.grad(features, images, dual, create_graph=True)
            for _ in range(steps):
                lengths = direction.flatten(1).norm(dim=1).clamp_min(torch.finfo(direction.dtype).tiny)
                direction = direction / lengths.view(-1, *[1] * (direction.dim() - 1))
                (pushed,) = torch.autograd.grad(pulled, dual, direction, retain_graph=True)
                largest = max(largest, float(pushed.flatten(1).norm(dim=1).max()))
                (direction,) = torch.autograd.grad(features, images, pushed, retain_graph=True)
    return largest
