"""What `metaopt list optimizers` says of each architecture, computed from its code."""

import inspect
import re

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

from metaopt.optimizers import FACTS, OPTIMIZERS

NUMBERS = 1_000_000
PARAMS = {"w": jax.ShapeDtypeStruct((999, 1000), jnp.float32), "b": jax.ShapeDtypeStruct((1000,), jnp.float32)}


def size(tree) -> int:
    """Floats in a tree; counters do not count."""
    return sum(x.size for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_facts(name):
    optimizer, signatures = OPTIMIZERS[name](), []

    def two_steps(loss, horizon, theta, params):
        tx = optimizer.build(theta, horizon)
        signatures.append(inspect.signature(tx.update))
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(params, state, params, value=loss)
        return updates, state

    theta = jax.eval_shape(optimizer.init, jax.random.key(0))
    loss, horizon = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    program, (updates, state) = jax.make_jaxpr(two_steps, return_shape=True)(loss, horizon, theta, PARAMS)
    results = [True] * len(jax.tree.leaves(updates)) + [False] * len(jax.tree.leaves(state))
    _, (uses_loss, uses_horizon, *_) = dce_jaxpr(program.jaxpr, results)

    inputs = ("loss",) * uses_loss + ("horizon",) * uses_horizon
    assert FACTS[name] == (size(theta), round(size(state) / NUMBERS, 1), inputs)
    said = re.search(r"([\d,]+) numbers by default", OPTIMIZERS[name].__doc__ or "")
    assert said is None or said[1] == f"{size(theta):,}"  # the docstring
    value = signatures[0].parameters.get("value")  # metaopt.load asks for a loss where this has no default
    assert uses_loss == (value is not None and value.default is inspect.Parameter.empty)


def test_every_architecture_has_its_facts():
    assert list(FACTS) == list(OPTIMIZERS)
