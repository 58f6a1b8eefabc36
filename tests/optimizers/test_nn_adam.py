"""NN-Adam, written out in numpy for a model with tensors of every rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt.optimizers.nn_adam import nn_adam
from tests.estimators.problems import quick_jit
from tests.optimizers.test_hypernet import random_theta
from tests.optimizers.test_recurrent import linear, lstm

SHAPES = [(), (7,), (5, 3), (4, 2, 3), (2, 3, 17, 5), (130, 140)]  # the last one is large enough to be taken in pieces


def log_abs(x):
    return np.clip(np.log(1e-8 + np.abs(x)), -5, 5) / 2


def features(m, v, p, g, u):
    means, variances = ([f(x) for x in (m, v, p, g)] for f in (np.mean, np.var))
    sizes = log_abs(np.array([*means, np.mean(np.abs(g)), *variances]))
    flags = [1.0 if g.ndim == rank else -1.0 for rank in (0, 1)]
    return np.concatenate([sizes, np.sign(means), flags, np.clip(u, -5, 5) * 0.2])


def tensor_trajectory(theta, p, grads):
    """Of one tensor: no other one matters to it."""
    u, state, m, v = theta["start"]["hyper"], (theta["start"]["hidden"], theta["start"]["cell"]), 0.0, 0.0
    for g in grads:
        g = np.clip(g, -1000, 1000)
        lr, eps = np.clip(np.exp(10 * u[[0, 3]]), [1e-8, 1e-11], [1e3, 1e4])
        b1, b2 = 1 - np.exp(np.clip(10 * u[[1, 2]], -10, 0))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        state = lstm(theta["lstm"], state, features(m, v, p, g, u))
        p = p - lr * (1 + eps) * m / (eps + np.sqrt(v + 1e-10))
        u = u + 0.01 * linear(theta["out"], state[0])
    return p


def adam_like(p, grads):
    """The rule alone, with the hyper-parameters theta starts with."""
    lr, b1, b2, eps = 1e-4, 0.9, 0.999, 1e-8
    m = v = 0.0
    for g in grads:
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        p = p - lr * (1 + eps) * m / (eps + np.sqrt(v + 1e-10))
    return p


def ours(theta, params, grads):
    """float64 end to end: the state is float32 by contract, so it is lifted here."""
    tx = nn_adam().build(theta, 5)
    state = jax.tree.map(lambda x: x.astype(float), tx.init(params))

    @quick_jit
    def run(params, state, grads):
        def step(carry, g):
            updates, state = tx.update(g, carry[1], carry[0])
            return (jax.tree.map(jnp.add, carry[0], updates), state), None

        return jax.lax.scan(step, (params, state), grads)[0][0]

    return run(params, state, grads)


def problem(rng):
    """Float32 numbers, for gradients and parameters pass through float32 inside."""
    params = [jnp.asarray(np.float32(rng.standard_normal(shape)), float) for shape in SHAPES]
    return params, [np.float32(rng.standard_normal((5, *shape))).astype(float) for shape in SHAPES]


@pytest.mark.parametrize("start", [[1e-2, 0.1, 0.05, 1e-3], [1e4, 1e-9, 2.0, 1e-12]], ids=["inside", "out_of_bounds"])
def test_equation(start, x64):
    """In float64, so that only a wrong equation can differ; five steps, the second with a gradient that is clipped."""
    rng = np.random.default_rng(0)
    theta = jax.tree.map(lambda x: x.astype(float), random_theta(nn_adam(), rng))
    theta["start"]["hyper"] = 0.1 * np.log(start)
    params, grads = problem(rng)
    grads[1][1, 3] = 3000.0
    for p, q, g in zip(ours(theta, params, grads), params, grads, strict=True):
        expected = tensor_trajectory(theta, q, g)
        # p passes through float32 on its way to the LSTM: 6e-8 of inputs, of which a hundredth moves log lr, times 10
        np.testing.assert_allclose(p, expected, rtol=0, atol=1e-7 * np.abs(expected - q).max())


def test_without_the_network_it_is_the_rule_alone(x64):
    theta = nn_adam().init(jax.random.key(0))
    theta["out"] = jax.tree.map(jnp.zeros_like, theta["out"])
    params, grads = problem(np.random.default_rng(0))
    for p, q, g in zip(ours(theta, params, grads), params, grads, strict=True):
        # the logarithms, about 10 at most, are float32: lr and 1 - b2 are right within 5e-7, and p is exact
        np.testing.assert_allclose(p - q, adam_like(q, g) - q, rtol=2e-6, atol=1e-14)


def test_a_model_without_numbers():
    params = jnp.zeros((0, 3))
    tx = nn_adam().build(random_theta(nn_adam(), np.random.default_rng(0)), 5)
    assert tx.update(params, tx.init(params), params)[0].shape == (0, 3)
