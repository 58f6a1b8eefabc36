"""Celo2's equation in numpy, both for its matrices and for its vectors; its schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt.optimizers.celo2 import celo2
from tests.optimizers.test_equations import adafac_features, moved_theta, network, run

B = np.float64(np.float32([0.9, 0.99, 0.999]))
B1, B2 = np.float64(np.float32([0.9, 0.95]))
BY_ROWS_AND_COLUMNS = slice(13, 28)


def normalise(x, axes):
    return x / np.sqrt(1e-9 + np.mean(x**2, axis=axes, keepdims=True))


def orthogonal(matrix):
    if matrix.ndim > 2:
        return np.stack([orthogonal(x) for x in matrix])
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / np.linalg.norm(x)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def learned(theta, grads, params, rates, weight_decay, orthogonalize):
    features = adafac_features(B, np.float64(np.float32([0.95])), B, v_eps=1e-8, vector_eps=0.0)
    last_two = tuple(range(params.ndim))[-2:]
    for g, rate in zip(grads, rates, strict=True):
        x, _, v = features(g, params)
        x = np.concatenate([x, np.clip(g, -0.1, 0.1)[..., None], g[..., None] * (v + 1e-8) ** -0.5], -1)
        x = normalise(x, last_two)
        if params.ndim < 2:
            x[..., BY_ROWS_AND_COLUMNS] = 0
        d = network(theta, x)[..., 0]
        d = orthogonal(d) if orthogonalize and d.ndim > 1 else d
        params = params - rate * (normalise(d, last_two) + weight_decay * params)
    return params


def adam(grads, params, rates, weight_decay):
    m = v = 0.0
    for g, rate in zip(grads, rates, strict=True):
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        params = params - 20 * rate * (m / np.sqrt(v + 1e-8) + weight_decay * params)
    return params


def check(shapes, rates, **options):
    rng, optimizer = np.random.default_rng(0), celo2(weight_decay=0.1, **options)
    theta = moved_theta(optimizer, rng)
    params = {str(shape): rng.standard_normal(shape) for shape in shapes}
    # float32's, because gradients pass through it: a normaliser or an iteration would show its rounding
    grads = [{name: np.float64(np.float32(rng.standard_normal(p.shape))) for name, p in params.items()} for _ in rates]
    moved = run(optimizer.build(theta, len(rates)), grads, params)
    for name, p in params.items():
        g = [step[name] for step in grads]
        if p.ndim < 2 and options.get("vectors") != "mlp":
            expected = adam(g, p, rates, 0.1)
        else:
            expected = learned(theta, g, p, rates, 0.1, options.get("orthogonalize", True))
        # p passes through float32, 6e-8; the iteration makes of that at most 3.4445^5 times as much; rates are 1e-3
        np.testing.assert_allclose(moved[name], expected, rtol=0, atol=3e-8)
        assert np.abs(moved[name] - p).max() > 1e-4


@pytest.mark.parametrize("shapes", [[(), (7,), (5, 3), (2, 3, 4, 5)], [(30, 40), (3, 30, 20)]], ids=str)
def test_equation(shapes, x64):
    """Every rank, side by side and large enough for a block of its own; warm-up and half a cosine."""
    rates = [0.5e-3, 1e-3, 0.75e-3, 0.25e-3]
    check(shapes, rates, schedule="cosine", warmup=1)


def test_base(x64):
    """The published Celo2-base: the network moves everything, no orthogonalisation."""
    check([(), (7,), (4, 2, 3)], [1e-3] * 3, orthogonalize=False, vectors="mlp")


def test_beyond_the_horizon_the_rate_stays():
    """A traced horizon of two steps, four taken: the last three at the schedule's end, a hundredth of its peak."""
    optimizer = celo2(schedule="exponential")
    theta = optimizer.init(jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(theta)) == 329
    params, sizes = {"w": jnp.ones((4, 4))}, []

    @jax.jit
    def step(num_steps, state):
        return optimizer.build(theta, num_steps).update({"w": jnp.eye(4)}, state, params)

    state = optimizer.build(theta, 2).init(params)
    for _ in range(4):
        updates, state = step(jnp.int32(2), state)
        sizes.append(float(jnp.sqrt(jnp.mean(updates["w"] ** 2))))
    np.testing.assert_allclose(sizes, [1e-3, 1e-4, 1e-5, 1e-5], rtol=1e-5)
