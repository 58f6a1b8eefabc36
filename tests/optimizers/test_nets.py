"""The per-coordinate network: written out, as products, and its derivative, against the same sums in numpy's order."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt.optimizers import _features as F
from metaopt.optimizers import _nets
from metaopt.optimizers._blocks import SMALL, VECTOR, Block, assemble, blocks_of, in_tiles
from tests.estimators.problems import quick_jit


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


def block_of(*shapes: tuple[int, ...], vector: int = SMALL) -> Block:
    (block,) = blocks_of([jnp.zeros(s) for s in shapes], vector)
    return block


def assert_same_with_derivatives(ours, expected, *arguments):
    """Of functions of trees in float64, sums of some 1,000 terms in another order."""

    def look(fn):
        derivatives = jax.grad(lambda *x: jnp.sum(jnp.sin(fn(*x))), tuple(range(len(arguments))))
        return jax.tree.leaves(quick_jit(lambda *x: (fn(*x), derivatives(*x)))(*arguments))

    for x, y in zip(look(ours), look(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10 * np.abs(y).max())


@pytest.mark.parametrize("shapes", [[(10,)], [(), (3,), (16,), (63,), (64,)], [(1, 1), (5, 7), (3, 2, 2)]])
@pytest.mark.parametrize("seed", [0, 1])
def test_short_vectors_are_filled_up_without_a_trace(seed, shapes, x64):
    key, block = jax.random.key(seed), block_of(*shapes)
    inputs, beside = jax.random.normal(key, (5, *block.shape)), jax.random.normal(key, block.shape)
    net = layers(jax.random.fold_in(key, 9), (5, 4, 4, 2))

    def head(d, a, c):
        return d * jnp.exp(0.3 * a) + c

    def ours(net, x, c):
        return _nets.normalised_mlp([net] * len(shapes), [x[:2], x[2:]], block, head, along=[c])

    def expected(net, x, c):
        parts = [part / jnp.sqrt(1e-5 + jnp.mean(part**2, 1, keepdims=True)) for part in block.tensors(x)]
        x = jnp.concatenate(parts, 1)
        return head(*plainly(net, [x], block.shape), c)

    assert_same_with_derivatives(ours, expected, net, inputs, beside)


@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (40, 40), (1, 2000), (3, 3, 16, 16), (2000,)])
def test_sums_of_squares_that_are_known_are_those_of_the_features(shape, x64):
    block, key = block_of(shape), jax.random.key(0)
    decays = F.decays((0.9, 0.99), (0.999,), (0.9, 0.99))
    moments = F.moments_init(block, decays)
    for i in range(3):
        g = jax.random.normal(jax.random.fold_in(key, i), shape) * np.linspace(1, 9, math.prod(shape)).reshape(shape)
        moments = F.moments_update(decays, moments, block, [g])
    features = F.adafactor_features(g, g, moments, block)
    known = F.known_squares(g, moments, block)
    assert set(known) == ({0, 6} if len(shape) == 2 else set())
    for i, sums in known.items():
        expected = jnp.sum(features[i] ** 2, tuple(range(1, features[i].ndim)))
        np.testing.assert_allclose(sums, expected, rtol=1e-11)  # sums of 2,000 positive terms in float64


@pytest.mark.parametrize("width", [4, 32])
@pytest.mark.parametrize("shapes", [[(2048,)], [(1030,)], [(1031,)], [(64, 32)], [(5, 7), (4, 4)]])
def test_a_wide_network_taken_in_tiles_is_the_whole_one(shapes, width, x64):
    block, key = block_of(*shapes, vector=VECTOR), jax.random.key(1)
    x = jax.random.normal(key, (3, *block.shape))
    net = layers(key, (3, width, width, 2))

    def ours(net, x):
        return _nets.wide_mlp(net, [x[:1], x[1:]], block, lambda d, a: d * jnp.exp(0.1 * a))

    def whole(net, x):
        x = x * block.broadcast(jax.lax.rsqrt(1e-5 + block.means(x * x)))
        d, a = plainly(net, [x], block.shape)
        return d * jnp.exp(0.1 * a)

    assert_same_with_derivatives(ours, whole, net, x)


def test_means_of_tiles_are_those_of_the_vector():
    block = block_of((2048,), vector=VECTOR)
    x = jax.random.normal(jax.random.key(2), (3, 2048))
    y, means = in_tiles(lambda w, tile, x: (w * x[0], tile.means(x)), jnp.float32(2), block, x)
    np.testing.assert_array_equal(y, 2 * x[0])
    np.testing.assert_allclose(means, block.means(x), rtol=0, atol=2e-6)  # means of 2,048 numbers of size one


@pytest.mark.parametrize("shapes", [[(5, 7)], [(5, 7), (3,), (), (2, 2), (40, 40)], [(3,)], [(0, 4), (2, 3)]])
def test_steps_get_back_to_their_leaves(shapes):
    params = [jnp.arange(float(np.prod(s))).reshape(s) + 100 * i for i, s in enumerate(shapes)]
    blocks = blocks_of(params)
    steps = [block.gather(params) for block in blocks]
    for update, p in zip(assemble(blocks, steps, params), params, strict=True):
        np.testing.assert_array_equal(update, p)
