"""Any optax optimizer with learnable hyper-parameters: the baselines' face, and the simplest learned optimizer.

theta holds one unconstrained number u per learnable hyper-parameter h, by its meaning in optax:

    h = exp(u)           for rates and scales that are positive (learning_rate, eps, weight_decay, ...)
    h = 1 - exp(u)       for decays (b1, b2, decay, momentum, ...), so that u = log(1 - h)

so that `init` gives exactly the values asked for, and equal steps in theta are equal factors in what matters. `base` is
the name of any factory of optax or optax.contrib that takes a learning rate, or `momentum`, sgd with a momentum of 0.9;
what it needs beside gradients, parameters and the loss (as `value`) has to be handed to `update`. State is float32
whatever the dtype of the params. Empty leaves are kept from the base, since some (muon) divide by their sizes.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType

import jax
import jax.numpy as jnp
import optax

from metaopt.types import LearnedOptimizer, PyTree

DECAYS = frozenset(
    {"b1", "b2", "b3", "decay", "momentum", "beta", "beta1", "beta2", "beta3", "mu", "rho", "adam_b1", "adam_b2"}
)


def hyper(
    base: str = "adam",
    learnable: dict[str, float] | None = None,
    fixed: dict[str, float | int | bool | str] | None = None,
) -> LearnedOptimizer:
    """An optax factory `base`; `learnable` hyper-parameters, in theta, with initial values; `fixed` ones.

    Errors: ValueError when optax has no such factory, it has no such argument, or a value is out of its range.
    """
    learnable, fixed = dict(learnable or {"learning_rate": 1e-3}), dict(fixed or {})
    factory = _factory(base, learnable, fixed)
    start = {name: _inverse(name, value) for name, value in learnable.items()}

    def init(key: jax.Array) -> PyTree:
        del key
        return {name: jnp.float32(u) for name, u in start.items()}

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        del num_steps
        values = {name: -jnp.expm1(u) if name in DECAYS else jnp.exp(u) for name, u in theta.items()}
        tx = optax.masked(factory(**fixed, **values), lambda tree: jax.tree.map(lambda x: x.size > 0, tree))

        def update_fn(grads, state, params=None, **extra):
            updates, state = tx.update(_lifted(grads), state, _lifted(params), **extra)
            return jax.tree.map(lambda u, g: u.astype(g.dtype), updates, grads), state

        return optax.GradientTransformationExtraArgs(lambda params: tx.init(_lifted(params)), update_fn)

    return LearnedOptimizer(init, build)


def _lifted(tree: PyTree) -> PyTree:
    """At least float32: a traced hyper-parameter would turn a bfloat16 state into float32 at the first step."""
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)


def _factory(base: str, learnable: Iterable[str], fixed: Iterable[str]) -> Callable[..., optax.GradientTransformation]:
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
    return factory


def _optimizers() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """By name, whatever of optax takes a learning rate and is no mere part of an optimizer."""
    public = {**vars(optax.contrib), **vars(optax)}
    factories = {name: f for name, f in public.items() if isinstance(f, FunctionType | partial)}
    rated = {name: f for name, f in factories.items() if "learning_rate" in inspect.signature(f).parameters}
    optimizers = {name: f for name, f in rated.items() if not name.startswith(("_", "scale_by"))}
    return {**optimizers, "momentum": partial(optax.sgd, momentum=0.9)}


def _nearest(name: str, choices: Iterable[str]) -> str:
    match = difflib.get_close_matches(name, list(choices), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _inverse(name: str, value: float) -> float:
    """The unconstrained number that stands for the value."""
    if name in DECAYS and not 0 <= value < 1:
        raise ValueError(f"learnable.{name}: a decay lies in [0, 1), got {value}")
    if name not in DECAYS and value <= 0:
        raise ValueError(f"learnable.{name}: must be positive (it is learned as a logarithm), got {value}")
    return math.log1p(-value) if name in DECAYS else math.log(value)
