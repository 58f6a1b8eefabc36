"""Learning-rate schedules by name.

A factory takes (peak, steps) and gives an optax schedule, step -> learning rate, for t = 0 .. steps; x = t / steps:

    constant     peak
    linear       peak (1 - x)
    cosine       peak (1 + cos(pi x)) / 2
    exponential  peak 0.01^x

After `steps` the last value stays.
"""

import jax
import jax.numpy as jnp
import optax

EXPONENTIAL_END = 0.01  # the last learning rate of `exponential`, as a share of the peak


def constant(peak: float, steps: int) -> optax.Schedule:
    """The peak, always."""
    return optax.constant_schedule(peak)


def linear(peak: float, steps: int) -> optax.Schedule:
    """From the peak straight down to zero."""
    return optax.linear_schedule(peak, 0.0, steps)


def cosine(peak: float, steps: int) -> optax.Schedule:
    """From the peak down to zero along half a cosine."""
    return optax.cosine_decay_schedule(peak, steps)


def exponential(peak: float, steps: int) -> optax.Schedule:
    """From the peak down to a hundredth of it, by the same factor each step."""
    return optax.exponential_decay(peak, steps, EXPONENTIAL_END, end_value=EXPONENTIAL_END * peak)


SCHEDULES = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
}


def schedule(name: str, peak: float, steps: int | jax.Array, warmup: int = 0) -> optax.Schedule:
    """The named schedule over the steps that `warmup` leaves, behind a linear warm-up:

        t < warmup:   peak (t + 1) / (warmup + 1)
        t >= warmup:  the schedule at t - warmup, over steps - warmup

    The first step of a warm-up is not lost to a learning rate of zero. `steps` may be a tracer: schedules are functions
    of the share that is done. Raises KeyError for an unknown name.
    """
    body = SCHEDULES[name](peak, 1)

    def rate(t):
        done = (t - warmup) / jnp.maximum(steps - warmup, 1)
        return jnp.where(t < warmup, peak * (t + 1) / (warmup + 1), body(done))

    return rate
