"""nadamw8p and adam8p against optax and the equation in numpy; hyper-parameters as theta holds them."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt.optimizers import OPTIMIZERS
from metaopt.optimizers._values import theta_of, values_of
from tests.estimators.problems import quick_jit

STEPS, SHAPES = 12, {"w": (3, 2), "b": (2,), "s": (), "still": (2,)}
RNG = np.random.default_rng(0)
PARAMS = {name: RNG.standard_normal(shape) for name, shape in SHAPES.items()}
GRADS = {name: RNG.standard_normal((STEPS, *shape)) for name, shape in SHAPES.items()}
GRADS["still"] = np.zeros((STEPS, 2))
NADAMW = {
    "learning_rate": [0.1, 0.02, 0.3],
    "b1": [0.9, 0.0, 0.99],
    "b2": [0.99, 0.999, 1 - 1e-5],
    "eps": [1e-8, 0.1, 1e-3],
    "nesterov": [0.0, 1.0, 0.5],
    "weight_decay": [0.1, 0.0, 0.5],
    "l2": [0.0, 0.3, 0.1],
    "warmup": [0.0, 0.3, 0.9],  # beyond the constant stretch: it is over with that
    "constant": [0.5, 1.0, 0.25],
    "end": [0.0, 0.1, 0.2],
}
ADAM = {
    "learning_rate": [0.1, 0.02],
    "b1": [0.9, 0.5],
    "b2": [0.99, 1 - 1e-5],
    "eps": [1e-8, 0.1],
    "l1": [0.0, 0.2],
    "l2": [0.1, 0.3],
    "linear_decay": [2e-4, 0.0],  # the rate is zero after half of the run
    "exponential_decay": [0.0, 1e-3],
}


def nadamw_rate(h, t, steps):
    steady = h["constant"] * steps
    warm = min(h["warmup"] * steps, steady)
    rate = min(1.0, (t + 1) / (warm + 1))
    if t > steady:
        rate *= h["end"] + (1 - h["end"]) * (1 + np.cos(np.pi * (t - steady) / (steps - steady))) / 2
    return rate


def adam_rate(h, t, steps):
    s = t * 10_000 / steps
    return max(0.0, 1 - h["linear_decay"] * s) * np.exp(-h["exponential_decay"] * s)


def in_numpy(h, rate, pull, p, grads, steps):
    """The params after each step."""
    m, v, path = np.zeros_like(p), np.zeros_like(p), []
    for t, g in enumerate(grads):
        g = g + pull * p + h.get("l1", 0.0) * np.sign(p)
        m, v = h["b1"] * m + (1 - h["b1"]) * g, h["b2"] * v + (1 - h["b2"]) * g**2
        plain = m / (1 - h["b1"] ** (t + 1))
        ahead = h["b1"] * m / (1 - h["b1"] ** (t + 2)) + (1 - h["b1"]) * g / (1 - h["b1"] ** (t + 1))
        n = h.get("nesterov", 0.0)
        d = ((1 - n) * plain + n * ahead) / (np.sqrt(v / (1 - h["b2"] ** (t + 1))) + h["eps"])
        p = p - h["learning_rate"] * rate(h, t, steps) * (d + h.get("weight_decay", 0.0) * p)
        path.append(p)
    return np.array(path)


def path(tx, names=tuple(SHAPES)):
    def step(carry, g):
        updates, state = tx.update(g, carry[1], carry[0], value=0.0)
        params = optax.apply_updates(carry[0], updates)
        return (params, state), params

    params, grads = ({name: jnp.asarray(tree[name], jnp.float32) for name in names} for tree in (PARAMS, GRADS))
    return jax.lax.scan(step, (params, tx.init(params)), grads)[1]


@pytest.mark.parametrize(
    ("name", "values", "rate", "pull"), [("nadamw8p", NADAMW, nadamw_rate, 1), ("adam8p", ADAM, adam_rate, 2)]
)
def test_equation(name, values, rate, pull):
    """All candidates at once, under vmap over theta; of nadamw8p two steps beyond the horizon, at the last rate."""
    horizon = STEPS - 2 if name == "nadamw8p" else STEPS
    build = OPTIMIZERS[name]().build
    paths = quick_jit(jax.vmap(lambda theta: path(build(theta, horizon))))(theta_of(values))
    for i in range(len(values["b1"])):
        h = {key: value[i] for key, value in values.items()}
        for leaf, p in PARAMS.items():
            clamped = lambda h, t, steps: rate(h, min(t, steps), steps)  # noqa: E731
            expected = in_numpy(h, clamped, pull * h["l2"], p, GRADS[leaf], horizon)
            # each of the twelve steps, of at most 0.3, rounds in float32 some ten times
            np.testing.assert_allclose(paths[leaf][i], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("nesterov", "theirs"), [(0.0, optax.adamw), (1.0, optax.nadamw)])
def test_nadamw8p_is_optax(nesterov, theirs):
    given = {"learning_rate": 0.1, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.2}
    ours = OPTIMIZERS["nadamw8p"](**given, nesterov=nesterov, l2=0.0, warmup=0.0, constant=1.0)
    got = quick_jit(lambda theta: path(ours.build(theta, STEPS)))(ours.init(jax.random.key(0)))
    chex.assert_trees_all_close(got, quick_jit(partial(path, theirs(**given)))(), rtol=1e-5, atol=1e-6)


def test_zeros_are_exact_and_give_no_nan():
    optimizer = OPTIMIZERS["nadamw8p"](weight_decay=0.0, l2=0.0, warmup=0.0, constant=0.0, end=0.0)
    theta = optimizer.init(jax.random.key(0))
    assert theta["warmup"] == -np.inf and values_of(theta)["warmup"] == 0.0

    def loss(theta):
        moved = path(optimizer.build(theta, STEPS), names=("b", "still"))
        return jnp.sum(moved["b"] ** 2) + jnp.sum(moved["still"] ** 2)

    value, gradient = quick_jit(jax.value_and_grad(loss))(theta)
    chex.assert_tree_all_finite((value, gradient))
    assert gradient["weight_decay"] == 0.0 and gradient["learning_rate"] != 0.0


def test_values_there_and_back():
    values = {"b1": [0.0, 0.9, 1 - 1e-6, 1.0], "learning_rate": [0.0, 1e-8, 1e3, 1.0], "nesterov": [0.0, 0.5, 1.0, 1]}
    theta = theta_of(values)
    assert {x.dtype for x in theta.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(theta["b1"], [0.0, np.log(0.1), np.log(1e-6), -np.inf], rtol=1e-6)
    back = values_of(theta)
    for name, given in values.items():
        # u of up to 18 has an error of 1e-6 in float32, which is relative in h (or in 1 - h)
        np.testing.assert_allclose(back[name], given, rtol=1e-6)
    np.testing.assert_allclose(np.exp(theta["b1"]), [1.0, 0.1, 1e-6, 0.0], rtol=1e-6)


@pytest.mark.parametrize("name, value", [("b1", 1.1), ("b1", -0.1), ("eps", -1.0), ("warmup", np.nan)])
def test_values_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name}: .*got"):
        OPTIMIZERS["nadamw8p"](**{name: value})
