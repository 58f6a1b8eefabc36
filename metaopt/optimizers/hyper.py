"""Any optax optimizer with learnable hyper-parameters: the baselines' face, and the simplest learned optimizer.

theta holds one unconstrained number u per learnable hyper-parameter h, by its meaning in optax:

    h = exp(u)           for rates and scales that are positive (learning_rate, eps, weight_decay, ...)
    h = 1 - exp(u)       for decays (b1, b2, decay, momentum, ...), so that u = log(1 - h)

so that `init` gives exactly the values asked for, and equal steps in theta are equal factors in what matters.
"""

import math

import jax
import jax.numpy as jnp
import optax

from metaopt.types import LearnedOptimizer, PyTree

DECAYS = frozenset({"b1", "b2", "b3", "decay", "momentum", "beta", "beta1", "beta2", "mu"})


def hyper(
    base: str = "adam", learnable: dict[str, float] | None = None, fixed: dict[str, float] | None = None
) -> LearnedOptimizer:
    """An optax factory `base`; `learnable` hyper-parameters, in theta, with initial values; `fixed` ones.

    Errors: ValueError when optax has no such factory, it has no such argument, or a value is out of its range.
    """
    learnable, fixed = dict(learnable or {"learning_rate": 1e-3}), dict(fixed or {})
    factory = _factory(base, [*learnable, *fixed])
    start = {name: _inverse(name, value) for name, value in learnable.items()}

    def init(key: jax.Array) -> PyTree:
        del key
        return {name: jnp.float32(u) for name, u in start.items()}

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        del num_steps
        values = {name: -jnp.expm1(u) if name in DECAYS else jnp.exp(u) for name, u in theta.items()}
        tx = optax.with_extra_args_support(factory(**fixed, **values))

        def update_fn(grads, state, params=None, **extra):
            updates, state = tx.update(grads, state, params, **extra)
            return jax.tree.map(
                lambda u, g: u.astype(g.dtype), updates, grads
            ), state  # a traced rate promotes bfloat16

        return optax.GradientTransformationExtraArgs(tx.init, update_fn)

    return LearnedOptimizer(init, build)


def _factory(base: str, names: list[str]):
    import difflib
    import inspect

    factory = getattr(optax, base, None)
    parameters = dict(inspect.signature(factory).parameters) if callable(factory) else {}
    if "learning_rate" not in parameters:
        raise ValueError(f"base: optax has no optimizer {base!r}{_nearest(base, dir(optax), difflib)}")
    for name in names:
        if name not in parameters:
            raise ValueError(f"optax.{base} has no argument {name!r}{_nearest(name, parameters, difflib)}")
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in names:
            raise ValueError(f"optax.{base} needs {name!r}: give it in learnable or in fixed")
    return factory


def _nearest(name: str, choices, difflib) -> str:
    match = difflib.get_close_matches(name, list(choices), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _inverse(name: str, value: float) -> float:
    """The unconstrained number that stands for the value."""
    if name in DECAYS and not 0 <= value < 1:
        raise ValueError(f"learnable.{name}: a decay lies in [0, 1), got {value}")
    if name not in DECAYS and value <= 0:
        raise ValueError(f"learnable.{name}: must be positive (it is learned as a logarithm), got {value}")
    return math.log1p(-value) if name in DECAYS else math.log(value)
