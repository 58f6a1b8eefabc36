"""The baselines: Adam at its usual rate, and Adam with its rate tuned on the very task it is compared on."""

import numpy as np

from metaopt.evaluate.metrics import final_loss
from metaopt.types import PyTree

# 14 rates, half a decade apart, 1e-6 to 3.2. They include 1e-3, so that one sweep serves both baselines and tuned Adam
# never ends above Adam at 1e-3.
ADAM_RATES = tuple(float(f"{10.0**e:.6g}") for e in np.arange(-6, 1, 0.5))
USUAL_RATE = 1e-3
USUAL = "adam:lr=1e-3"
TUNED = "adam:tuned"


def adam_thetas() -> PyTree:
    """Theta of `hyper("adam", {"learning_rate": ...})` for every rate, leading axis [14]: the rate's logarithm."""
    return {"learning_rate": np.log(np.asarray(ADAM_RATES, np.float32))}


def tune(losses: np.ndarray) -> int:
    """Index of the best candidate: the lowest final loss, averaged over seeds. losses [candidates, seeds, steps].

    A candidate with a seed that is not finite loses to every other one. Tuning sees the very seeds that are reported,
    which favours the baseline: a win over tuned Adam is, if anything, understated.
    """
    with np.errstate(over="ignore"):
        means = final_loss(losses).mean(axis=-1)
    return int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
