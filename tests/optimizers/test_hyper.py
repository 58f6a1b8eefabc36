"""Through the learned optimizers' face, optax's own rules: same numbers, learnable hyper-parameters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt.optimizers import OPTIMIZERS

CASES = {
    "sgd": {"learning_rate": 0.1, "momentum": 0.9},
    "rmsprop": {"learning_rate": 0.01, "decay": 0.9},
    "adam": {"learning_rate": 0.01, "b1": 0.8, "b2": 0.99, "eps": 1e-6},
    "adamw": {"learning_rate": 0.01, "weight_decay": 0.1},
    "nadamw": {"learning_rate": 0.01, "b1": 0.95},
    "lion": {"learning_rate": 0.001, "b1": 0.9, "b2": 0.99},
}


@pytest.mark.parametrize("base", CASES)
def test_equals_optax(base):
    values = CASES[base]
    optimizer = OPTIMIZERS["hyper"](base, learnable=values)
    ours, theirs = optimizer.build(optimizer.init(jax.random.key(0)), 10), getattr(optax, base)(**values)
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)}
    a, b, state_a, state_b = params, params, ours.init(params), theirs.init(params)
    for _ in range(5):
        grads = {"w": jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)}
        updates, state_a = ours.update(grads, state_a, a, value=1.0)
        a = optax.apply_updates(a, updates)
        updates, state_b = theirs.update(grads, state_b, b)
        b = optax.apply_updates(b, updates)
    # a value makes the round trip through log and exp in float32: 1e-6 relative
    chex.assert_trees_all_close(a, b, rtol=1e-5, atol=1e-6)


def test_decays_move_by_their_distance_from_one():
    optimizer = OPTIMIZERS["hyper"]("adam", learnable={"b1": 0.9}, fixed={"learning_rate": 0.01})
    theta = optimizer.init(jax.random.key(0))
    np.testing.assert_allclose(theta["b1"], np.log(0.1), rtol=1e-6)
    assert set(theta) == {"b1"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"base": "adm"}, "no optimizer 'adm'; did you mean 'adam'"),
        ({"base": "adam", "learnable": {"learning_rat": 1.0}}, "did you mean 'learning_rate'"),
        (
            {"base": "adam", "learnable": {"learning_rate": 0.1, "b1": 1.5}},
            "learnable.b1: a decay lies in [0, 1), got 1.5",
        ),
        ({"base": "adam", "learnable": {"learning_rate": 0.0}}, "learnable.learning_rate: must be positive"),
        ({"base": "adam", "learnable": {"b1": 0.9}}, "optax.adam needs 'learning_rate'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError) as error:
        OPTIMIZERS["hyper"](**arguments)
    assert message in str(error.value)
