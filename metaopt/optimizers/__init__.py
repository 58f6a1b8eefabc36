"""The learned optimizers: one architecture a file, each a factory `name(**arguments) -> LearnedOptimizer`."""

from collections.abc import Callable

from metaopt.optimizers.adafac_mlp import adafac_mlp
from metaopt.optimizers.hyper import hyper
from metaopt.optimizers.mlp import mlp
from metaopt.types import LearnedOptimizer

OPTIMIZERS: dict[str, Callable[..., LearnedOptimizer]] = {
    "mlp": mlp,
    "adafac_mlp": adafac_mlp,
    "hyper": hyper,
}
