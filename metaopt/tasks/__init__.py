"""Task families by name. A factory takes keyword arguments and returns a `metaopt.types.Task`.

`from_loss` and `from_module` make a task of your own, which a config names `module:function`; see `custom`.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from metaopt.tasks.augment import (
    bfloat16,
    delayed_gradients,
    few_batches,
    low_rank_gradients,
    noisy_gradients,
    normalized_gradients,
    reparametrized,
    small_batches,
)
from metaopt.tasks.coordinate_network import coordinate_network
from metaopt.tasks.custom import from_loss, from_module
from metaopt.tasks.functions import ackley, beale, bowl, rosenbrock, styblinski_tang, valley
from metaopt.tasks.image_autoencoder import image_autoencoder
from metaopt.tasks.image_conv import image_conv
from metaopt.tasks.image_mixer import image_mixer
from metaopt.tasks.image_mlp import image_mlp
from metaopt.tasks.image_resnet import image_resnet
from metaopt.tasks.image_vae import image_vae
from metaopt.tasks.image_vit import image_vit
from metaopt.tasks.logistic_regression import logistic_regression
from metaopt.tasks.matrix_factorization import matrix_factorization
from metaopt.tasks.meta_training import meta_training
from metaopt.tasks.normalizing_flow import normalizing_flow
from metaopt.tasks.quadratic import quadratic
from metaopt.tasks.rnn_lm import rnn_lm
from metaopt.tasks.softmax_regression import softmax_regression
from metaopt.tasks.tabular_regression import tabular_regression
from metaopt.tasks.taskset_quadratic import taskset_quadratic
from metaopt.tasks.transformer_lm import transformer_lm
from metaopt.tasks.two_moons import two_moons
from metaopt.types import Task

__all__ = ["TASKS", "from_loss", "from_module", "make", "resolve"]

TASKS: dict[str, Callable[..., Task]] = {
    "image_mlp": image_mlp,
    "image_conv": image_conv,
    "image_resnet": image_resnet,
    "image_vit": image_vit,
    "image_mixer": image_mixer,
    "image_autoencoder": image_autoencoder,
    "image_vae": image_vae,
    "softmax_regression": softmax_regression,
    "logistic_regression": logistic_regression,
    "tabular_regression": tabular_regression,
    "two_moons": two_moons,
    "rnn_lm": rnn_lm,
    "transformer_lm": transformer_lm,
    "normalizing_flow": normalizing_flow,
    "coordinate_network": coordinate_network,
    "matrix_factorization": matrix_factorization,
    "meta_training": meta_training,
    "quadratic": quadratic,
    "taskset_quadratic": taskset_quadratic,
    "bowl": bowl,
    "valley": valley,
    "rosenbrock": rosenbrock,
    "ackley": ackley,
    "beale": beale,
    "styblinski_tang": styblinski_tang,
    # wrappers of any of these
    "reparametrized": partial(reparametrized, base=quadratic()),
    "small_batches": partial(small_batches, base=image_mlp()),
    "few_batches": partial(few_batches, base=image_mlp()),
    "noisy_gradients": partial(noisy_gradients, base=quadratic()),
    "normalized_gradients": partial(normalized_gradients, base=quadratic()),
    "low_rank_gradients": partial(low_rank_gradients, base=image_mlp()),
    "delayed_gradients": partial(delayed_gradients, base=quadratic()),
    "bfloat16": partial(bfloat16, base=image_mlp()),
}


def make(entry: Mapping[str, Any], key: str = "task") -> Task:
    """The task of an entry, {"name": ..., argument: value, ...}, as a config or a suite has it.

    Lists become tuples, and entries in it tasks. Raises ValueError, with the dotted key, when there is no such task or
    its factory refuses the arguments.
    """
    arguments = {argument: _frozen(value) for argument, value in entry.items()}
    name = arguments.pop("name")
    try:
        factory = resolve(name)
        for parameter in inspect.signature(factory).parameters.values():
            if parameter.annotation is Task and isinstance(arguments.get(parameter.name), Mapping):
                arguments[parameter.name] = make(arguments[parameter.name], f"{key}.{parameter.name}")
        return factory(**arguments)
    except (TypeError, ValueError) as error:
        nested = str(error).startswith(f"{key}.")
        raise ValueError(str(error) if nested else f"{key} ({name}): {error}") from error


def resolve(name: str) -> Callable[..., Task]:
    """The factory called `name` in TASKS, or the one that `module:function` stands for.

    The module is importable or a file of the working directory; `function` may be a Task as well. Raises ValueError
    where there is no such thing.
    """
    module, colon, function = name.partition(":")
    if not colon:
        if name not in TASKS:
            near = difflib.get_close_matches(name, TASKS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"no task of that name: {hint}Known: {', '.join(TASKS)}, or module:function")
        return TASKS[name]
    sys.path.insert(0, "")  # the working directory, which a console script does not have
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}: expected an importable module, or a file of the working directory") from error
    finally:
        sys.path.remove("")
    if not hasattr(loaded, function):
        raise ValueError(f"module {module} has no {function}")
    found = getattr(loaded, function)
    return (lambda: found) if isinstance(found, Task) else found


def _frozen(value: Any) -> Any:
    """Lists of a YAML or JSON text as the tuples that factories take."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
