"""What runs on several tasks add up to: aggregates, their intervals, ranks, profiles. Numpy on the host, float64.

Scores are arrays [tasks, seeds]. A seed is one problem that every contender met (the same member, initial parameters
and batches), so whatever compares contenders resamples seeds jointly. A loss that is not finite is +inf, the worst.

Sources: Agarwal et al. 2021 (arXiv:2108.13264), interquartile mean, stratified bootstrap, probability of improvement;
Dolan and More 2002 (doi:10.1007/s101070100263), performance profiles; Dahl et al. 2023 (arXiv:2306.07179, AlgoPerf),
their area; Demsar 2006 (JMLR 7:1-30), mean ranks.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LEVEL = 0.95  # of an interval
DRAWS = 2000  # resamples behind an interval: its ends lie at the 50th draw from either side
MAX_RATIO = 4.0  # r_max of AlgoPerf

Aggregate = Callable[[np.ndarray], np.ndarray]  # [..., values] -> [...]


class Interval(NamedTuple):
    """An estimate and its interval of 95 %."""

    value: float
    low: float
    high: float


def mean(values: np.ndarray) -> np.ndarray:
    """[..., n] -> [...]."""
    return np.asarray(values, np.float64).mean(axis=-1)


def median(values: np.ndarray) -> np.ndarray:
    """[..., n] -> [...]; of an even number, the mean of the middle two."""
    return np.median(np.asarray(values, np.float64), axis=-1)


def iqm(values: np.ndarray) -> np.ndarray:
    """Interquartile mean, [..., n] -> [...]: the mean of the middle half, a value at its edge counting by its part.

    With n = 4k values it is the mean of all but the k lowest and k highest, scipy's trim_mean(values, 0.25). Less noisy
    than the median, and blind to outliers as it is. Source: Agarwal et al. 2021, section 4.3.
    """
    x = np.sort(np.asarray(values, np.float64), axis=-1)
    n = x.shape[-1]
    index = np.arange(n)
    weights = np.clip(np.minimum(index + 1, 3 * n / 4) - np.maximum(index, n / 4), 0, 1)
    inside = weights > 0  # left out, not multiplied by zero: they may be infinite
    return (weights[inside] * x[..., inside]).sum(axis=-1) / (n / 2)


def interval(scores: np.ndarray, aggregate: Aggregate = iqm, *, resample_tasks: bool = True) -> Interval:
    """`aggregate` over all runs of scores [tasks, seeds], with its bootstrap interval; see `bootstrap`."""

    def pooled(x: np.ndarray) -> np.ndarray:
        return aggregate(x.reshape(*x.shape[:-2], -1))

    return bootstrap(pooled, scores, resample_tasks=resample_tasks)


def bootstrap(
    statistic: Callable[..., np.ndarray], *scores: np.ndarray, resample_tasks: bool = True, draws: int = DRAWS
) -> Interval:
    """Percentile interval of statistic(*scores), by the stratified bootstrap: strata are tasks.

    Each of scores is [tasks, seeds]; `statistic` maps arrays [..., tasks, seeds] to [...]. In a draw every task gives
    as many seeds as it has, with replacement, the same ones in all of `scores` (they are paired). The ends are the
    2.5 and 97.5 % quantiles over the draws, which are the same in every call.

    resample_tasks=False: the interval is about other seeds of these very tasks (Agarwal et al. 2021, section 4.1).
    resample_tasks=True: a draw first takes as many tasks as there are, with replacement: about other tasks like these,
    which is what a verdict on an optimizer is about. It is the wider one where tasks differ.
    """
    arrays = [np.asarray(x, np.float64) for x in scores]
    tasks, seeds = arrays[0].shape
    rng = np.random.default_rng(0)
    task = np.arange(tasks)[:, None]
    if resample_tasks:
        task = rng.integers(tasks, size=(draws, tasks, 1))
    seed = rng.integers(seeds, size=(draws, tasks, seeds))
    found = statistic(*(x[task, seed] for x in arrays))
    # by rank and not interpolated, so that an infinite draw beside the end does not make it NaN
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return Interval(float(statistic(*arrays)), float(low), float(high))


def ranks(losses: np.ndarray) -> np.ndarray:
    """Ranks [contenders, ...] from 1, the lowest loss; contenders that tie share the mean of their ranks.

    rank_i = 1 + #{j: loss_j < loss_i} + (#{j: loss_j = loss_i} - 1) / 2, j over contenders, as scipy's rankdata. Taken
    on every problem, a task with a seed, and averaged over seeds and tasks afterwards: on a mean over seeds one failed
    run, or one member of a larger scale, would decide for all the others. All failures (inf) tie. Source: Demsar 2006,
    section 3.2.2, with problems for data sets.
    """
    x = worst(losses)
    below = (x[None] < x[:, None]).sum(axis=1)
    equal = (x[None] == x[:, None]).sum(axis=1)
    return 1 + below + (equal - 1) / 2


def time_ratios(times: np.ndarray) -> np.ndarray:
    """r = t / min over contenders of t, per task; times [contenders, tasks] -> the same shape, inf where unsolved.

    t: steps until a contender reaches the task's target; inf (or NaN) when it never does. A task that nobody solves is
    unsolved for all. Source: Dolan and More 2002, section 2.
    """
    t = worst(times)
    best = t.min(axis=0)
    return np.divide(t, best, out=np.full(t.shape, np.inf), where=np.isfinite(t))


def profile(ratios: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """rho(tau) = the share of tasks that a contender solves within tau times the fastest one's steps.

    ratios [..., tasks] of `time_ratios`, taus [n] -> [..., n]. Source: Dolan and More 2002, section 2.
    """
    return (np.asarray(ratios)[..., None, :] <= np.asarray(taus)[:, None]).mean(axis=-1)


def profile_area(ratios: np.ndarray, max_ratio: float = MAX_RATIO) -> np.ndarray:
    """B = 1 / (r_max - 1) * the integral of rho(tau) from 1 to r_max, ratios [..., tasks] -> [...] between 0 and 1.

    Exact: a task with ratio r adds (r_max - r) / (r_max - 1) where r < r_max. 1: fastest on every task. Source:
    Dahl et al. 2023, with r_max = 4.
    """
    return (np.clip(max_ratio - np.asarray(ratios, np.float64), 0, None) / (max_ratio - 1)).mean(axis=-1)


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P(X < Y) + P(X = Y) / 2 for losses x, y [..., tasks, seeds] -> [...]: that a run of X ends below one of Y.

    Per task over all pairs of a seed of x with a seed of y, which is the Mann-Whitney U over the number of pairs; then
    the mean over tasks. 0.5: neither is better. Its interval: `bootstrap(probability_of_improvement, x, y)`. Source:
    Agarwal et al. 2021, section 4.3.
    """
    x, y = worst(x)[..., :, None], worst(y)[..., None, :]
    return ((x < y) + 0.5 * (x == y)).mean(axis=(-3, -2, -1))


def trials_worth(loss: float, trials: np.ndarray) -> float:
    """How many trials of random search one untuned run is worth: the median number of draws until one is as good.

    p is the share of `trials` [n] (final losses of independent draws from a search space, on the same problem) that are
    at most `loss`. The first such draw comes within k draws with probability 1 - (1 - p)^k, which reaches 1/2 at
    k = ceil(log(1/2) / log(1 - p)), at least 1. A failed run (`loss` not finite) is worth 0. Where no trial is as good
    it is inf: more than the n trials there are, a lower bound and no more.

    Source: our own definition of what Metz et al. 2020 (arXiv:2009.11243, appendix) show as tables against 1, 10, 100
    and 1,000 trials.
    """
    if not math.isfinite(loss):
        return 0.0
    p = float((worst(trials) <= loss).mean())
    if p == 0:
        return math.inf
    return float(max(1, math.ceil(math.log(0.5) / math.log1p(-p)))) if p < 1 else 1.0


def worst(losses: np.ndarray) -> np.ndarray:
    """Float64, with +inf for whatever is not finite."""
    x = np.asarray(losses, np.float64)
    return np.where(np.isfinite(x), x, np.inf)
