"""Adam with eight hyper-parameters, all in theta: the other search space of TaskSet (Metz et al. 2020, "Using a
thousand optimization tasks to learn hyperparameter search strategies", arXiv 2002.11887).

The gradient is that of loss + l1 |p|_1 + l2 |p|_2^2, so 2 l2 p + l1 sign(p) is added to it; the rest of the equation is
in `_adam`, the learning rate at t = 0, 1, ..., T = num_steps

    learning_rate · max(0, 1 - linear_decay · s) · exp(-exponential_decay · s),        s = 10,000 t / T

Both decays are per step of a run of 10,000 steps, whatever the horizon: with linear_decay 1e-4 the rate falls straight
to zero at T, with exponential_decay 1e-3 to exp(-10) of itself.

Differs from the published code, which adds 1e-10 under the square root as well.
"""

import jax.numpy as jnp

from metaopt.optimizers._adam import Terms, adam_like
from metaopt.types import LearnedOptimizer

STEPS = 10_000  # the run that decays are per step of


def adam8p(
    learning_rate: float = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    l1: float = 1e-8,
    l2: float = 1e-8,
    linear_decay: float = 1e-7,
    exponential_decay: float = 1e-6,
) -> LearnedOptimizer:
    """The rule; 8 numbers by default, whose values it starts from (`_values`: zero is exact, but is not learned).

    l1: factor of the sum of magnitudes, in the loss
    l2: factor of the sum of squares, in the loss
    linear_decay: what the rate loses of its first value a step, of 10,000
    exponential_decay: what the logarithm of the rate loses a step, of 10,000

    Raises ValueError for a value out of its range.
    """
    start = dict(locals())

    def terms(h, t, num_steps):
        s = STEPS * t / num_steps
        factor = jnp.maximum(1 - h["linear_decay"] * s, 0.0) * jnp.exp(-h["exponential_decay"] * s)
        return Terms(factor, l1=h["l1"], l2=2 * h["l2"])

    return adam_like(start, terms)
