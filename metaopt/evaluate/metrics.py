"""What a loss curve says about an optimizer. Numpy on the host, curves on the last axis: losses [..., steps].

All are computed in float64; a loss that is not finite makes the final loss not finite, never an exception.
"""

import numpy as np

FINAL_SHARE = 0.05  # of the steps: the last ones give the final loss, and curves are smoothed over as many


def window(steps: int) -> int:
    """The last 5 % of a run, at least one step."""
    return max(1, round(FINAL_SHARE * steps))


def final_loss(losses: np.ndarray) -> np.ndarray:
    """Mean of the last 5 % of the steps: [..., steps] -> [...]."""
    return losses[..., -window(losses.shape[-1]) :].astype(np.float64).mean(axis=-1)


def diverged(losses: np.ndarray) -> np.ndarray:
    """Whether a run failed: its final loss is not finite, or above the first loss, the one before any update."""
    final = final_loss(losses)
    return ~np.isfinite(final) | (final > losses[..., 0])


def smoothed(losses: np.ndarray) -> np.ndarray:
    """Means over all whole windows of 5 % of the steps, [..., steps - window + 1]; the last one is the final loss.

    A window that holds a loss that is not finite has +inf.
    """
    losses = np.where(np.isfinite(losses), losses, np.inf).astype(np.float64)
    return np.lib.stride_tricks.sliding_window_view(losses, window(losses.shape[-1]), axis=-1).mean(axis=-1)


def speedup(losses: np.ndarray, reference: np.ndarray) -> float:
    """How many times faster than the reference (tuned Adam) a run is. Both curves [steps], of the same problem.

    T(curve, L) is the number of updates after which the smoothed curve first is at most L, at a window's middle:

        T(adam, L_adam) / T(run, L_adam)     when the run gets down to Adam's final loss L_adam
        T(adam, L_run)  / T(adam, L_adam)    when it does not; below 1: how much of its way Adam needs to get down to
                                             the final loss L_run of the run

    T(adam, L_adam) is the whole run while Adam still improves at the end; where its curve is flat by then it is the
    time at which it went flat, so that nobody is called faster for steps that Adam wasted. A run with Adam's own curve
    gives exactly 1, one that diverged 0; the largest value is about 40.

    Source: VeLO (Metz et al. 2022, arXiv:2211.09760, figure 1) measures the steps that learning-rate-tuned Adam needs
    for an optimizer's final loss, relative to the optimizer's own: the second case. For a run that ends below Adam
    this asks for longer Adam runs than there are, so the first case turns the question round.
    """
    if diverged(losses):
        return 0.0
    adam, run = smoothed(reference), smoothed(losses)
    middle = (window(len(losses)) - 1) / 2

    def time(curve: np.ndarray, level: float) -> float:
        return max(1.0, float(np.argmax(curve <= level)) + middle)

    whole = time(adam, adam[-1])
    if run.min() <= adam[-1]:
        return whole / time(run, adam[-1])
    return time(adam, run[-1]) / whole


def iqm(values: np.ndarray) -> float:
    """Interquartile mean: the mean of the middle half, a value at the edge counting by its part inside.

    Agarwal et al. 2021 (arXiv:2108.13264). With n = 4k values it is the mean of all but the k lowest and k highest.
    """
    x = np.sort(np.asarray(values, np.float64))
    low, high = len(x) / 4, 3 * len(x) / 4
    edges = np.arange(len(x))
    weights = np.clip(np.minimum(edges + 1, high) - np.maximum(edges, low), 0, 1)
    return float((weights * x).sum() / weights.sum())
