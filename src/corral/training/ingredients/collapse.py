"""Catastrophic overfitting of training on one-step attacks: PGD accuracy falls, one-step accuracy does not."""

from collections.abc import Sequence

from corral.training.convergence import ROUNDING


def fallen(one_step: Sequence[float], robust: Sequence[float], *, drop: float) -> bool:
    """Whether the last of these epochs has lost its accuracy under PGD alone.

    With o_t the accuracy under the one-step attack of training, p_t that under PGD after epoch t, and s the epoch of
    the best PGD accuracy before t (the first of equal ones), it has if

        p_s - p_t > drop   and   o_s - o_t < (p_s - p_t) / 2.

    Wong et al. 2020 stop where p falls by more than 0.2 from one epoch to the next (their code, on a batch of training
    images). The best epoch takes the place of the previous one, since the fall to 0 takes a couple of epochs (their
    README), which would each fall by less. The second condition leaves epochs alone in which all accuracies fall, as at
    too large a learning rate: overfitting to the one-step attack shows in the two accuracies parting (Andriushchenko
    and Flammarion 2020, Fig. 2; Kim et al. 2021: toward 100% and 0%). A model that never was robust has nothing to fall
    from, and accuracies below `drop` cannot fall by it: lower it where robust accuracies are low.

    Args:
        one_step: o_1 ... o_t in [0, 1].
        robust: p_1 ... p_t in [0, 1], of the same images.
        drop: in (0, 1).
    """
    if len(robust) < 2:
        return False
    best = max(range(len(robust) - 1), key=robust.__getitem__)
    fall = robust[best] - robust[-1]
    return fall > drop + ROUNDING and one_step[best] - one_step[-1] < fall / 2 - ROUNDING


def collapsed(one_step: Sequence[float], robust: Sequence[float], *, drop: float, last: bool) -> bool:
    """Whether a model has overfitted catastrophically: `fallen` after two epochs running, or after the last.

    A fall may come back in the next epoch, at a high learning rate above all (Li et al. 2020, "Towards understanding
    fast adversarial training"); after the last epoch none follows.

    Args:
        one_step: accuracies as in `fallen`, after each epoch so far.
        robust: likewise.
        drop: as there.
        last: whether training ends with the last of these epochs.
    """
    before = fallen(one_step[:-1], robust[:-1], drop=drop)
    return fallen(one_step, robust, drop=drop) and (before or last)
