"""VeLO, Celo and Celo-Adam: their whole updates in numpy, and short horizons."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt.optimizers import OPTIMIZERS

SHAPES = [(), (7,), (1, 6), (4, 2, 3), (2, 3, 5, 2), (40, 30)]  # the last is too large for a flat block
DECAYS = np.array([0.9, 0.99, 0.999], np.float32).astype(np.float64)  # as the implementation has them
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
STEPS, HORIZON = 14, 12


def linear(theta, x):
    return x @ theta["w"] + theta["b"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Recurrent:
    """One row a tensor; the loss averages written as in the paper, with decays and their powers."""

    def __init__(self, theta, rows):
        self.theta, self.t = theta, 0
        self.decays = np.exp(-1 / np.logspace(1, np.log10(HORIZON), 10))
        self.means, self.lowest = np.zeros(10), np.full(10, np.inf)
        self.h, self.c = (np.tile(theta["start"][name], (rows, 1)) for name in ("hidden", "cell"))

    def loss_inputs(self, value):
        self.t += 1
        correction = 1 - self.decays**self.t
        limit = value if self.t == 1 else np.abs(np.max(self.means / correction)) * 2
        self.means = self.decays * self.means + (1 - self.decays) * np.minimum(value, limit)
        e = self.means / correction
        self.lowest = low = np.minimum(self.lowest, e)
        inputs = (e - low)[:-1] / np.maximum(e[1:] - low[:-1], 1e-8) - 1
        return np.clip(inputs, -1, 1) * (self.t > 2)

    def __call__(self, value, others):
        fractions = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1, 1.1])
        shared = np.concatenate([np.tanh(10 * (self.t / HORIZON - fractions)), self.loss_inputs(value)])
        x = np.concatenate([np.tile(shared, (len(others), 1)), others], 1)
        x = linear(self.theta["own"], x) + np.maximum(linear(self.theta["pooled"], x), 0).max(0, keepdims=True)
        i, g, f, o = np.split(linear(self.theta["lstm"], np.concatenate([x, self.h], 1)), 4, axis=1)
        self.c = sigmoid(f + 1) * self.c + sigmoid(i) * np.tanh(g)
        self.h = sigmoid(o) * np.tanh(self.c)
        return linear(self.theta["lr"], self.h)[:, 0]


class Tensor:
    """Moments of a tensor, decays on the last axis."""

    def __init__(self, p):
        self.m, self.v, self.row, self.col = np.zeros((*p.shape, 3)), np.zeros((*p.shape, 1)), 0.0, 0.0

    def statistics(self, p):
        scale = max(1e-9, np.mean(p**2)) ** -0.5
        m, v = (scale * x.reshape(-1, x.shape[-1]) for x in (self.m, self.v))
        rank = np.eye(5)[sum(n > 1 for n in p.shape)]
        sizes = [v.mean(0), m.var(0), ((v - m.mean(0)) ** 2).mean(0)]
        v_mean, var_m, around_m = (np.clip(np.log(1e-8 + np.abs(10 * x)), -5, 5) / 2 for x in sizes)
        return np.concatenate([v_mean, rank, var_m, around_m])

    def features(self, g, p):
        g, p, b = g[..., None], p[..., None], DECAYS
        self.m, self.v = b * self.m + (1 - b) * g, b[2:] * self.v + (1 - b[2:]) * g**2
        square = g**2 + 1e-30
        if g.ndim < 3:
            self.row = self.col = b * self.row + (1 - b) * square
            f_g, f_m = np.maximum(self.row + 1e-9, 1e-9) ** -0.5, self.row**-0.5
        else:
            second, largest = np.argsort(p.shape[:-1], kind="stable")[-2:]
            self.row = b * self.row + (1 - b) * square.mean(largest, keepdims=True)
            self.col = b * self.col + (1 - b) * square.mean(second, keepdims=True)
            f_g = np.maximum(self.row / (self.row.mean(second, keepdims=True) + 1e-9), 1e-9) ** -0.5
            f_g = f_m = f_g * np.maximum(self.col, 1e-9) ** -0.5
        r, row, col = (self.v + 1e-6) ** -0.5, self.row, self.col
        all_ = [g, p, self.m, self.v, self.m * r, r, g * f_g, row, col, (row + 1e-8) ** -0.5, (col + 1e-8) ** -0.5]
        all_ += [self.m * f_m, np.clip(g, -0.1, 0.1), g * r]
        x = np.concatenate([np.broadcast_to(x, (*p.shape[:-1], x.shape[-1])) for x in all_], -1)
        return x / np.sqrt(1e-5 + np.mean(x**2, axis=tuple(range(p.ndim - 1)), keepdims=True))

    def step(self, network, lr, g, p):
        x = self.features(g, p)
        for i in range(3):
            x = (np.maximum(x, 0) if i else x) @ network[f"w{i}"] + network[f"b{i}"]
        return -1e-3 * lr * np.sqrt(np.mean(p**2) + 1e-9) * x[..., 0] * np.exp(1e-3 * x[..., 1])


def clip(grads):
    return [np.clip(g, -1000, 1000) for g in grads]


def velo(theta, grads, losses, params):
    recurrent, tensors = Recurrent(theta["recurrent"], len(params)), [Tensor(p) for p in params]
    for gs, value in zip(grads, losses, strict=True):
        lr = recurrent(value, np.stack([tensor.statistics(p) for tensor, p in zip(tensors, params, strict=True)]))
        controls = linear(theta["controls"], recurrent.h)
        networks = [{k: 4 / 16 * np.tensordot(c, w, (0, 0)) for k, w in theta["bank"].items()} for c in controls]
        steps = [t.step(*rest) for t, *rest in zip(tensors, networks, lr, clip(gs), params, strict=True)]
        params = [p + u for p, u in zip(params, steps, strict=True)]
    return params


def celo(theta, grads, losses, params, scheduled=True):
    tensors = [Tensor(p) for p in params]
    recurrent = Recurrent(theta["scheduler"], len(params)) if scheduled else None
    for gs, value in zip(grads, losses, strict=True):
        lr = np.exp(recurrent(value, np.zeros((len(params), 0)))) / 10 if scheduled else np.ones(len(params))
        steps = [t.step(theta["network"], *rest) for t, *rest in zip(tensors, lr, clip(gs), params, strict=True)]
        params = [p + u for p, u in zip(params, steps, strict=True)]
    return params


def celo_adam(theta, grads, losses, params):
    recurrent, (b1, _, b2) = Recurrent(theta, len(params)), DECAYS
    m = v = [0.0] * len(params)
    for t, (gs, value) in enumerate(zip(grads, losses, strict=True), 1):
        lr = np.exp(recurrent(value, np.zeros((len(params), 0)))) / 10
        m = [b1 * a + (1 - b1) * g for a, g in zip(m, clip(gs), strict=True)]
        v = [b2 * a + (1 - b2) * g**2 for a, g in zip(v, clip(gs), strict=True)]
        steps = [
            1e-3 * r * a / (1 - b1**t) / (1e-8 + np.sqrt(b / (1 - b2**t) + 1e-10))
            for r, a, b in zip(lr, m, v, strict=True)
        ]
        params = [p - u for p, u in zip(params, steps, strict=True)]
    return params


def random_theta(optimizer, rng):
    shapes = jax.eval_shape(optimizer.init, jax.random.key(0))
    return jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape, x.dtype), shapes)


CASES = [("velo", {}, velo), ("celo", {}, celo), ("celo_adam", {}, celo_adam)]
CASES += [("celo", {"scheduled": False}, partial(celo, scheduled=False))]


@pytest.mark.parametrize("name, arguments, equation", CASES, ids=["velo", "celo", "celo_adam", "celo_phase_1"])
def test_equation(name, arguments, equation, x64):
    """In float64, so that only a wrong equation can differ; two steps beyond the horizon. The second loss is above what
    a loss counts at most, and a gradient is clipped."""
    rng = np.random.default_rng(0)
    optimizer = OPTIMIZERS[name](**arguments)
    theta = random_theta(optimizer, rng)
    params = [rng.standard_normal(shape) for shape in SHAPES]
    grads = [[rng.standard_normal(shape) for shape in SHAPES] for _ in range(STEPS)]
    grads[3][1][2] = 5000.0
    losses = np.concatenate([[1.0, 5.0], np.linspace(1.5, 0.25, STEPS - 2) + 0.1 * rng.standard_normal(STEPS - 2)])
    tx = optimizer.build(theta, HORIZON)
    # float64 end to end: the state's accumulators are float32 by contract, so they are lifted here
    state = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(float), tx.init(params))
    step = quick_jit(lambda g, s, p, value: tx.update(g, s, p, value=value))
    ours = [jnp.asarray(p) for p in params]
    for g, value in zip(grads, losses, strict=True):
        updates, state = step(g, state, ours, value)
        ours = [p + u for p, u in zip(ours, updates, strict=True)]
    expected = equation(theta, grads, losses, params)
    for p, q, start in zip(ours, expected, params, strict=True):
        # g and p pass through float32 inside: 1e-5 of the way gone, some 1e-3 a step
        np.testing.assert_allclose(p, q, rtol=0, atol=1e-5 * np.abs(q - start).max())


@pytest.mark.parametrize("name", ["velo", "celo_adam"])
def test_short_horizons_and_beyond_them(name):
    """Finite from a horizon of one step on, and far beyond it."""
    optimizer, params = OPTIMIZERS[name](), {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    theta = random_theta(optimizer, np.random.default_rng(0))

    @quick_jit
    def run(num_steps):
        tx = optimizer.build(theta, num_steps)

        def step(carry, value):
            params, state = carry
            updates, state = tx.update(params, state, params, value=value)
            return (jax.tree.map(jnp.add, params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), jnp.linspace(1.0, 0.5, 50))[0]

    for num_steps in (1, 2, 3, 9, 10):
        chex.assert_tree_all_finite(run(num_steps))
