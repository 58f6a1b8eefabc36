"""Estimators of the outer gradient: one a file, each a factory `name(task, optimizer, **arguments) -> Estimator`."""

from collections.abc import Callable

from metaopt.estimators.es import es
from metaopt.estimators.pes import pes
from metaopt.estimators.tbptt import tbptt
from metaopt.estimators.truncated_es import truncated_es
from metaopt.types import Estimator

ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "tbptt": tbptt,
    "es": es,
    "truncated_es": truncated_es,
    "pes": pes,
}
