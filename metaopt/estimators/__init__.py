"""Estimators of the outer gradient: one a file, each a factory `name(task, optimizer, **arguments) -> Estimator`.

All have the arguments num_tasks, truncation, horizon, std and outer_loss, so that one word in a config switches.
"""

from collections.abc import Callable
from functools import partial

from metaopt.estimators._horizons import Law, constant, curriculum, log_uniform, uniform
from metaopt.estimators._outer_losses import OuterLoss, final, mean, minimum, weighted
from metaopt.estimators.combined import combined
from metaopt.estimators.es import es
from metaopt.estimators.full_grad import full_grad
from metaopt.estimators.gpes import gpes
from metaopt.estimators.pes import pes
from metaopt.estimators.tbptt import tbptt
from metaopt.estimators.truncated_es import truncated_es
from metaopt.types import Estimator

nres = partial(gpes, period=None)  # one perturbation per run

ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "tbptt": tbptt,
    "full_grad": full_grad,
    "es": es,
    "truncated_es": truncated_es,
    "pes": pes,
    "gpes": gpes,
    "nres": nres,
    "es_single": nres,
    "combined": combined,
}

HORIZONS: dict[str, Callable[..., Law]] = {
    "constant": constant,
    "uniform": uniform,
    "log_uniform": log_uniform,
    "curriculum": curriculum,
}

OUTER_LOSSES: dict[str, Callable[..., OuterLoss]] = {
    "mean": mean,
    "weighted": weighted,
    "final": final,
    "minimum": minimum,
}

WHOLE_RUNS = ("full_grad", "es")  # estimators that see whole runs, as the outer loss `minimum` asks for
