"""What a loss curve says about an optimizer.

A run keeps a *smoothed* curve: means over windows of 5 % of its steps, at most 200 of them. Curves are on the last
axis, [..., points]; numpy on the host, in float64. A loss that is not finite gives +inf, never an exception.

    initial loss   before any update: the first point      final loss   the last point: the last 5 % of the steps
    best loss      the lowest point                        mean loss    of all steps
    diverged       the final loss is not finite, or above the initial one
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FINAL_SHARE = 0.05  # of the steps: the last ones give the final loss, and curves are smoothed over as many
POINTS = 200
CHECKS = 20
WORST = 2.0  # the largest normalised loss


class Runs(NamedTuple):
    """What is kept of runs, float32, +inf where not finite; `points` and `checks` depend on the steps alone."""

    smooth: Any  # [..., points] smoothed training losses
    mean: Any  # [...] of the training losses
    valid: Any  # [..., checks] validation losses after equal shares of the steps


def window(steps: int) -> int:
    """The last 5 % of a run, at least one step."""
    return max(1, round(FINAL_SHARE * steps))


def final_loss(losses: Any) -> Any:
    """Mean of the last 5 % of the steps of a curve that is not smoothed, [..., steps] -> [...]; numpy or JAX."""
    return losses[..., -window(losses.shape[-1]) :].mean(axis=-1)


def last_steps(steps: int) -> np.ndarray:
    """The last step (from 0) of the window of each point; the first windows are not whole yet."""
    return np.unique(np.linspace(0, steps - 1, POINTS).round().astype(int))


def checks(steps: int) -> int:
    """How often the validation loss is measured: the largest divisor of the steps up to 20."""
    return max(n for n in range(1, CHECKS + 1) if steps % n == 0)


def kept(cfg: object, losses: jax.Array, valid: jax.Array) -> Runs:
    """Of one run, on the device: losses [steps], valid [checks]."""
    steps = len(losses)
    at, width = last_steps(steps), window(steps)
    finite = jnp.where(jnp.isfinite(losses), losses, jnp.inf).astype(jnp.float32)
    windows = jnp.concatenate([jnp.zeros(width - 1, jnp.float32), finite])[at[:, None] + np.arange(width)]
    smooth = windows.sum(axis=-1) / np.minimum(at + 1, width).astype(np.float32)
    return Runs(smooth, finite.mean(), jnp.where(jnp.isfinite(valid), valid, jnp.inf).astype(jnp.float32))


def diverged(smooth: np.ndarray) -> np.ndarray:
    """Whether a run failed: [..., points] -> [...]."""
    return ~np.isfinite(smooth[..., -1]) | (smooth[..., -1] > smooth[..., 0])


def normalized(smooth: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(final - reference's final) / (initial - reference's final), at most 2, which stands for failures too.

    1: no progress, 0: as good as the reference (tuned Adam), below 0: better. [..., points] -> [...]. 2 where the
    reference made no progress itself and the run is worse, 0 where it is as good.

    Source: Metz et al. 2020 (arXiv:2009.11243), who normalise by the initial loss and the best baseline.
    """
    initial, final, target = (x.astype(np.float64) for x in (smooth[..., 0], smooth[..., -1], reference[..., -1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(final == target, 0.0, (final - target) / np.maximum(initial - target, 0.0))
    return np.where(np.isfinite(share), np.minimum(share, WORST), np.where(share == -np.inf, -WORST, WORST))


def time_to(smooth: np.ndarray, level: float, steps: int) -> float:
    """Updates after which a smoothed curve [points] first is at most `level`, inf when it never is.

    A window stands for its middle; between two points the curve is a straight line. Windows that are not whole do not
    count: the loss of a single batch proves nothing.
    """
    at, width = last_steps(steps), window(steps)
    whole = at >= width - 1
    times, losses = at[whole] - (width - 1) / 2, smooth[whole].astype(np.float64)
    below = losses <= level
    if not below.any():
        return np.inf
    i = int(np.argmax(below))
    if i == 0 or not np.isfinite(losses[i - 1]):
        return max(1.0, float(times[i]))
    share = (losses[i - 1] - level) / (losses[i - 1] - losses[i])
    return max(1.0, float(times[i - 1] + share * (times[i] - times[i - 1])))


def speedup(smooth: np.ndarray, reference: np.ndarray, steps: int) -> float:
    """How many times faster than the reference (tuned Adam) a run is. Both curves [points], of the same problem.

    With T(curve, L) the `time_to` of a level L:

        T(adam, L_adam) / T(run, L_adam)       when the run gets down to Adam's final loss L_adam
        T(adam, L_run)  / max(T(run, L_run),   when it does not: in how much less time Adam gets down to the final loss
                              T(adam, L_adam)) L_run of the run; at most 1, as a run that is stuck early wins nothing

    T(adam, L_adam) is the whole run while Adam still improves at the end; where its curve is flat by then it is the
    time at which it went flat, so that nobody is called faster for steps that Adam wasted. A run with Adam's own curve
    gives exactly 1, one that diverged 0; the largest value is about 40.

    Source: VeLO (Metz et al. 2022, arXiv:2211.09760, figure 1) measures the steps that learning-rate-tuned Adam needs
    for an optimizer's final loss, relative to the optimizer's own: the second case. For a run that ends below Adam
    this asks for longer Adam runs than there are, so the first case turns the question round.
    """
    if diverged(smooth):
        return 0.0
    target = reference[-1]
    whole = time_to(reference, target, steps)
    reached = time_to(smooth, target, steps)
    if np.isfinite(reached):
        return whole / reached if np.isfinite(whole) else 1.0
    return time_to(reference, smooth[-1], steps) / max(whole, time_to(smooth, smooth[-1], steps))
