"""The recurrent architectures against their published equations, written out in numpy with the features last."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt.optimizers import OPTIMIZERS, _cells
from metaopt.optimizers._blocks import blocks_of
from metaopt.optimizers.l2l_lstm import log_and_sign

# small tensors of rank 0 to 4, which go side by side, and a large one, which keeps its shape
SHAPES = [(), (7,), (5, 3), (4, 2, 3), (2, 3, 5, 2), (0, 3), (2, 3, 17, 12)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def linear(theta, x):
    return x @ theta["w"] + theta["b"]


def lstm(theta, state, x):
    h, c = state
    i, g, f, o = np.split(linear(theta, np.concatenate([x, h], -1)), 4, -1)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(theta, h, x, bias=0.0):
    bias = np.broadcast_to(bias, (*h.shape[:-1], 3 * h.shape[-1]))
    z, r, n = np.split(bias, 3, -1)
    own_z, own_r = np.split(linear(theta["gates"], np.concatenate([x, h], -1)), 2, -1)
    z, r = sigmoid(own_z + z), sigmoid(own_r + r)
    n = np.tanh(linear(theta["candidate"], np.concatenate([x, r * h], -1)) + n)
    return (1 - z) * h + z * n


def two_lstms(theta, state, x):
    first = lstm(theta["lstm0"], state[0], x)
    second = lstm(theta["lstm1"], state[1], first[0])
    return linear(theta["out"], second[0])[..., 0], (first, second)


def per_tensor(rule):
    """rule(theta, gradients [steps, *shape]) -> the sum of its steps"""
    return lambda theta, grads: {name: rule(theta, g) for name, g in grads.items()}


@per_tensor
def l2l(theta, grads):
    zeros = np.zeros((*grads[0].shape, 20))
    state, total = ((zeros, zeros), (zeros, zeros)), 0.0
    for g in grads:
        large = np.abs(g) >= np.exp(-10)
        log = np.log(np.where(large, np.abs(g), 1)) / 10
        x = np.stack([np.where(large, log, -1), np.where(large, np.sign(g), np.exp(10) * g)], -1)
        out, state = two_lstms(theta, state, x)
        total = total + 0.01 * out
    return total


@per_tensor
def rnnprop(theta, grads):
    zeros = np.zeros((*grads[0].shape, 20))
    state, total, m, v = ((zeros, zeros), (zeros, zeros)), 0.0, 0.0, 0.0
    for t, g in enumerate(grads, 1):
        m, v = 0.95 * m + 0.05 * g, 0.95 * v + 0.05 * g**2
        m_hat, v_hat = m / (1 - 0.95**t), v / (1 - 0.95**t)
        x = linear(theta["in"], np.stack([m_hat, g], -1) / (np.sqrt(v_hat) + 1e-8)[..., None])
        out, state = two_lstms(theta, state, np.where(x > 0, x, np.expm1(np.minimum(x, 0))))
        total = total + 0.1 * np.tanh(out)
    return total


@per_tensor
def component_gru(theta, grads):
    h, total = np.broadcast_to(theta["start"], (*grads[0].shape, 32)), 0.0
    for g in grads:
        h = gru(theta["gru"], h, g[..., None])
        total = total + 0.01 * linear(theta["out"], h)[..., 0]
    return total


def scale_hierarchical(theta, grads):
    """By its equations as they stand, with decays instead of their logarithms and powers instead of exponentials."""
    grads = {name: g for name, g in grads.items() if g.size}
    shapes = {name: g.shape[1:] for name, g in grads.items()}
    start, biases = theta["start"], theta["biases"]
    h = {name: np.broadcast_to(start["coordinate"], (*shape, 10)) for name, shape in shapes.items()}
    tensor, model = dict.fromkeys(shapes, start["tensor"]), start["model"]
    m = {name: np.zeros((*shape, 4)) for name, shape in shapes.items()}
    v, b, c = (dict(m) for _ in range(3))
    log_lr = {name: np.full(shape, np.log(1e-3)) for name, shape in shapes.items()}
    total = {name: np.zeros(shape) for name, shape in shapes.items()}
    r = sigmoid(theta["log_lr_decay"])
    for t in range(len(next(iter(grads.values())))):
        mean_log_lr = np.mean(np.concatenate([e.ravel() for e in log_lr.values()]))
        new = {}
        for name in shapes:
            decay = b[name] ** (0.5 ** np.arange(4))
            m[name] = decay * m[name] + (1 - decay) * grads[name][t][..., None]
            v[name] = c[name] * v[name] + (1 - c[name]) * (m[name] ** 2 + 1e-12)
            u, log_v = np.arcsinh(m[name] / np.sqrt(v[name])), np.log(v[name])
            relative = [log_v - log_v.mean(-1, keepdims=True), (log_lr[name] - mean_log_lr)[..., None]]
            x = np.concatenate([u, u[..., :-1] * u[..., 1:], *relative], -1)
            bias = tensor[name] @ biases["coordinate_tensor"] + model @ biases["coordinate_model"]
            h[name] = gru(theta["coordinate"], h[name], x, bias)
            d = np.concatenate([h[name], u], -1) @ theta["direction"]
            change, logit_b, logit_c = np.split(linear(theta["heads"], h[name]), 3, -1)
            e = np.clip(log_lr[name] + change[..., 0], -33, 33)
            total[name] = total[name] - np.exp(e + theta["log_lr_offset"]) * d / np.sqrt(1e-16 + np.mean(d**2))
            log_lr[name] = r * log_lr[name] + (1 - r) * e
            b[name], c[name] = sigmoid(logit_b), sigmoid(logit_c)
            inputs = np.concatenate([h[name], x], -1).reshape(-1, 22).mean(0)
            new[name] = gru(theta["tensor"], tensor[name], inputs, model @ biases["tensor_model"])
        tensor, model = new, gru(theta["model"], model, np.mean(list(new.values()), 0))
    return total


EQUATIONS = {
    "l2l_lstm": l2l,
    "rnnprop": rnnprop,
    "component_gru": component_gru,
    "scale_hierarchical": scale_hierarchical,
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_equation(name, x64):
    """In float64, so that only a wrong equation can differ; five steps, so that every state has moved. Gradients pass
    through float32 inside: they are float32 numbers here, of all sizes from 1e-8 to 100, some of them zero."""
    rng = np.random.default_rng(0)
    optimizer = OPTIMIZERS[name]()
    theta = jax.tree.map(lambda x: np.asarray(x, np.float64), optimizer.init(jax.random.key(0)))
    theta = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape), theta)
    params = {str(shape): jnp.asarray(rng.standard_normal(shape)) for shape in SHAPES}

    def gradient(p):
        g = rng.standard_normal((5, *p.shape)) * 10 ** rng.uniform(-8, 2, (5, *p.shape))
        return (g * (rng.uniform(size=g.shape) > 0.1)).astype(np.float32).astype(np.float64)

    grads = jax.tree.map(gradient, params)

    @jax.jit
    def run(params, grads):
        tx = optimizer.build(theta, 5)
        # float64 end to end: the state is float32 by contract, so it is lifted here
        state = jax.tree.map(
            lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tx.init(params)
        )

        def step(carry, g):
            updates, state = tx.update(g, carry[1], carry[0])
            return (jax.tree.map(jnp.add, carry[0], updates), state), None

        return jax.lax.scan(step, (params, state), grads)[0][0]

    end = run(params, grads)
    for key, total in EQUATIONS[name](theta, grads).items():
        # what is made of gradients alone is float32: 6e-8 of inputs of size 1, and steps of 1e-2
        np.testing.assert_allclose(end[key] - params[key], total, rtol=0, atol=6e-10, err_msg=key)
        assert np.abs(total).max(initial=0) > 1e-5 or not total.size


def test_both_branches_of_the_logarithm_and_sign():
    """Appendix A of Andrychowicz et al. 2016, for p = 5."""
    p, edge = 5.0, np.exp(-5.0)
    g = np.array([-30.0, -1.0, -1.001 * edge, -0.999 * edge, 0.0, 1e-3 * edge, 0.5 * edge, 1.001 * edge, 1.0, 30.0])
    large = np.abs(g) >= edge
    log = np.where(large, np.log(np.where(large, np.abs(g), 1)) / p, -1)
    sign = np.where(large, np.sign(g), g / edge)
    x = log_and_sign(jnp.asarray(g, jnp.float32), p)
    np.testing.assert_allclose(x, [log, sign], rtol=0, atol=2e-6)  # e^p times the rounding of g, 6e-8 edge, and more
    slopes = jax.jit(jax.vmap(jax.jacobian(lambda g: log_and_sign(g, p))))(jnp.asarray(g, jnp.float32))
    expected = [np.where(large, 1 / (p * np.where(large, g, 1)), 0), np.where(large, 0, 1 / edge)]
    np.testing.assert_allclose(slopes.T, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", EQUATIONS)
def test_meta_gradients_are_finite_for_any_gradient(name):
    """Logarithms, roots and norms at zero and at the ends of float32, through three steps."""
    optimizer, params = OPTIMIZERS[name](), {"w": jnp.ones((4, 3)), "b": jnp.ones(2)}

    @jax.jit
    @jax.grad
    def meta_gradient(theta, scale):
        tx = optimizer.build(theta, 10)

        def step(carry, _):
            grads = jax.tree.map(lambda p: scale * p, carry[0])
            updates, state = tx.update(grads, carry[1], carry[0])
            return (jax.tree.map(jnp.add, carry[0], updates), state), None

        end, _ = jax.lax.scan(step, (params, tx.init(params)), None, 3)[0]
        return sum(jnp.sum(p**2) for p in end.values())

    theta = optimizer.init(jax.random.key(0))
    for scale in [0.0, 1e-40, 1e-30, 1e-15, 1e-8, 1e-5, 1.0, 1e8, 1e30]:
        gradient = meta_gradient(theta, scale)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient)), scale


@pytest.mark.parametrize("name", EQUATIONS)
def test_a_model_without_numbers(name):
    optimizer, params = OPTIMIZERS[name](), {"w": jnp.zeros((0, 3))}
    tx = optimizer.build(optimizer.init(jax.random.key(0)), 10)
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["w"].shape == (0, 3)


def test_lstm_is_flax_s():
    """Flax's has weights by gate, and no one that is added to the forget gate."""
    from flax import linen

    rng = np.random.default_rng(0)
    theta = {"w": rng.standard_normal((3 + 4, 16)), "b": rng.standard_normal(16)}
    x, h, c = (rng.standard_normal((n, 5)) for n in (3, 4, 4))
    theta, x, h, c = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (theta, x, h, c))
    weights = {}
    for gate, w, b, one in zip("igfo", np.split(theta["w"], 4, 1), np.split(theta["b"], 4), (0, 0, 1, 0), strict=True):
        weights |= {f"i{gate}": {"kernel": w[:3]}, f"h{gate}": {"kernel": w[3:], "bias": b + one}}
    (expected_c, expected_h), _ = linen.LSTMCell(4).apply({"params": weights}, (c.T, h.T), x.T)
    new = _cells.lstm(theta, _cells.LSTMState(h, c), x)
    # sums of 8 products of size 1 in float32
    np.testing.assert_allclose(new, np.stack([expected_h.T, expected_c.T]), rtol=0, atol=2e-6)


def test_broadcast_is_the_way_back_from_means():
    params = {str(shape): jnp.zeros(shape) for shape in SHAPES}
    blocks = blocks_of(params)
    assert [block.flat for block in blocks] == [True, True, False]  # of rank 0 and 1, small, large
    for block in blocks:
        x = np.random.default_rng(0).standard_normal((2, len(block.leaves))).astype(np.float32)
        spread = jnp.broadcast_to(block.broadcast(jnp.asarray(x)), (2, *block.shape))
        # means of at most 1,224 equal numbers
        np.testing.assert_allclose(block.means(spread), x, rtol=1e-5)
        for j, part in enumerate(block.tensors(spread)):
            np.testing.assert_array_equal(
                part, np.broadcast_to(x[:, j].reshape(-1, *[1] * (part.ndim - 1)), part.shape)
            )
