"""The learned optimizers: one architecture a file, each a factory `name(**arguments) -> LearnedOptimizer`."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from metaopt.optimizers.adafac_mlp import adafac_mlp
from metaopt.optimizers.adam8p import adam8p
from metaopt.optimizers.anchored import anchored
from metaopt.optimizers.celo import celo
from metaopt.optimizers.celo2 import celo2
from metaopt.optimizers.celo_adam import celo_adam
from metaopt.optimizers.component_gru import component_gru
from metaopt.optimizers.hyper import hyper
from metaopt.optimizers.l2l_lstm import l2l_lstm
from metaopt.optimizers.mlp import mlp
from metaopt.optimizers.mup import mup
from metaopt.optimizers.nadamw8p import nadamw8p
from metaopt.optimizers.nn_adam import nn_adam
from metaopt.optimizers.quasi_newton import quasi_newton
from metaopt.optimizers.rnn_mlp import rnn_mlp
from metaopt.optimizers.rnnprop import rnnprop
from metaopt.optimizers.scale_hierarchical import scale_hierarchical
from metaopt.optimizers.star import star
from metaopt.optimizers.velo import velo
from metaopt.types import LearnedOptimizer

OPTIMIZERS: dict[str, Callable[..., LearnedOptimizer]] = {
    "l2l_lstm": l2l_lstm,
    "rnnprop": rnnprop,
    "component_gru": component_gru,
    "scale_hierarchical": scale_hierarchical,
    "mlp": mlp,
    "rnn_mlp": rnn_mlp,
    "adafac_mlp": adafac_mlp,
    "star": star,
    "nn_adam": nn_adam,
    "velo": velo,
    "celo": celo,
    "celo_adam": celo_adam,
    "celo2": celo2,
    "anchored": anchored,
    "hyper": hyper,
    "nadamw8p": nadamw8p,
    "adam8p": adam8p,
    "mup": partial(mup, base=adafac_mlp()),
    "quasi_newton": partial(quasi_newton, base=anchored()),
}

# With default arguments: learned numbers; state floats per parameter; inputs beside gradients and parameters
FACTS: dict[str, tuple[int, float, tuple[str, ...]]] = {
    "l2l_lstm": (5141, 80.0, ()),
    "rnnprop": (6641, 82.0, ()),
    "component_gru": (3329, 32.0, ()),
    "scale_hierarchical": (8229, 21.0, ()),
    "mlp": (1762, 6.0, ()),
    "rnn_mlp": (35799, 10.0, ("loss",)),
    "adafac_mlp": (197, 4.0, ()),
    "star": (207, 4.0, ()),
    "nn_adam": (6856, 2.0, ()),
    "velo": (13393, 4.0, ("loss", "horizon")),
    "celo": (35803, 4.0, ("loss", "horizon")),
    "celo_adam": (35649, 2.0, ("loss", "horizon")),
    "celo2": (329, 4.0, ()),
    "anchored": (466, 3.0, ("loss", "horizon")),
    "hyper": (1, 2.0, ()),
    "nadamw8p": (10, 2.0, ("horizon",)),
    "adam8p": (8, 2.0, ("horizon",)),
    "mup": (197, 4.0, ()),
    "quasi_newton": (466, 3.0, ("loss", "horizon")),
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
