"""Through the learned optimizers' face, optax's own rules: same numbers, learnable hyper-parameters."""

import inspect
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt.optimizers import OPTIMIZERS
from metaopt.optimizers._values import DECAYS
from metaopt.optimizers.hyper import _optimizers

CASES = {  # base -> (optax's factory, learnable, fixed)
    "sgd": (optax.sgd, {"learning_rate": 0.1}, {}),
    "momentum": (optax.sgd, {"learning_rate": 0.1, "momentum": 0.8}, {"nesterov": True}),
    "rmsprop": (optax.rmsprop, {"learning_rate": 0.01, "decay": 0.9, "eps": 1e-6}, {"centered": True}),
    "adam": (optax.adam, {"learning_rate": 0.01, "b1": 0.8, "b2": 0.99, "eps": 1e-6, "eps_root": 1e-8}, {}),
    "adamw": (optax.adamw, {"learning_rate": 0.01, "weight_decay": 0.1}, {"b1": 0.8}),
    "nadamw": (optax.nadamw, {"learning_rate": 0.01, "b1": 0.95, "weight_decay": 0.1}, {}),
    "lion": (optax.lion, {"learning_rate": 0.001, "b1": 0.9, "b2": 0.99}, {}),
    "adafactor": (optax.adafactor, {"learning_rate": 0.01, "clipping_threshold": 0.5}, {"min_dim_size_to_factor": 3}),
    "muon": (
        optax.contrib.muon,
        {"learning_rate": 0.01, "beta": 0.9, "weight_decay": 0.1, "eps": 1e-6, "adam_b1": 0.8, "adam_b2": 0.99},
        {"ns_steps": 4, "preconditioning": "aol"},
    ),
}
SHAPES = {"w": (3, 4), "bias": (4,), "scalar": (), "kernel": (2, 2, 3, 5)}
STEPS = 5


def draw(shapes, seed, *leading):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal((*leading, *shape)), jnp.float32) for name, shape in shapes.items()}


def train(tx, params, grads):
    """The params after a step for each of grads, [steps, ...]."""

    def step(carry, g):
        updates, state = tx.update(g, carry[1], carry[0], value=jnp.float32(1.0))
        return (optax.apply_updates(carry[0], updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), grads)[0][0]


@pytest.mark.parametrize("base", CASES)
def test_equals_optax(base):
    """Under vmap over theta: at the initial values, and where the rate is doubled and what a decay lacks to one too."""
    factory, learnable, fixed = CASES[base]
    optimizer = OPTIMIZERS["hyper"](base, learnable, fixed)
    empty = {"empty": jnp.zeros((0, 3))}
    params, grads = draw(SHAPES, 0), draw(SHAPES, 1, STEPS)
    twice = {name: 1 - 2 * (1 - x) if name in DECAYS else 2 * x for name, x in learnable.items()}

    def ours(theta):
        tx = optimizer.build(theta, 10)
        return train(tx, {**params, **empty}, {**grads, "empty": jnp.zeros((STEPS, 0, 3))})

    theta = optimizer.init(jax.random.key(0))
    results = jax.jit(jax.vmap(ours))(jax.tree.map(lambda u: jnp.stack([u, u + jnp.log(2.0)]), theta))
    assert results.pop("empty").shape == (2, 0, 3)
    for i, values in enumerate([learnable, twice]):
        tx = optax.with_extra_args_support(factory(**values, **fixed))
        theirs = jax.jit(lambda params, grads, tx=tx: train(tx, params, grads))(params, grads)
        # a value makes the round trip through log and exp in float32, 1e-6 relative; the steps are at most 0.2
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], results), theirs, rtol=1e-5, atol=1e-6)


def test_every_factory_of_optax_takes_traced_rates_and_decays():
    """Types alone: params of bfloat16, and a state that is stable under scan. sm3 has no scalars, some need more."""
    others = {
        "dpsgd",
        "lbfgs",
        "newton",
        "schedule_free",
        "sophia",
    }  # arguments without default, or functions of the loss
    params = {name: jnp.ones(shape, jnp.bfloat16) for name, shape in SHAPES.items() if shape}
    grads = {name: jnp.ones((STEPS, *p.shape), jnp.bfloat16) for name, p in params.items()}
    with warnings.catch_warnings(action="ignore"):  # noisy_sgd wants a key
        for base in _optimizers().keys() - others:
            optimizer = OPTIMIZERS["hyper"](base, learnable_of(base))
            moved = jax.eval_shape(
                lambda theta, optimizer=optimizer: train(optimizer.build(theta, 10), params, grads),
                optimizer.init(jax.random.key(0)),
            )
            chex.assert_trees_all_equal_shapes_and_dtypes(moved, params)


def learnable_of(base):
    """The rate and every default that is a number in range."""
    defaults = {name: p.default for name, p in inspect.signature(_optimizers()[base]).parameters.items()}
    numbers = {
        name: x for name, x in defaults.items() if isinstance(x, float) and 0 < x < (1 if name in DECAYS else 1e9)
    }
    return {"learning_rate": 1e-3, **numbers}


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
            "b1: a decay lies in [0, 1], got 1.5",
        ),
        (
            {"base": "adam", "learnable": {"learning_rate": 0.0}},
            "learnable.learning_rate: 0.0 has no logarithm to learn",
        ),
        ({"schedule": "cosin"}, "no schedule 'cosin'; did you mean 'cosine'"),
        ({"schedule": {"name": "cosine", "dips": 0}}, "schedule cosine: dips: must be at least 1, got 0"),
        ({"warmup": 1.5}, "warmup: a share of the horizon, 0 to 1, got 1.5"),
        (
            {"base": "muon", "learnable": {"learning_rate": 0.1, "ns_steps": 5}},
            "learnable.ns_steps: optax's muon takes",
        ),
        ({"base": "adam", "learnable": {"b1": 0.9}}, "optax's adam needs 'learning_rate'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError) as error:
        OPTIMIZERS["hyper"](**arguments)
    assert message in str(error.value)
