"""Meta-train learned optimizers, and use them as ordinary optax transformations.

Every public name is listed here and resolved on first use (PEP 562), so that the command line can answer `--help`
or report a config error without waiting for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaopt import checkpoint as checkpoint
    from metaopt.data import DATASETS as DATASETS
    from metaopt.estimators import ESTIMATORS as ESTIMATORS
    from metaopt.optimizers import OPTIMIZERS as OPTIMIZERS
    from metaopt.tasks import TASKS as TASKS
    from metaopt.tasks.suites import SUITES as SUITES
    from metaopt.train import Family as Family
    from metaopt.train import make_train as make_train
    from metaopt.types import Estimator as Estimator
    from metaopt.types import Inner as Inner
    from metaopt.types import LearnedOptimizer as LearnedOptimizer
    from metaopt.types import Task as Task
    from metaopt.weights import load as load

__version__ = "0.1.0"

_HOME = {  # public name -> the module that defines it, or that it is
    "DATASETS": "metaopt.data",
    "ESTIMATORS": "metaopt.estimators",
    "Estimator": "metaopt.types",
    "Family": "metaopt.train",
    "Inner": "metaopt.types",
    "LearnedOptimizer": "metaopt.types",
    "OPTIMIZERS": "metaopt.optimizers",
    "SUITES": "metaopt.tasks.suites",
    "TASKS": "metaopt.tasks",
    "Task": "metaopt.types",
    "checkpoint": "metaopt.checkpoint",
    "load": "metaopt.weights",
    "make_train": "metaopt.train",
}
__all__ = ["__version__", *_HOME]  # noqa: PLE0604 (every key is a string)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'metaopt' has no attribute {name!r}")
    home = importlib.import_module(_HOME[name])
    value = globals()[name] = home if home.__name__ == f"metaopt.{name}" else getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
