"""What moves theta, given meta-gradients: any optimizer of optax, or a learned one; on means over outer steps.

`OUTER` has what optax lacks. A factory in it takes the learning rate, as a transformation that multiplies by it, and
the number of updates, then keywords of the config.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import GradientTransformationExtraArgs as Transformation

from metaopt import schedules
from metaopt.types import PyTree
from metaopt.weights import load


def learned(learning_rate: Transformation, num_steps: int, /, weights: str) -> Transformation:
    """A learned optimizer, from its weights, that trains another one or a copy of itself.

    weights: a run folder, a .safetensors file, or a name that ships with metaopt

    It is told that it makes `num_steps` updates, and these are multiplied by the learning rate. Raises CheckpointError.
    """
    return optax.chain(load(weights, num_steps=num_steps), learning_rate)


OUTER: dict[str, Callable[..., Transformation]] = {"learned": learned}
COORDINATEWISE = {  # of optax's, those to whom a tensor is no more than its coordinates
    *("adabelief", "adadelta", "adagrad", "adam", "adamax", "adamaxw", "adamw", "adan", "amsgrad", "lion", "nadam"),
    *("nadamw", "radam", "rmsprop", "rprop", "sgd", "sign_sgd", "yogi"),
}


def make(name: str, learning_rate: Transformation, num_steps: int, /, **kwargs: Any) -> Transformation:
    """The optimizer `name`, of OUTER or of optax, whose learning rate is what the transformation multiplies by."""
    if name in OUTER:
        return OUTER[name](learning_rate, num_steps, **kwargs)
    return schedules.with_rate(partial(getattr(optax, name), **kwargs), learning_rate)


class Accumulated(NamedTuple):
    """State of `accumulated`: that of the optimizer, the calls since its last update, their share of the means."""

    state: PyTree
    calls: jax.Array  # i32 scalar
    gradient: PyTree
    value: jax.Array


def accumulated(tx: optax.GradientTransformation, every: int) -> Transformation:
    """One update of `tx` at each `every`-th call, on the means of gradient and value over these calls; else zero.

    `optax.MultiSteps` would give `tx` the last value alone, which is the loss of one batch of tasks.
    """
    tx = optax.with_extra_args_support(tx)
    if every == 1:
        return tx

    def init_fn(params: PyTree) -> Accumulated:
        return Accumulated(tx.init(params), jnp.zeros((), jnp.int32), optax.tree.zeros_like(params), jnp.zeros(()))

    def update_fn(grads, state, params=None, *, value, **extra):
        del extra
        gradient = jax.tree.map(lambda total, g: total + g / every, state.gradient, grads)
        full = Accumulated(state.state, state.calls + 1, gradient, state.value + value / every)

        def update(full: Accumulated) -> tuple[PyTree, Accumulated]:
            updates, inner = tx.update(full.gradient, full.state, params, value=full.value)
            nothing = optax.tree.zeros_like((full.calls, full.gradient, full.value))
            return updates, Accumulated(inner, *nothing)

        def wait(full: Accumulated) -> tuple[PyTree, Accumulated]:
            return optax.tree.zeros_like(full.gradient), full

        return jax.lax.cond(full.calls == every, update, wait, full)

    return Transformation(init_fn, update_fn)
