"""The hierarchical optimizer of Metz et al. 2020, written out in numpy for a model with tensors of every rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt.optimizers.rnn_mlp import rnn_mlp
from tests.estimators.problems import quick_jit
from tests.optimizers.test_equations import network, normalise
from tests.optimizers.test_hypernet import random_theta
from tests.optimizers.test_recurrent import linear, lstm

SIZES = {"hidden": 12, "lstm_hidden": 9, "lstm_to_mlp": 3, "mlp_to_lstm": 4, "lstm_to_lstm": 5}
B = np.array([0.5, 0.9, 0.99, 0.999, 0.9999])
TAUS = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])


def log_abs(x):
    return np.clip(np.log(1e-8 + np.abs(x)), -5, 5)


def statistics(g, p, m, v):
    """Of one tensor; moments are stacked last."""
    shape = [*p.shape[:3], *[1] * (3 - len(p.shape[:3])), int(np.prod(p.shape[3:]))]
    magnitudes = [f(x) for f in (np.mean, np.var) for x in (m, v, p)]
    magnitudes = log_abs(np.array([*magnitudes, np.sqrt(np.sum(g**2)), np.sqrt(np.sum(p**2))]))
    signs = np.sign([np.mean(x) for x in (m, v, p)])
    return np.concatenate([magnitudes, signs, [1.0 if p.ndim == 0 else -1.0], np.log(shape) - 1])


def trajectory(theta, params, grads, values, valid_values):
    start, n = theta["start"], len(params)
    h, c, s = ([start[name]] * n for name in ("hidden", "cell", "from_mlp"))
    r, m, v = start["from_lstm"], [0.0] * n, [0.0] * n
    clip, mean, var, valid, count = 0.01, 0.0, 0.0, 0.0, 0
    for t, (gs, value, valid_value) in enumerate(zip(grads, values, valid_values, strict=True)):
        limit = 10 * clip / (1 - 0.99 ** (t + 1))
        gs = [np.clip(g, -limit, limit) for g in gs]
        clip = 0.99 * clip + 0.01 * np.sqrt(1e-8 + np.mean([np.mean(g**2) for g in gs]))
        mean = 0.9 * mean + 0.1 * value
        var = 0.9 * var + 0.1 * (value - mean) ** 2
        if valid_value is not None:
            valid, count = 0.95 * valid + 0.05 * valid_value, count + 1
        correct = 1 - 0.9 ** (t + 1)
        losses = np.array([value, valid / max(1 - 0.95**count, 1e-8)])
        losses = np.clip((losses - mean / correct) / np.sqrt(var / correct + 1e-8), -5, 5)
        for k, (g, p) in enumerate(zip(gs, params, strict=True)):
            m[k] = B * m[k] + (1 - B) * g[..., None]
            v[k] = B * v[k] + (1 - B) * g[..., None] ** 2
            x = np.concatenate([statistics(g, p, m[k], v[k]), s[k], losses, r])
            h[k], c[k] = lstm(theta["lstm"], (h[k], c[k]), x)
            norm = np.log(1e-8 + np.sqrt(np.sum(p**2)))
            constants = [
                *np.sin(t / (np.pi * TAUS)),
                np.log(n) - 1,
                norm,
                np.log(p.size),
                *linear(theta["to_mlp"], h[k]),
            ]
            single = np.stack([g, p, np.log(1e-8 + np.abs(p))], -1)
            root = np.sqrt(v[k] + 1e-6)
            own = normalise(np.concatenate([single, m[k], v[k], m[k] / root, 1 / root], -1))
            constants = np.broadcast_to(constants, (*p.shape, len(constants)))
            out = network(theta["mlp"], np.concatenate([own, constants], -1))
            params[k] = p - 1e-3 * out[..., 0] * np.exp(1e-3 * out[..., 1])
            s[k] = np.mean(out[..., 2:], axis=tuple(range(p.ndim)))
        r = np.mean([linear(theta["to_lstm"], x) for x in h], 0)
    return params


@pytest.mark.parametrize(
    "shapes, valid_values",
    [
        ([(), (7,), (5, 3), (4, 2, 3), (2, 3, 17, 12), (130, 140)], [None] * 3),  # two large, one of them in pieces
        ([(2, 1, 3, 2, 2)], [None, 1.25, 3.0, None, 0.5]),
    ],
    ids=["ranks", "validation"],
)
def test_equation(shapes, valid_values, x64):
    """In float64, so that only a wrong equation can differ; several steps, one with gradients that get clipped."""
    rng = np.random.default_rng(0)
    optimizer, steps = rnn_mlp(**SIZES), len(valid_values)
    theta = jax.tree.map(lambda x: x.astype(float), random_theta(optimizer, rng))
    params = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    grads = [[(30.0 if t == 1 else 1.0) * rng.standard_normal(shape) for shape in shapes] for t in range(steps)]
    values = [2.0, 1.5, 1.75, 0.5, 1.0][:steps]
    tx = optimizer.build(theta, steps)
    # float64 end to end: the state is float32 by contract, so it is lifted here
    state = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, tx.init(params))
    step = quick_jit(lambda g, s, p, value, valid: tx.update(g, s, p, value=value, valid_value=valid))
    p = [jnp.asarray(x, float) for x in params]
    for g, value, valid in zip(grads, values, valid_values, strict=True):
        updates, state = step(g, state, p, value, valid)
        p = [x + u for x, u in zip(p, updates, strict=True)]
    expected = trajectory(theta, [x.astype(float) for x in params], grads, values, valid_values)
    for x, y, x0 in zip(p, expected, params, strict=True):
        # g, p and the losses pass through float32 inside; steps are about 1e-3, so 1e-8 is 1e-5 of a step
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-8)
        assert np.abs(y - x0).max() > 1e-5


def test_the_loss_is_required():
    def first_step(key, params):
        tx = rnn_mlp().build(rnn_mlp().init(key), 5)
        return tx.update(params, tx.init(params), params)

    with pytest.raises(TypeError, match="value"):
        jax.eval_shape(first_step, jax.random.key(0), jnp.ones(3))


def test_a_model_without_numbers():
    params = jnp.zeros((0, 3))
    tx = rnn_mlp().build(random_theta(rnn_mlp(), np.random.default_rng(0)), 5)
    assert tx.update(params, tx.init(params), params, value=1.0)[0].shape == (0, 3)
