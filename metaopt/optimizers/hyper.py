"""Any optax optimizer with learnable hyper-parameters, on any schedule: the baselines' face, and the simplest learned
optimizer.

theta holds one unconstrained number per learnable hyper-parameter, by its meaning in optax (`_values`): `init` gives
exactly the values asked for, and equal steps in theta are equal factors in what matters. The learning rate at step t is

    learning_rate · schedule(t)        over num_steps, behind a linear warm-up of round(warmup · num_steps) steps

`base` is the name of any factory of optax or optax.contrib that takes a learning rate, or

    momentum, nesterov      sgd with a momentum of 0.9; v <- 0.9 v - rate g, p <- p + v, Nesterov's with g at p + 0.9 v
    newton                  damped, for at most 2,000 parameters (`_newton`)

What it needs beside gradients, parameters and the loss (as `value`) has to be handed to `update`: the inner loop gives
`grad`, the gradient again, and `value_fn`, the loss of the same batch as a function of the parameters, which L-BFGS
with its line search and Newton ask for. State is float32 whatever the dtype of the params; the base sees a list of
the leaves that are not empty, since some (muon) divide by their sizes.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaopt import schedules
from metaopt.optimizers._newton import newton
from metaopt.optimizers._values import theta_of, values_of
from metaopt.schedules import Schedule
from metaopt.types import LearnedOptimizer, PyTree

USUAL_RATE = 1e-3  # where the factory has none


def hyper(
    base: str = "adam",
    learnable: dict[str, float] | None = None,
    fixed: dict[str, float | int | bool | str] | None = None,
    schedule: Schedule = "constant",
    warmup: float = 0.0,
) -> LearnedOptimizer:
    """An optax factory `base` with hyper-parameters, the others being optax's.

    learnable: those in theta, with initial values; null: the learning rate, from optax's default or 1e-3
    fixed: those that stay
    schedule: of the learning rate, over the horizon
    warmup: share of the horizon

    Errors: ValueError when optax has no such factory, it has no such argument, or a value is out of its range.
    """
    fixed = dict(fixed or {})
    factory, rate = _factory(base, learnable or {"learning_rate": USUAL_RATE}, fixed)
    learnable = learnable or {"learning_rate": rate}
    start = _start(learnable)
    schedules.scale_by(schedule, 1.0, 1)  # raises ValueError
    if not 0 <= warmup <= 1:
        raise ValueError(f"warmup: a share of the horizon, 0 to 1, got {warmup}")

    def init(key: jax.Array) -> PyTree:
        del key
        return {name: jnp.asarray(u) for name, u in start.items()}

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        values: dict[str, Any] = {"learning_rate": rate, **fixed, **values_of(theta)}
        peak, steps = values.pop("learning_rate"), jnp.round(warmup * num_steps) if warmup else 0
        scale = schedules.scale_by(schedule, peak, num_steps, steps)
        tx = schedules.with_rate(lambda now: factory(learning_rate=now, **values), scale)

        def update_fn(grads, state, params=None, **extra):
            updates, state = tx.update(_filled(grads), state, _filled(params), **_lifted(extra, params))
            return _whole(updates, grads), state

        return optax.GradientTransformationExtraArgs(lambda params: tx.init(_filled(params)), update_fn)

    return LearnedOptimizer(init, build)


def _filled(tree: PyTree) -> list[jax.Array]:
    """The leaves that are not empty, at least float32: a traced hyper-parameter would turn a bfloat16 state into
    float32 at the first step.
    """
    return [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in jax.tree.leaves(tree) if x.size > 0]


def _whole(leaves: Iterable[jax.Array], like: PyTree) -> PyTree:
    """What `_filled` took apart, with the dtypes of `like`."""
    leaves = iter(leaves)
    return jax.tree.map(lambda x: next(leaves).astype(x.dtype) if x.size > 0 else x, like)


def _lifted(extra: dict[str, Any], params: PyTree) -> dict[str, Any]:
    """Arguments that speak of the params, in terms of what the base sees of these."""
    lifted = dict(extra)
    if (grad := extra.get("grad")) is not None:
        lifted["grad"] = _filled(grad)
    if (value_fn := extra.get("value_fn")) is not None:
        lifted["value_fn"] = lambda leaves: value_fn(_whole(leaves, params))
    return lifted


def _factory(
    base: str, learnable: Iterable[str], fixed: Iterable[str]
) -> tuple[Callable[..., optax.GradientTransformation], float]:
    """The factory of that name, and its learning rate if none is given."""
    factory = _optimizers().get(base)
    if factory is None:
        raise ValueError(f"base: optax has no optimizer {base!r}{_nearest(base, _optimizers())}")
    parameters = inspect.signature(factory).parameters
    for name in (*learnable, *fixed):
        if name not in parameters:
            raise ValueError(f"optax's {base} has no argument {name!r}{_nearest(name, parameters)}")
    for name in learnable:
        if isinstance(default := parameters[name].default, int | str):
            kind = type(default).__name__
            raise ValueError(f"learnable.{name}: optax's {base} takes a {kind}, which cannot be learned: fix it")
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in (*learnable, *fixed):
            raise ValueError(f"optax's {base} needs {name!r}: give it in learnable or in fixed")
    rate = parameters["learning_rate"].default
    return factory, {inspect.Parameter.empty: USUAL_RATE, None: 1.0}.get(rate, rate)  # lbfgs: None stands for 1


def _optimizers() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """By name, whatever of optax takes a learning rate and is no mere part of an optimizer; and what it lacks."""
    public = {**vars(optax.contrib), **vars(optax)}
    factories = {name: f for name, f in public.items() if isinstance(f, FunctionType | partial)}
    rated = {name: f for name, f in factories.items() if "learning_rate" in inspect.signature(f).parameters}
    optimizers = {name: f for name, f in rated.items() if not name.startswith(("_", "scale_by"))}
    momentum = partial(optax.sgd, momentum=0.9)
    return {**optimizers, "momentum": momentum, "nesterov": partial(momentum, nesterov=True), "newton": newton}


def _nearest(name: str, choices: Iterable[str]) -> str:
    match = difflib.get_close_matches(name, list(choices), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _start(learnable: dict[str, float]) -> dict[str, np.ndarray]:
    theta = theta_of(learnable)
    for name, u in theta.items():
        if not np.isfinite(u):
            raise ValueError(f"learnable.{name}: {learnable[name]} has no logarithm to learn: give it in fixed")
    return theta
