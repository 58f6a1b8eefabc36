"""The learned optimizers: one architecture a file, each a factory `name(**arguments) -> LearnedOptimizer`."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from metaopt.optimizers.adafac_mlp import adafac_mlp
from metaopt.optimizers.hyper import hyper
from metaopt.optimizers.mlp import mlp
from metaopt.optimizers.mup import mup
from metaopt.types import LearnedOptimizer

OPTIMIZERS: dict[str, Callable[..., LearnedOptimizer]] = {
    "mlp": mlp,
    "adafac_mlp": adafac_mlp,
    "hyper": hyper,
    "mup": partial(mup, base=adafac_mlp()),
}


def make(entry: Mapping[str, Any], key: str = "optimizer") -> LearnedOptimizer:
    """The optimizer of an entry, {"name": ..., argument: value, ...}, as a config or the metadata of weights has it.

    Lists become tuples, and entries in it optimizers. Raises ValueError, with the dotted key, when there is no such
    optimizer or its factory refuses the arguments.
    """
    arguments = {argument: _frozen(value) for argument, value in entry.items()}
    name = arguments.pop("name")
    if name not in OPTIMIZERS:
        raise ValueError(f"{key}: architecture {name!r} is not in this version, which has {', '.join(OPTIMIZERS)}")
    for parameter in inspect.signature(OPTIMIZERS[name]).parameters.values():
        if parameter.annotation is LearnedOptimizer and parameter.name in arguments:
            arguments[parameter.name] = make(arguments[parameter.name], f"{key}.{parameter.name}")
    try:
        return OPTIMIZERS[name](**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key} ({name}): {error}") from error


def _frozen(value: Any) -> Any:
    """Lists of a JSON text as the tuples that factories take."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
