"""Celo-Adam (Moudgil et al. 2025, arXiv 2501.12670, "Learning versatile optimizers on a compute diet").

Adam with the learned schedule of Celo: a recurrent network (`_hypernet`, h its output) sees the fraction of the horizon
and the loss, and

    lr = exp(w h + b)/10,    p <- p - step_mult · lr · m^ / (eps + sqrt(v^ + 1e-10))

with m^ and v^ the bias-corrected EMAs of g (b1) and g^2 (b2). Gradients are clipped to +-1000.

It uses the loss, as `value`, and the horizon; beyond the horizon the inputs of the fraction saturate and the schedule
goes on as it ended. A fresh schedule starts at lr = 1 instead of .1, that is, as Adam with a rate of step_mult.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaopt.optimizers import _features as F
from metaopt.optimizers import _hypernet as H
from metaopt.types import LearnedOptimizer, PyTree


class CeloAdamState(NamedTuple):
    adam: optax.ScaleByAdamState  # f32
    scheduler: H.Recurrent  # of one column


def celo_adam(
    lstm_hidden: int = 64,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    step_mult: float = 1e-3,
) -> LearnedOptimizer:
    """The architecture; 35,649 numbers by default. It uses the loss and the horizon."""
    # rounded to float32 once: what 1 - b2 puts into v, the bias correction 1 - b2^t then takes out, to the last digit
    adam = optax.scale_by_adam(np.float32(b1), np.float32(b2), eps, eps_root=1e-10)

    def init(key: jax.Array) -> PyTree:
        return H.init_scheduler(key, lstm_hidden)

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        def init_fn(params):
            zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
            return CeloAdamState(adam.init(zeros), H.start(theta, 1))

        def update_fn(grads, state, params=None, *, value, **extra):
            del extra
            scheduler, lr = H.schedule(theta, num_steps, state.scheduler, value)
            grads = jax.tree.map(partial(F.clean, limit=H.GRADIENT_LIMIT), grads)
            directions, moments = adam.update(grads, state.adam)
            updates = jax.tree.map(lambda d, p: (-step_mult * lr * d).astype(p.dtype), directions, params)
            return updates, CeloAdamState(moments, scheduler)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)
