"""The frame of the architectures that are AdafacMLP with another step rule: theta, accumulators, features, network.

Metz et al. 2022 (arXiv 2203.11860). Per tensor, with momenta m_b, second moment v and Adafactor moments row_b, col_b,
all decays learnable, the features of `_features.adafactor_features`, each divided by its root mean square over the
tensor; 11 time features tanh(t/tau - 1) join. What the outputs of the network mean is the rule's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaopt.optimizers import _features as F
from metaopt.optimizers import _nets
from metaopt.optimizers._blocks import blocks_of, map_blocks
from metaopt.types import LearnedOptimizer, PyTree

Along = Callable[[jax.Array, jax.Array, F.Moments], Sequence[jax.Array]]


class AdafacState(NamedTuple):
    step: jax.Array  # i32 scalar
    moments: list[F.Moments]  # per block


def adafac(
    head: _nets.Head,
    outputs: int,
    hidden: int,
    depth: int,
    momentum_decays: tuple[float, ...],
    second_moment_decay: float,
    along: Along = lambda g, p, moments: (),
) -> LearnedOptimizer:
    """head(*outputs, *along(g, p, moments)) -> the change of the parameter, for each tensor of a block; `along` gives
    arrays [*shape] that the rule needs besides the network's outputs, from the updated moments.

    theta: {"mlp": w0, b0, ...; "decays": offsets of `_features.offset_decays`}.
    """
    num_features = 8 * len(momentum_decays) + 4
    start = F.decays(momentum_decays, (second_moment_decay,), momentum_decays)

    def init(key: jax.Array) -> PyTree:
        sizes = (num_features + len(F.TIMESCALES), *[hidden] * depth, outputs)
        return {"mlp": _nets.init_mlp(key, sizes), "decays": jax.tree.map(jnp.zeros_like, start)._asdict()}

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        del num_steps
        decays = F.offset_decays(start, theta["decays"])
        (w0, b0), *layers = _nets.layers_of(theta["mlp"])
        w0, w_time = jnp.split(w0, [num_features])

        def init_fn(params):
            moments = [F.moments_init(block, start) for block in blocks_of(params)]
            return AdafacState(jnp.zeros((), jnp.int32), moments)

        def step(bias, block, grads, params, moments):
            moments = F.moments_update(decays, moments, block, grads)
            g, p = block.gather(grads), block.gather(params)
            inputs = F.adafactor_features(g, p, moments, block)
            nets = [[(w0, bias), *layers]] * len(block.leaves)
            known, beside = F.known_squares(g, moments, block), along(g, p, moments)
            return _nets.normalised_mlp(nets, inputs, block, head, along=beside, known=known), moments

        def update_fn(grads, state, params=None, **extra):
            del extra
            bias = b0 + F.time_features(state.step) @ w_time
            grads = jax.tree.map(F.clean, grads)
            updates, moments = map_blocks(partial(step, bias), grads, params, state.moments)
            return updates, AdafacState(state.step + 1, moments)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)
