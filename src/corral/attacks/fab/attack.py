"""FAB (Croce & Hein 2020): the fast adaptive boundary attack, untargeted and targeted, in Linf, L2 and L1."""

from torch import Tensor, nn

from corral.attacks.balls import ALL_NORMS, Norm
from corral.attacks.fab.search import search
from corral.attacks.function import attack_function
from corral.attacks.outcome import Outcome
from corral.attacks.registry import register_attack


@attack_function(ALL_NORMS)
def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: int = 100,
    restarts: int = 1,
    targets: int = 0,
    seed: int = 0,
) -> Outcome:
    """Search the decision boundary nearest to each image; a misclassified point within eps ends an image's search.

    Croce & Hein (2020), "Minimally distorted adversarial examples with a fast adaptive boundary attack", Algorithm 1,
    with AutoAttack's parameters. Within eps one pass both tests a point and linearises there, which halves the passes.

    Args:
        model: any module from float [0, 1] images to (N, C) logits; attacked in eval mode, its state is restored.
        x: (N, ...) clean images in [0, 1].
        y: (N,) int64 labels.
        eps: radius in pixel units and `norm`.
        norm: "Linf", "L2" or "L1".
        steps: linearisations of each restart (of each target), at least 1.
        restarts: starts, at least 1: the image first, then random points at half of eps.
        targets: 0 for the untargeted attack, whose every step costs a backward pass for each rival class; else
            FAB-T: the boundaries to this many rivals (at most C - 1), most likely first, each searched alone.
        seed: of the random starts, which depend on seed and image only.

    Returns:
        Images like x, within eps and [0, 1]: misclassified where the attack succeeded, else x itself.

    Raises:
        ValueError: impossible arguments or labels, images that are not finite or not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    return search(model, x, y, eps, norm, steps, restarts, targets, seed)


@register_attack("fab_minimal", norms=ALL_NORMS)
def fab_minimal(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm = "Linf",
    steps: int = 100,
    restarts: int = 1,
    targets: int = 0,
    seed: int = 0,
) -> Outcome:
    """The closest misclassified point that FAB finds for each image, whatever its distance.

    All steps of all restarts are run, then the final search of section 2.6 comes closer to the boundary.

    Arguments and errors as `fab`, but `norm` is the distance that is made small, and random starts lie at half of the
    distance found so far.

    Args:
        model: any module from float [0, 1] NCHW images to (N, C) logits.
        x: (N, C, H, W) images in [0, 1].
        y: (N,) int64 labels.
        norm: of the distance that is made small: "Linf", "L2" or "L1".
        steps: steps a restart and target.
        restarts: the first begins at x, the others at random points at half of the distance found so far.
        targets: 0 for untargeted, else the number of likeliest rival classes, each attacked in turn.
        seed: of the random starts.

    Returns:
        Images like x in [0, 1]: the closest misclassified points found; x itself where none was found.
    """
    return search(model, x, y, None, norm, steps, restarts, targets, seed)
