"""Celo (Moudgil et al. 2025, arXiv 2501.12670, "Learning versatile optimizers on a compute diet").

A network of 30-4-4-2 (ReLU) per coordinate, and a schedule that a recurrent network (`_hypernet`, h its output) makes
of the fraction of the horizon and of the loss; both are the same for all tensors:

    lr = exp(w h + b)/10,    (d, a) = network(features of a coordinate)
    p <- p - step_mult · lr · RMS(p) · d · exp(exp_mult · a),    RMS(p)^2 = 1e-9 + mean over the tensor of p^2

Inputs of a coordinate: AdafacMLP's 28, clip(g, +-.1) and g/sqrt(v + 1e-6), each divided by its root mean square over
the tensor. Gradients are clipped to +-1000.

It uses the loss, as `value`, and the horizon; beyond the horizon the inputs of the fraction saturate and the schedule
goes on as it ended. Left out: weights in the authors' code that no output depends on (what mixes a bank of one network,
a layer before the recurrent one, a third output). A fresh schedule starts at lr = 1 instead of .1.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaopt.optimizers import _features as F
from metaopt.optimizers import _hypernet as H
from metaopt.optimizers import _nets
from metaopt.optimizers._blocks import blocks_of
from metaopt.types import LearnedOptimizer, PyTree


class CeloState(NamedTuple):
    moments: list[F.Moments]  # per block
    scheduler: H.Recurrent | None  # of one column; None without a schedule


def celo(
    lstm_hidden: int = 64,
    hidden: int = 4,
    depth: int = 2,
    step_mult: float = 1e-3,
    exp_mult: float = 1e-3,
    scheduled: bool = True,
) -> LearnedOptimizer:
    """The architecture; 35,803 numbers by default. It uses the loss and the horizon.

    scheduled: False leaves the schedule out: lr = 1, and theta is {"network": ...} alone

    The paper meta-trains in two phases, the network first, then the scheduler: a run with `freeze: ^scheduler/`, whose
    lr stays close to 1 as it starts, and one that starts from its weights with `freeze: ^network/`.
    `value` is asked for in either phase.
    """

    def init(key: jax.Array) -> PyTree:
        network, scheduler = jax.random.split(key)
        theta = {"network": _nets.init_mlp(network, (H.FEATURES, *[hidden] * depth, 2))}
        return {**theta, "scheduler": H.init_scheduler(scheduler, lstm_hidden)} if scheduled else theta

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        layers = _nets.layers_of(theta["network"])

        def init_fn(params):
            scheduler = H.start(theta["scheduler"], 1) if scheduled else None
            return CeloState([F.moments_init(block, H.DECAYS) for block in blocks_of(params)], scheduler)

        def update_fn(grads, state, params=None, *, value, **extra):
            del extra
            scheduler, lr = None, jnp.ones(())
            if scheduled:
                scheduler, lr = H.schedule(theta["scheduler"], num_steps, state.scheduler, value)
            network = H.scale_direction(layers, step_mult * lr)
            networks = dict.fromkeys(range(len(jax.tree.leaves(params))), network)
            grads = jax.tree.map(partial(F.clean, limit=H.GRADIENT_LIMIT), grads)
            updates, moments = H.exp_a_b(networks, exp_mult, grads, params, state.moments)
            return updates, CeloState(moments, scheduler)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)
