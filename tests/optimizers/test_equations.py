"""The published equations, written out in numpy for one tensor of any rank, against the fused implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt.optimizers import OPTIMIZERS

# The last three are too large for a flat block.
SHAPES = [(), (7,), (5, 3), (3, 20), (20, 3), (4, 2, 3), (2, 3, 17, 5), (30, 40), (2, 3, 17, 12), (1100,)]


def network(theta, x):
    layers = len(theta) // 2
    for i in range(layers):
        x = x @ theta[f"w{i}"] + theta[f"b{i}"]
        x = np.maximum(x, 0) if i < layers - 1 else x
    return x


def normalise(x):
    """[*shape, k], each feature over its root mean square over the tensor."""
    return x / np.sqrt(1e-5 + np.mean(x**2, axis=tuple(range(x.ndim - 1)), keepdims=True))


def time_features(t, shape):
    taus = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])
    return np.broadcast_to(np.tanh(t / taus - 1), (*shape, 11))


def step_of(theta, features, t):
    out = network(theta, np.concatenate([features, time_features(t, features.shape[:-1])], -1))
    return -1e-3 * out[..., 0] * np.exp(1e-3 * out[..., 1])


def mlp(theta, grads, params):
    m = np.zeros((*params.shape, 6))
    b = np.array([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999])
    for t, g in enumerate(grads):
        m = b * m + (1 - b) * g[..., None]
        params = params + step_of(theta, normalise(np.concatenate([g[..., None], params[..., None], m], -1)), t)
    return params


def adafac_decays(theta):
    def decay(start, name):  # they start at float32's .999, of which 1 - .999 is 1.3e-5 smaller
        return 1 - np.exp(10 * (np.log(1 - np.float64(np.float32(start))) / 10 + theta["decays"][name]))

    return decay([0.9, 0.99, 0.999], "m"), decay([0.999], "v"), decay([0.9, 0.99, 0.999], "factored")


def adafac_features(b, bv, bf, v_eps=1e-6, vector_eps=1e-6):
    """(g, p) -> (features [*shape, 28], m [*shape, 3], v [*shape, 1]); the accumulators live from call to call."""
    m, v, row, col = 0.0, 0.0, 0.0, 0.0

    def features(g, p):
        nonlocal m, v, row, col
        m, v = b * m + (1 - b) * g[..., None], bv * v + (1 - bv) * g[..., None] ** 2
        square = (g**2 + 1e-30)[..., None]
        if g.ndim < 2:
            row = col = bf * row + (1 - bf) * square
            f_g, f_m = np.maximum(row + 1e-9, 1e-9) ** -0.5, (row + vector_eps) ** -0.5
        else:
            second, largest = np.argsort(g.shape, kind="stable")[-2:]
            row = bf * row + (1 - bf) * square.mean(largest, keepdims=True)
            col = bf * col + (1 - bf) * square.mean(second, keepdims=True)
            f_g = np.maximum(row / (row.mean(second, keepdims=True) + 1e-9), 1e-9) ** -0.5
            f_g = f_m = f_g * np.maximum(col, 1e-9) ** -0.5
        full = [g[..., None], p[..., None], m, v, m * (v + v_eps) ** -0.5, (v + v_eps) ** -0.5, g[..., None] * f_g]
        full += [row, col, (row + 1e-8) ** -0.5, (col + 1e-8) ** -0.5, m * f_m]
        return np.concatenate([np.broadcast_to(x, (*g.shape, x.shape[-1])) for x in full], -1), m, v

    return features


def adafac_mlp(theta, grads, params):
    features = adafac_features(*adafac_decays(theta))
    for t, g in enumerate(grads):
        params = params + step_of(theta["mlp"], normalise(features(g, params)[0]), t)
    return params


def moved_theta(optimizer, rng):
    """A theta in which nothing is zero, float64."""
    theta = jax.tree.map(lambda x: np.asarray(x, np.float64), optimizer.init(jax.random.key(0)))
    return jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape), theta)


def run(tx, grads, params):
    """The params, an array or a tree, after a step for each of grads. Under x64 it is float64 end to end: the state's
    accumulators are float32 by contract, so they are lifted here."""
    state = tx.init(params)
    if jax.config.jax_enable_x64:
        state = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(jnp.float64), state)
    step = jax.jit(lambda g, s, p: tx.update(g, s, p, value=0.0))
    for g in grads:
        updates, state = step(jax.tree.map(jnp.asarray, g), state, jax.tree.map(jnp.asarray, params))
        params = jax.tree.map(np.add, params, updates)
    return params


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name, equation", [("mlp", mlp), ("adafac_mlp", adafac_mlp)])
def test_equation(name, equation, shape, x64):
    """In float64, so that only a wrong equation can differ; five steps, so that every accumulator has moved."""
    rng = np.random.default_rng(SHAPES.index(shape))
    optimizer = OPTIMIZERS[name]()
    theta = moved_theta(optimizer, rng)
    params, grads = rng.standard_normal(shape), rng.standard_normal((5, *shape))
    moved = run(optimizer.build(theta, 5), grads, params)
    # g and p pass through float32 inside; steps are about 1e-3, so 1e-8 is 1e-5 of a step
    np.testing.assert_allclose(moved, equation(theta, grads, params), rtol=0, atol=1e-8)
    assert np.abs(moved - params).max() > 1e-5
