"""VeLO, the hypernetwork of Metz et al. 2022 (arXiv 2211.09760, "Versatile learned optimizers by scaling up").

A recurrent network over the tensors of the model (`_hypernet`) gives each a learning-rate multiplier lr and weights
c_k, which mix K networks of 30-4-4-2 (ReLU) into the tensor's own one:

    W = bank_mult · mean_k(c_k W_k),    (d, a) = network_W(features of a coordinate)
    p <- p - step_mult · lr · RMS(p) · d · exp(exp_mult · a),    RMS(p)^2 = 1e-9 + mean over the tensor of p^2

Inputs of the recurrent network, 30 a tensor: 18 that follow the training, fraction of the horizon and loss; then, with
m_b (b = .9, .99, .999) and v (.999) from before this step over RMS(p), x(mean v), a one-hot of the number of axes
longer than one, x(var m_b), and x of the mean of (v - mean m_b)^2, where x(y) = clip(log(1e-8 + |10 y|), -5, 5)/2.
Inputs of a coordinate: AdafacMLP's 28, clip(g, +-.1) and g/sqrt(v + 1e-6), each divided by its root mean square over
the tensor. Gradients are clipped to +-1000.

It uses the loss, as `value`, and the horizon; beyond the horizon the inputs of the fraction saturate and it goes on as
it ended. Kept from the authors' code: the deviation of v from the mean of m_b instead of its own. Left out: weights
there that no output depends on, namely a layer before the mixing and a third output of the networks.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaopt.optimizers import _features as F
from metaopt.optimizers import _hypernet as H
from metaopt.optimizers import _nets
from metaopt.optimizers._blocks import Block, blocks_of
from metaopt.optimizers._cells import init_linear, linear
from metaopt.types import LearnedOptimizer, PyTree

RANKS = 5  # of the one-hot
TENSOR_INPUTS = 1 + RANKS + 2 * len(H.DECAYS.m)


class VeLOState(NamedTuple):
    recurrent: H.Recurrent  # its columns are the tensors in the order of the blocks
    moments: list[F.Moments]  # per block


def velo(
    lstm_hidden: int = 32,
    bank: int = 16,
    hidden: int = 4,
    depth: int = 2,
    step_mult: float = 1e-3,
    exp_mult: float = 1e-3,
    bank_mult: float = 4.0,
) -> LearnedOptimizer:
    """The architecture; 13,393 numbers by default. It uses the loss and the horizon.

    bank_mult: of the mixed weights; with the square root of bank, a fresh theta mixes with weights c near one
    The published weights have lstm_hidden=512, bank=256 and bank_mult=100; the defaults suit meta-training on a laptop.
    """

    def init(key: jax.Array) -> PyTree:
        recurrent, controls, networks = jax.random.split(key, 3)
        size = np.sqrt(bank) / bank_mult  # makes the mixture of independent networks as large as one of them
        keys = jax.random.split(networks, bank)
        return {
            "recurrent": H.init_recurrent(recurrent, H.INPUTS + TENSOR_INPUTS, lstm_hidden, 1.0),
            "controls": {**init_linear(controls, lstm_hidden, bank, 0.1 * size), "b": jnp.full(bank, size)},
            "bank": jax.vmap(lambda key: _nets.init_mlp(key, (H.FEATURES, *[hidden] * depth, 2)))(keys),
        }

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        def mix(controls, scales):
            """The network of each tensor; controls [bank, tensors], scales of the direction [tensors]."""
            mixed = {name: jnp.tensordot(controls, x, axes=(0, 0)) for name, x in theta["bank"].items()}
            networks = [_nets.layers_of({name: x[k] for name, x in mixed.items()}) for k in range(scales.size)]
            return [H.scale_direction(layers, scale) for layers, scale in zip(networks, scales, strict=True)]

        def init_fn(params):
            blocks = blocks_of(params)
            moments = [F.moments_init(block, H.DECAYS) for block in blocks]
            return VeLOState(H.start(theta["recurrent"], sum(len(block.leaves) for block in blocks)), moments)

        def update_fn(grads, state, params=None, *, value, **extra):
            del extra
            blocks, leaves = blocks_of(params), jax.tree.leaves(params)
            inputs = [_tensor_inputs(block, leaves, m) for block, m in zip(blocks, state.moments, strict=True)]
            recurrent, lr = H.advance(theta["recurrent"], num_steps, state.recurrent, value, jnp.concatenate(inputs, 1))
            mixed = mix(bank_mult / bank * linear(theta["controls"], recurrent.lstm.hidden), step_mult * lr)
            networks = dict(zip([leaf for block in blocks for leaf in block.leaves], mixed, strict=True))
            grads = jax.tree.map(partial(F.clean, limit=H.GRADIENT_LIMIT), grads)
            updates, moments = H.exp_a_b(networks, exp_mult, grads, params, state.moments)
            return updates, VeLOState(recurrent, moments)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)


def _tensor_inputs(block: Block, params: list[jax.Array], moments: F.Moments) -> jax.Array:
    """Those of the recurrent network that describe the tensors of a block, [TENSOR_INPUTS, tensors]."""
    scale = jax.lax.rsqrt(jnp.maximum(block.means(jnp.square(block.gather(params))[None]), 1e-9))
    mean_m, mean_v = (scale * block.means(x) for x in moments[:2])
    var_m, var_v = (
        F.variance(mean, jnp.square(scale) * block.means(jnp.square(x)))
        for mean, x in zip((mean_m, mean_v), moments[:2], strict=True)
    )
    rank = np.array([sum(n > 1 for n in shape) for shape in block.shapes])
    one_hot = (rank == np.arange(RANKS)[:, None]).astype(np.float32)
    log_size = partial(F.clip_log_abs, gain=10.0, scale=0.5)
    around_m = var_v + jnp.square(mean_v - mean_m)  # the mean of (v - mean m)^2
    return jnp.concatenate([log_size(mean_v), one_hot, log_size(var_m), log_size(around_m)])
