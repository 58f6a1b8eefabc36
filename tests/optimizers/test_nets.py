"""The per-coordinate network: written out, as products, and its derivative, against the same sums in numpy's order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt.optimizers import _features as F
from metaopt.optimizers import _nets


def layers(key: jax.Array, sizes: tuple[int, ...]) -> list:
    """Weights and biases that leave about half of the hidden units on either side of zero."""
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = zip(keys, sizes, sizes[1:], strict=False)
    return [(jax.random.normal(k, (n, m)), 0.3 * jax.random.normal(k, (m,))) for k, n, m in shapes]


def groups(key: jax.Array, shape: tuple[int, ...]) -> list:
    """Groups of inputs: two of the tensor's own shape, and, of a matrix, two constant along an axis, in between."""
    own = (3, *shape), (1, *shape)
    rank_two = ((3, shape[0], 1), (2, 1, shape[1])) if len(shape) == 2 else ()
    shapes = (own[0], *rank_two, own[1], *rank_two[:1])
    return [jax.random.normal(jax.random.fold_in(key, i), s) for i, s in enumerate(shapes)]


def plainly(layers: list, groups: list, shape: tuple[int, ...]) -> list:
    """All inputs at every coordinate, features last."""
    x = jnp.concatenate([jnp.broadcast_to(g, (len(g), *shape)) for g in groups])
    x = jnp.moveaxis(x, 0, -1)
    for i, (w, b) in enumerate(layers):
        x = (jnp.maximum(x, 0) if i else x) @ w + b.reshape(*[1] * len(shape), -1)
    return [x[..., j] for j in range(x.shape[-1])]


@pytest.mark.parametrize("width, depth", [(4, 2), (8, 1), (3, 3)])
@pytest.mark.parametrize("shape", [(40,), (5, 7), (40, 32)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_written_out_network_and_its_derivative_are_those_of_plain_products(seed, shape, width, depth, x64):
    key = jax.random.key(seed)
    inputs = groups(key, shape)
    net = layers(jax.random.fold_in(key, 99), (sum(map(len, inputs)), *[width] * depth, 2))

    def objective(fn):
        def loss(net, inputs):
            d, a = fn(net, inputs, shape)
            return jnp.sum(jnp.sin(d) * jnp.exp(0.3 * jnp.tanh(a)))

        return jax.value_and_grad(loss, (0, 1))(net, inputs)

    ours, expected = objective(_nets.network), objective(plainly)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        # sums of some 1,000 terms in float64, in another order
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10 * np.abs(y).max())


@pytest.mark.parametrize("k", [1, 3])
def test_what_is_repeated_gets_the_sum_of_the_derivatives(k, x64):
    x = jax.random.normal(jax.random.key(0), (1, 4, 5))
    w = jax.random.normal(jax.random.key(1), (k, 4, 5))
    y, pull = jax.vjp(lambda x: F.repeat(x, k), x)
    np.testing.assert_array_equal(y, np.broadcast_to(x, (k, 4, 5)))
    np.testing.assert_allclose(pull(w)[0], np.sum(w, 0, keepdims=True), rtol=1e-14)


def test_clean_keeps_nan_and_bounds_the_rest():
    x = jnp.array([np.nan, np.inf, -np.inf, 1e9, -3.0])
    np.testing.assert_array_equal(F.clean(x), np.float32([np.nan, 1e8, -1e8, 1e8, -3.0]))
