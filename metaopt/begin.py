"""What a run begins with: theta, fresh or from weights, in part frozen or not; weights of a learned outer optimizer.

Files that a config names may be changed or removed while a run is interrupted, and frozen leaves are in no checkpoint.
So a run keeps copies in its folder, `START` and `OUTER`, and reads these when it is resumed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metaopt import weights
from metaopt.checkpoint import CheckpointError, restore_weights
from metaopt.config import Entry, RunConfig
from metaopt.freeze import freeze
from metaopt.train import RunError, first_theta
from metaopt.types import LearnedOptimizer, PyTree

START, OUTER = "start.safetensors", "outer.safetensors"


class Beginning(NamedTuple):
    """`optimizer` has the trained part of theta only, `whole` makes theta of it; copies: {file: (theta, metadata)}."""

    optimizer: LearnedOptimizer
    whole: Callable[[PyTree], PyTree]
    copies: dict[str, tuple[PyTree, dict[str, Any]]]


def beginning(config: RunConfig, learned: LearnedOptimizer, meta: dict[str, Any]) -> Beginning:
    """`learned` is the config's optimizer, `meta` the metadata of its weights files.

    Raises CheckpointError or RunError, with the config's key, for weights that are not there or do not fit, and for a
    pattern that freezes nothing or everything.
    """
    theta, copies = _first(config, learned), {}
    if theta is not None:
        copies[START] = (theta, {**meta, "outer_step": 0})
        learned = learned._replace(init=lambda key: theta)
    if config.outer.optimizer.name == "learned":
        with keyed("outer.optimizer.weights"):
            found = weights.read(config.outer.optimizer.kwargs["weights"])
        copies[OUTER] = (found.theta, found.meta)
    if config.freeze is None:
        return Beginning(learned, lambda whole: whole, copies)
    with keyed("freeze"):
        return Beginning(*freeze(learned, theta, config.freeze), copies)


def _first(config: RunConfig, learned: LearnedOptimizer) -> PyTree | None:
    """The whole theta to begin with, where weights are given or leaves are frozen."""
    if config.start is not None:
        with keyed("start"):
            template = jax.eval_shape(learned.init, jax.random.key(0))
            return jax.tree.map(jnp.asarray, restore_weights(weights.find(config.start), template))
    if config.freeze is not None:
        return jax.jit(lambda key: first_theta(learned, key, len(config.tasks)))(jax.random.key(config.seed))
    return None


def with_copies(config: RunConfig, folder: Path) -> RunConfig:
    """The config of the run in a folder, with the copies there in place of the weights that it names."""
    start, outer = config.start, config.outer
    if start is not None or config.freeze is not None:
        start = str(folder / START)
    if outer.optimizer.name == "learned":
        entry = Entry.model_validate({"name": "learned", "weights": str(folder / OUTER)})
        outer = outer.model_copy(update={"optimizer": entry})
    return config.model_copy(update={"start": start, "outer": outer})


@contextmanager
def keyed(key: str) -> Iterator[None]:
    """What is wrong with the value of a key of the config, told with the key."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from error
    except ValueError as error:
        raise RunError(f"{key}: {error}") from error
