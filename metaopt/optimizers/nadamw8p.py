"""NAdamW with every hyper-parameter in theta: the search space of TaskSet and OptList (Metz et al. 2020, "Using a
thousand optimization tasks to learn hyperparameter search strategies", arXiv 2002.11887).

Adam with decoupled weight decay (AdamW), an L2 penalty in the gradient, and a `nesterov` that blends between none, 0,
and Nesterov's momentum, 1; the equation is in `_adam`, the learning rate at t = 0, 1, ..., T = num_steps

    W = min(warmup, constant) T,        C = constant T,        x = (t - C) / (T - C), within 0 and 1
    learning_rate · min(1, (t + 1) / (W + 1)) · (end + (1 - end) (1 + cos(pi x)) / 2)

a warm-up, a constant stretch until C, half a cosine from there to `end`, a share of the learning rate. warmup 0 or
weight_decay 0 are none; constant 1 is no cosine. After T the last value stays.

Differs from the published code: the L2 penalty pulls weights towards zero (there it has the opposite sign); bias
correction, eps and Nesterov's momentum are as in optax (there sqrt(1 - b2^t) / (1 - b1^t) multiplies the learning rate,
of the weight decay too, and eps is added to the uncorrected root).
"""

import jax.numpy as jnp

from metaopt.optimizers._adam import Terms, adam_like
from metaopt.types import LearnedOptimizer


def nadamw8p(
    learning_rate: float = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    nesterov: float = 1.0,
    weight_decay: float = 1e-4,
    l2: float = 1e-8,
    warmup: float = 0.05,
    constant: float = 0.1,
    end: float = 0.01,
) -> LearnedOptimizer:
    """The rule; 10 numbers by default, whose values it starts from (`_values`: zero is exact, but is not learned).

    weight_decay: decoupled from the gradient, as in AdamW
    l2: added to the gradient, times the parameters
    warmup: share of the horizon
    constant: share of the horizon before the cosine, the warm-up included
    end: last learning rate over the largest one

    Raises ValueError for a value out of its range.
    """
    start = dict(locals())

    def terms(h, t, num_steps):
        t, steady = jnp.minimum(t, num_steps), h["constant"] * num_steps
        warm = jnp.minimum(h["warmup"] * num_steps, steady)
        x = jnp.clip((t - steady) / jnp.maximum(num_steps - steady, 1.0), 0.0, 1.0)
        cosine = h["end"] + (1 - h["end"]) * (1 + jnp.cos(jnp.pi * x)) / 2
        factor = jnp.minimum((t + 1) / (warm + 1), 1.0) * cosine
        return Terms(factor, l2=h["l2"], nesterov=h["nesterov"], weight_decay=h["weight_decay"])

    return adam_like(start, terms)
