"""Bias and variance from independent repetitions, with intervals.

The squared norm of a mean of R samples is too large by trace(Cov) / R; what is reported here has that taken off, so
that an unbiased estimator scatters about bias^2 = 0 however large its variance. Intervals are value +- 2 standard
errors by the jackknife over repetitions (of estimates and of the reference), about 95 %. Near a bias of zero the
jackknife sees too little: there bias^2 scatters by sqrt(2 trace(Cov^2)), which is added.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Measured(NamedTuple):
    """A number and its interval."""

    value: float
    low: float
    high: float


def noise(x: np.ndarray) -> float:
    """E|mean(x) - E x|^2 of samples x [R, d]."""
    return float(x.var(axis=0, ddof=1).sum() / len(x))


def squared_norm(x: np.ndarray) -> float:
    """|E x|^2 of samples x [R, d], unbiased."""
    return float(np.sum(x.mean(0) ** 2) - noise(x))


def scatter(*samples: np.ndarray) -> float:
    """Standard error of `squared_norm` or `squared_distance` of samples [R, d] whose means are equal, or zero:
    sqrt(2 trace(C^2)), C the covariance of the mean (of two, at most the sum of both)."""
    total = 0.0
    for x in samples:
        n = len(x) - 1
        gram = (x - x.mean(0)) @ (x - x.mean(0)).T / (n * len(x))
        square = np.sum(gram**2) - np.trace(gram) ** 2 / n  # E = trace(C^2) (n - 1) (n + 2) / n^2, of Gaussians
        total += np.sqrt(max(square, 0.0) * n**2 / ((n - 1) * (n + 2)))
    return float(np.sqrt(2) * total)


def squared_distance(x: np.ndarray, y: np.ndarray) -> float:
    """|E x - E y|^2 of independent samples x [R, d], y [R', d], unbiased."""
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) - noise(x) - noise(y))


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Between E x and E y; NaN where a norm does not stand out from the noise."""
    norms = squared_norm(x) * squared_norm(y)
    return float(np.clip(x.mean(0) @ y.mean(0) / np.sqrt(norms), -1, 1)) if norms > 0 else np.nan


def spread(grads: np.ndarray, cycle: int) -> tuple[float, float]:
    """Traces of covariances of grads [R, cycles * cycle, d]: of the mean over a cycle, and of one estimate."""
    means = grads.reshape(len(grads), -1, cycle, grads.shape[-1]).mean(2)
    return tuple(float(x.var(axis=0, ddof=1).sum(-1).mean()) for x in (means, grads))


def jackknife(statistic: Callable[..., float], *samples: np.ndarray) -> tuple[float, float]:
    """The statistic of independent samples [R, ...] and its standard error."""
    variance = 0.0
    for i, sample in enumerate(samples):
        left_out = [
            statistic(*samples[:i], np.delete(sample, r, axis=0), *samples[i + 1 :]) for r in range(len(sample))
        ]
        variance += (len(sample) - 1) * float(np.var(left_out))
    return statistic(*samples), float(np.sqrt(variance))


def linear(statistic: Callable[..., float], *samples: np.ndarray, also: float = 0.0) -> Measured:
    """`also`: a standard error that the jackknife does not see."""
    value, error = jackknife(statistic, *samples)
    error = float(np.hypot(error, also))
    return Measured(value, value - 2 * error, value + 2 * error)


def root(statistic: Callable[..., float], *samples: np.ndarray, also: float) -> Measured:
    """The square root of a statistic that is an unbiased estimate of a square, zero where that is negative."""
    return Measured(*(float(np.sqrt(max(x, 0.0))) for x in linear(statistic, *samples, also=also)))


def positive(statistic: Callable[..., float], *samples: np.ndarray) -> Measured:
    """A positive statistic, its interval symmetric in the logarithm. Zero stays zero."""
    if statistic(*samples) <= 0:
        return Measured(0.0, 0.0, 0.0)
    interval = linear(lambda *samples: float(np.log(statistic(*samples))), *samples)
    return Measured(*map(float, np.exp(interval)))


def measure(
    grads: np.ndarray, reference: np.ndarray, cycle: int, num_tasks: int, perturbed: bool
) -> dict[str, Measured]:
    """Of gradients [R, cycles * cycle, d], each a mean over num_tasks, and references [R', 2, d], exact and smoothed.

    All are relative to the norm of the exact gradient. bias: against what the estimator aims at, the smoothed gradient
    if it is perturbed. total_bias, cosine: against the exact one. variance: of one task's mean over a cycle;
    variance_step: of one estimate with a task at each of the `cycle` ages, which takes as many steps.
    """
    means = grads.mean(1)
    aim = 1 if perturbed else 0
    scale = squared_norm(reference[:, 0])

    def bias(i):
        def squared(means, reference):
            return squared_distance(means, reference[:, i]) / squared_norm(reference[:, 0])

        return root(squared, means, reference, also=scatter(means, reference[:, i]) / scale)

    return {
        "bias": bias(aim),
        "total_bias": bias(0),
        "cosine": linear(lambda m, r: cosine(m, r[:, 0]), means, reference),
        "variance": positive(lambda g: num_tasks * spread(g, cycle)[0] / scale, grads),
        "variance_step": positive(lambda g: num_tasks / cycle * spread(g, cycle)[1] / scale, grads),
    }


def smoothing(reference: np.ndarray) -> Measured:
    """|smoothed - exact| / |exact| of references [R, 2, d] whose two gradients are from the same runs."""
    also = scatter(reference[:, 1] - reference[:, 0]) / squared_norm(reference[:, 0])
    return root(lambda r: squared_norm(r[:, 1] - r[:, 0]) / squared_norm(r[:, 0]), reference, also=also)


def ratio(x: np.ndarray, y: np.ndarray, cycles: tuple[int, int]) -> dict[str, Measured]:
    """Variances of gradients x over those of y, both of equally many tasks and equally many steps: x [R, ., d] with
    cycles[0] estimates in a cycle, y [R', ., d] with cycles[1]. Names as in `measure`."""

    def over(x, y, i):
        return spread(x, cycles[0])[i] / spread(y, cycles[1])[i] * (1, cycles[1] / cycles[0])[i]

    return {
        name: positive(lambda x, y, i=i: over(x, y, i), x, y) for i, name in enumerate(("variance", "variance_step"))
    }
