"""Celo2, "Towards learned optimization free lunch" (Moudgil, Knyazev & Belilovsky 2026, arXiv 2602.19142).

A learned direction, on the user's schedule. Per tensor of rank 2 or more, with momenta m_b (b = .9, .99, .999), second
moment v (.95) and Adafactor moments (.9, .99, .999), VeLO's 30 features, each divided by its root mean square over the
last two axes, go through a network 30-8-8-1 (ReLU) that gives a direction d per coordinate, and no magnitude. Five
steps of the Newton-Schulz iteration X <- aX + (bXX' + c(XX')^2)X, if they are on, make each matrix of its last two axes
nearly orthogonal. With r_t the rate of the schedule

    p <- p - r_t (d / RMS(d) + weight_decay · p),    RMS(d)^2 = 1e-9 + mean of d^2 over the last two axes

Vectors and scalars are Adam's (b1 .9, b2 .95), without bias correction, at vector_mult = 20 times the rate:

    p <- p - vector_mult · r_t (m / sqrt(v + 1e-8) + weight_decay · p)

or the network's like the matrices, but without the features made of rows and columns: `orthogonalize=False` and
`vectors="mlp"` are the published Celo2-base. The schedule spans the horizon; beyond it the rate stays as at its end.

Differs from the published code, where the names of tensors tell which are Adam's, embeddings among them: here it is the
rank. Gradients beyond 1e3 are clipped for the network, beyond 1e8 for Adam.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaopt import schedules
from metaopt.optimizers import _features as F
from metaopt.optimizers import _nets
from metaopt.optimizers._blocks import blocks_of, map_blocks
from metaopt.types import LearnedOptimizer, PyTree

GRADIENT_LIMIT = 1e3
EPS = 1e-9  # in a root mean square
B1, B2 = np.array([0.9], np.float32), np.array([0.95], np.float32)  # Adam's
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Muon's (Jordan et al. 2024): steep at zero, so that five steps are enough
ITERATIONS = 5


class Celo2State(NamedTuple):
    step: jax.Array  # i32 scalar
    moments: list[F.Moments]  # per block of the network's tensors
    m: list[jax.Array]  # Adam's, per block of its tensors [1, *shape] f32
    v: list[jax.Array]


def celo2(
    hidden: int = 8,
    depth: int = 2,
    learning_rate: float = 1e-3,
    schedule: Literal["constant", "linear", "cosine", "exponential"] = "constant",
    warmup: int = 0,
    weight_decay: float = 0.0,
    orthogonalize: bool = True,
    vectors: Literal["adam", "mlp"] = "adam",
    vector_mult: float = 20.0,
    momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999),
    second_moment_decay: float = 0.95,
) -> LearnedOptimizer:
    """The architecture; 329 numbers by default. It does not use the loss, and the horizon in its schedule alone.

    learning_rate: root mean square of the network's steps, at the peak of the schedule
    warmup: steps of linear warm-up in front of the schedule
    vectors: what moves tensors of rank 0 and 1
    vector_mult: Adam's rate over the network's
    """
    decays = F.decays(momentum_decays, (second_moment_decay,), momentum_decays)
    inputs = 8 * len(momentum_decays) + 6

    def learned(x: jax.Array) -> bool:
        return x.ndim > 1 or vectors == "mlp"

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        networks = _networks(theta, len(momentum_decays))
        rate_at = schedules.schedule(schedule, learning_rate, num_steps, warmup)

        def init_fn(params):
            blocks, adam_blocks = map(blocks_of, _split(learned, params))
            moments = [F.moments_init(block, decays) for block in blocks]
            m, v = ([jnp.zeros((1, *block.shape)) for block in adam_blocks] for _ in range(2))
            return Celo2State(jnp.zeros((), jnp.int32), moments, m, v)

        def learned_step(rate, block, grads, params, moments):
            g, p = block.gather(grads), block.gather(params)
            moments = F.moments_update(decays, moments, block, grads)
            features = F.velo_features(g, p, moments, block, v_eps=1e-8)
            return -rate * (_directions(networks, features, block, orthogonalize) + weight_decay * p), moments

        def adam_step(rate, block, grads, params, m, v):
            g, p = block.gather(grads), block.gather(params)
            m, v = F.ema(B1, m, g), F.ema(B2, v, g * g)
            return -rate * (m[0] * jax.lax.rsqrt(v[0] + 1e-8) + weight_decay * p), m, v

        def update_fn(grads, state, params=None, **extra):
            del extra
            rate = rate_at(state.step)
            (g, g_adam), (p, p_adam) = _split(learned, grads), _split(learned, params)
            g, g_adam = [F.clean(x, GRADIENT_LIMIT) for x in g], list(map(F.clean, g_adam))
            ours, moments = map_blocks(partial(learned_step, rate), g, p, state.moments)
            adams, m, v = map_blocks(partial(adam_step, vector_mult * rate), g_adam, p_adam, state.m, state.v)
            ours, adams = iter(ours), iter(adams)
            updates = jax.tree.map(lambda x: next(ours if learned(x) else adams), params)
            return updates, Celo2State(state.step + 1, moments, m, v)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(lambda key: _nets.init_mlp(key, (inputs, *[hidden] * depth, 1)), build)


def _split(learned, tree: PyTree) -> tuple[list[jax.Array], list[jax.Array]]:
    """The network's leaves and Adam's."""
    leaves = jax.tree.leaves(tree)
    return [x for x in leaves if learned(x)], [x for x in leaves if not learned(x)]


def _networks(theta: PyTree, momenta: int) -> tuple[_nets.Layers, _nets.Layers]:
    """The network, and what it is for vectors, without row, col, their inverse roots and m f of `velo_features`."""
    (w0, b0), *rest = layers = _nets.layers_of(theta)
    kept = np.ones((len(w0), 1), np.float32)
    kept[3 * momenta + 4 : 8 * momenta + 4] = 0
    return layers, [(w0 * kept, b0), *rest]


def _directions(networks, groups, block, orthogonalize: bool) -> jax.Array:
    """The steps of a block's tensors at a rate of one, [*block.shape]."""
    if not block.flat:
        return _direction(networks, groups, block.shape, orthogonalize)
    parts = block.tensors(jnp.concatenate(groups))
    groups_of = [[part.reshape(-1, *shape)] for part, shape in zip(parts, block.shapes, strict=True)]
    steps = [_direction(networks, own, s, orthogonalize) for own, s in zip(groups_of, block.shapes, strict=True)]
    return jnp.concatenate([step.ravel() for step in steps])


def _direction(networks, groups, shape: tuple[int, ...], orthogonalize: bool) -> jax.Array:
    """d / RMS(d) of a tensor, [*shape], from its groups of features in its own shape."""
    layers = networks[len(shape) < 2]
    if len(shape) > 2:
        groups = [_normalised(x, 2) for x in groups]
    else:
        layers = _nets.scale_inputs(layers, groups, EPS)
    (d,) = _nets.network(layers, groups, shape)
    if orthogonalize and len(shape) > 1:
        d = _newton_schulz(d)
    return _normalised(d, min(len(shape), 2))


def _normalised(x: jax.Array, axes: int) -> jax.Array:
    """x over its root mean square over the last axes."""
    return x * jax.lax.rsqrt(EPS + jnp.mean(x * x, axis=tuple(range(-axes, 0)), keepdims=True))


def _newton_schulz(x: jax.Array) -> jax.Array:
    """About U V' of each matrix U S V', [..., rows, columns]; the singular values that are not tiny end near one."""
    a, b, c = NEWTON_SCHULZ
    wide = x if x.shape[-2] <= x.shape[-1] else x.mT
    wide = wide * jax.lax.rsqrt(1e-16 + jnp.sum(wide * wide, axis=(-2, -1), keepdims=True))  # a norm has no slope at 0
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if x.shape[-2] <= x.shape[-1] else wide.mT
