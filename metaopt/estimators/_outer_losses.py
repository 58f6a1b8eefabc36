"""What theta is judged by: a number L of a whole inner run, written as a mean of shares of its truncations.

With l_t the loss at the parameters before step t (0 <= t < T, the horizon), K the truncation, k = 0 .. T/K - 1:

    mean      L = sum_t l_t / T                      share_k = mean of l_t over the truncation
    weighted  L = sum_t w_t l_t / T                  share_k = mean of w_t l_t over the truncation
    final     L = l_T, after the last update         share_k = (l_{(k+1)K} - l_{kK}) T/K
    minimum   L = min_t l_t                          none: whole runs only

    L = (K/T) sum_k share_k   (final: minus l_0, which does not depend on theta)

So an estimator that sees one truncation at a time sums to the gradient of L, and in `final` the sum telescopes (Vicol
et al. 2021, arXiv 2112.13835, section 5). Every l_t is the loss of the batch that the step trains on, which costs
nothing, or, with `batches` > 0, recomputed: the mean over so many fresh batches of `split`.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaopt.types import PyTree, Task

LOG_FLOOR = 1e-8  # of normalised losses under the logarithm; below it nothing is gained
FRESH = np.uint32(2**31)  # fresh batches draw from `fold_in(run.key, FRESH + t)`; the inner loop's numbers stay below


class OuterLoss(NamedTuple):
    """share(values, step, horizon, length) -> scalar, of the scaled losses of a truncation of `length` steps that
    starts at `step`: values [length], or where `ends`, [2], those at its two ends alone."""

    name: str
    share: Callable[[jax.Array, jax.Array, jax.Array, int], jax.Array]
    split: str
    scale: str
    batches: int
    ends: bool = False
    whole: bool = False  # defined for whole runs alone


def mean(
    split: Literal["train", "inner_valid", "outer_valid"] = "train",
    scale: Literal["raw", "normalised", "log"] = "normalised",
    batches: int = 0,
) -> OuterLoss:
    """The mean over the run.

    split: which data the losses are measured on; another one than train needs batches
    scale: the loss as it is, normalised by the task, or the logarithm of the normalised one
    batches: fresh batches per measurement; 0 for the very batch that the step trains on
    """
    return _checked(OuterLoss("mean", lambda values, *_: values.mean(), split, scale, batches))


def weighted(
    weights: Sequence[float] = (0.0, 1.0),
    split: Literal["train", "inner_valid", "outer_valid"] = "train",
    scale: Literal["raw", "normalised", "log"] = "normalised",
    batches: int = 0,
) -> OuterLoss:
    """The mean weighted by a schedule over the run: w_t is piecewise constant, its mean over the run 1.

    weights: of equal parts of the run; [0, 0, 0, 1] is the mean over the last quarter
    split: which data the losses are measured on; another one than train needs batches
    scale: the loss as it is, normalised by the task, or the logarithm of the normalised one
    batches: fresh batches per measurement; 0 for the very batch that the step trains on

    A step across the border of two parts gets its share of both, so that the weights have mean 1 for every horizon.
    Raises ValueError for weights that are negative, not finite, or all zero.
    """
    array = np.asarray(weights, np.float64)
    if array.ndim != 1 or not np.all(np.isfinite(array)) or np.any(array < 0) or not array.sum() > 0:
        raise ValueError(f"weights: {tuple(weights)} must be finite and >= 0, one of them positive")
    borders = np.linspace(0.0, 1.0, len(array) + 1)
    below = np.append(0.0, np.cumsum(array) / array.sum())  # the weight of the run up to each border

    def share(values: jax.Array, step: jax.Array, horizon: jax.Array, length: int) -> jax.Array:
        times = (step + jnp.arange(length + 1)) / horizon
        weight = horizon * jnp.diff(jnp.interp(times, jnp.asarray(borders), jnp.asarray(below)))
        return jnp.mean(weight * values)

    return _checked(OuterLoss("weighted", share, split, scale, batches))


def final(
    split: Literal["train", "inner_valid", "outer_valid"] = "train",
    scale: Literal["raw", "normalised", "log"] = "normalised",
    batches: int = 0,
) -> OuterLoss:
    """The loss after the last update.

    split: which data the losses are measured on; another one than train needs batches
    scale: the loss as it is, normalised by the task, or the logarithm of the normalised one
    batches: fresh batches per measurement; 0 for the batch that the next step would train on
    """

    def share(values: jax.Array, step: jax.Array, horizon: jax.Array, length: int) -> jax.Array:
        return (values[1] - values[0]) * horizon / length

    return _checked(OuterLoss("final", share, split, scale, batches, ends=True))


def minimum(
    split: Literal["train", "inner_valid", "outer_valid"] = "train",
    scale: Literal["raw", "normalised", "log"] = "normalised",
    batches: int = 0,
) -> OuterLoss:
    """The smallest loss of the run; for the estimators of whole runs, es and full_grad.

    split: which data the losses are measured on; another one than train needs batches
    scale: the loss as it is, normalised by the task, or the logarithm of the normalised one
    batches: fresh batches per measurement; 0 for the very batch that the step trains on
    """
    return _checked(OuterLoss("minimum", lambda values, *_: values.min(), split, scale, batches, whole=True))


def _checked(loss: OuterLoss) -> OuterLoss:
    if loss.batches < 0:
        raise ValueError(f"batches: must be 0 or more, got {loss.batches}")
    if loss.split != "train" and loss.batches == 0:
        raise ValueError(f"batches: must be positive for split={loss.split}, which no step trains on")
    return loss


def measured(
    task: Task, loss: OuterLoss, cfg: PyTree, params: PyTree, data: PyTree, key: jax.Array, step: jax.Array
) -> jax.Array:
    """The raw loss of `params` at `step` of the run with this key: recomputed, or of the batch of that step."""

    def once(batch_key: jax.Array, loss_key: jax.Array) -> jax.Array:
        return task.loss(cfg, params, task.batch(cfg, data, batch_key, loss.split), loss_key)[0]

    if loss.batches == 0:
        return once(jax.random.fold_in(key, 2 * step), jax.random.fold_in(key, 2 * step + 1))
    keys = jax.random.split(jax.random.fold_in(key, FRESH + step.astype(jnp.uint32)), (2, loss.batches))
    return jax.vmap(once)(*keys).mean()


def scaled(task: Task, loss: OuterLoss, cfg: PyTree, losses: jax.Array) -> jax.Array:
    """Raw losses on the scale that outer losses are averaged on."""
    if loss.scale == "raw":
        return losses
    normalised = task.normalize(cfg, losses)
    return normalised if loss.scale == "normalised" else jnp.log(jnp.maximum(normalised, LOG_FLOOR))
