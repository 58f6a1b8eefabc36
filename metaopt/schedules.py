"""Learning-rate schedules by name: what a learning rate is over the steps t = 0 .. T of a run, x = t / T.

    constant       peak
    linear         peak (1 - (1 - end) x)
    inverse_time   peak / (1 + decay t),                                    decay = (1 / end - 1) / T if not given
    power          peak / (1 + t)^exponent             (Robbins & Monro 1951 want an exponent in (1/2, 1])
    exponential    peak gamma^t,                                            gamma = end^(1 / T) if not given
    step_drop      peak factor^floor(t / s),                                s = round(every T)
    cosine         peak (end + (1 - end) (1 + cos(pi (2 dips - 1) x)) / 2)
    warm_restarts  that with one dip in each of `periods` periods, each `mult` times as long as the one before it
                   (SGDR, Loshchilov & Hutter 2017, arXiv 1608.03983)
    plateau        peak factor^n, n: how often the mean loss of a window of round(window T) steps has not improved for
                   `patience` windows (optax.contrib.reduce_on_plateau)

`end` is the last learning rate as a share of the peak; `every` and `window` are shares of the run, so that they make
sense for any horizon; `decay` and `gamma` are per step, as in textbooks. After T the last value stays.

A factory takes (peak, steps), which may be tracers, then the schedule's own arguments, and gives a function of the step
or, where the rate depends on the loss, a gradient transformation that multiplies by it. `scale_by` makes a
transformation of either; in `with_rate` it is the learning rate of an optimizer. A warm-up goes in front of any.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaopt.types import PyTree

Schedule = str | Mapping[str, Any]  # the entry of a schedule: its name, or {"name": ..., argument: value, ...}
Rate = float | jax.Array
Steps = int | jax.Array


def constant(peak: Rate, steps: Steps) -> optax.Schedule:
    """The peak, always."""
    return optax.constant_schedule(peak)


def linear(peak: Rate, steps: Steps, end: float = 0.0) -> optax.Schedule:
    """From the peak straight down to its end."""
    body = optax.linear_schedule(peak, _at_least(0, end=end) * peak, 1)
    return lambda t: body(_share(t, steps))


def inverse_time(peak: Rate, steps: Steps, end: float = 0.1, decay: float | None = None) -> optax.Schedule:
    """The peak over 1 + decay · t.

    decay: per step; null: such that the last rate is end · peak
    """
    slope = 1 / _above(0, end=end) - 1 if decay is None else _at_least(0, decay=decay) * steps
    return lambda t: peak / (1 + slope * _share(t, steps))


def power(peak: Rate, steps: Steps, exponent: float = 0.6) -> optax.Schedule:
    """The peak over (1 + t)^exponent, which knows no horizon.

    exponent: above 1/2 and at most 1, the sum of the rates diverges and that of their squares converges
    """
    _at_least(0, exponent=exponent)
    return lambda t: peak / (1.0 + jnp.minimum(t, steps)) ** exponent


def exponential(peak: Rate, steps: Steps, end: float = 0.01, gamma: float | None = None) -> optax.Schedule:
    """From the peak down by the same factor each step.

    gamma: the factor; null: such that the last rate is end · peak
    """
    total = math.log(_above(0, end=end)) if gamma is None else math.log(_above(0, gamma=gamma)) * steps
    return lambda t: peak * jnp.exp(total * _share(t, steps))


def step_drop(peak: Rate, steps: Steps, factor: float = 0.1, every: float = 0.3) -> optax.Schedule:
    """Multiplied by `factor` at regular intervals.

    every: share of the run between two drops
    """
    _at_least(0, factor=factor)
    interval = _steps(_above(0, every=every), steps)
    return lambda t: peak * factor ** (jnp.minimum(t, steps) // interval)


def cosine(peak: Rate, steps: Steps, dips: int = 1, end: float = 0.0) -> optax.Schedule:
    """Along a cosine, down to the end and up again; not restarted.

    dips: how often it is down at the end; the last time at the last step
    """
    halves = 2 * _at_least(1, dips=dips) - 1
    return lambda t: peak * _half_cosine(halves * _share(t, steps), end)


def warm_restarts(peak: Rate, steps: Steps, periods: int = 3, mult: float = 2.0, end: float = 0.0) -> optax.Schedule:
    """Half a cosine from the peak to the end, again and again (SGDR).

    mult: length of a period over that of the one before it
    """
    lengths = _above(0, mult=mult) ** np.arange(_at_least(1, periods=periods))
    edges = jnp.round(np.append(0.0, lengths.cumsum() / lengths.sum()) * steps).astype(jnp.int32)

    def rate(t):
        i = jnp.sum(t >= edges[1:-1])
        return peak * _half_cosine(_share(t - edges[i], jnp.maximum(edges[i + 1] - edges[i], 1)), end)

    return rate


def plateau(
    peak: Rate,
    steps: Steps,
    factor: float = 0.1,
    patience: int = 5,
    window: float = 0.02,
    rtol: float = 1e-4,
) -> optax.GradientTransformationExtraArgs:
    """Multiplied by `factor` whenever the loss, which has to be given as `value`, stops improving.

    patience: windows without improvement before a drop
    window: share of the run over which losses are averaged
    rtol: by what share of the best mean so far another one has to be below it to be an improvement

    Updates are counted from the first one, in a warm-up as well.
    """
    interval = _steps(_above(0, window=window), steps)
    body = optax.contrib.reduce_on_plateau(
        factor, _at_least(1, patience=patience), rtol=rtol, accumulation_size=interval
    )

    def update_fn(updates, state, params=None, *, value=None, **extra):
        if value is None:
            raise ValueError("the schedule plateau uses the loss: give it to update, as value")
        updates, state = body.update(updates, state, params, value=jnp.asarray(value), **extra)
        return optax.tree.scale(peak, updates), state

    return optax.GradientTransformationExtraArgs(body.init, update_fn)


SCHEDULES: dict[str, Callable[..., optax.Schedule | optax.GradientTransformationExtraArgs]] = {
    "constant": constant,
    "linear": linear,
    "inverse_time": inverse_time,
    "power": power,
    "exponential": exponential,
    "step_drop": step_drop,
    "cosine": cosine,
    "warm_restarts": warm_restarts,
    "plateau": plateau,
}


def schedule(entry: Schedule, peak: Rate, steps: Steps, warmup: Steps = 0) -> optax.Schedule:
    """The learning rate at step t, of the entry's schedule over the steps that `warmup` leaves, behind a linear one:

        t < warmup:   peak (t + 1) / (warmup + 1)
        t >= warmup:  the schedule at t - warmup, over steps - warmup

    The first step of a warm-up is not lost to a learning rate of zero. `steps`, `warmup` and `peak` may be tracers.
    Raises ValueError for an unknown name or argument, a value out of its range, or a schedule that uses the loss.
    """
    body = _made(entry, peak, jnp.maximum(steps - warmup, 1))
    if isinstance(body, optax.GradientTransformation):
        raise ValueError(f"schedule {_split(entry)[0]} uses the loss: it is no function of the step")
    return lambda t: jnp.where(t < warmup, peak * _warm(t, warmup), body(jnp.maximum(t - warmup, 0)))


def scale_by(
    entry: Schedule, peak: Rate, steps: Steps, warmup: Steps = 0, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by the learning rate of `schedule` at t = 0, every, 2 every, ..., and by no -1.

    Of a schedule that uses the loss, by its rate times the factor of the warm-up; its `update` needs `value`. Errors as
    of `schedule`.
    """
    body = _made(entry, peak, jnp.maximum((steps - warmup) // every, 1))
    if isinstance(body, optax.GradientTransformation):
        return optax.chain(body, optax.scale_by_schedule(lambda u: _warm(every * u, warmup)))
    rate = schedule(entry, peak, steps, warmup)
    return optax.with_extra_args_support(optax.scale_by_schedule(lambda u: rate(every * u)))


class Rated(NamedTuple):
    """State of `with_rate`: that of the rate, that of the optimizer."""

    rate: PyTree
    state: PyTree


def with_rate(
    factory: Callable[[jax.Array], optax.GradientTransformation], rate: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """factory(learning_rate) whose learning rate, float32, is at each update what `rate` makes of 1.

    Unlike a schedule handed to the factory this serves factories that take numbers only, and rates that see the loss.
    """
    one = jnp.float32(1.0)

    def init_fn(params: PyTree) -> Rated:
        state = rate.init(one)
        first, _ = rate.update(one, state, value=one)  # some optimizers keep their first rate
        return Rated(state, factory(first).init(params))

    def update_fn(updates: PyTree, state: Rated, params: PyTree = None, **extra: Any) -> tuple[PyTree, Rated]:
        now, rate_state = rate.update(one, state.rate, value=extra.get("value"))
        tx = optax.with_extra_args_support(factory(now))
        updates, inner = tx.update(updates, state.state, params, **extra)
        return updates, Rated(rate_state, inner)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _made(entry: Schedule, peak: Rate, steps: Steps) -> optax.Schedule | optax.GradientTransformationExtraArgs:
    name, arguments = _split(entry)
    if name not in SCHEDULES:
        near = difflib.get_close_matches(str(name), SCHEDULES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f": there are {', '.join(SCHEDULES)}"
        raise ValueError(f"no schedule {name!r}{hint}")
    try:
        return SCHEDULES[name](peak, steps, **arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"schedule {name}: {error}") from error


def _split(entry: Schedule) -> tuple[str, dict[str, Any]]:
    arguments = {"name": entry} if isinstance(entry, str) else dict(entry)
    return arguments.pop("name"), arguments


def _warm(t: Steps, warmup: Steps) -> jax.Array:
    return jnp.minimum((t + 1) / (warmup + 1), 1.0)


def _share(t: Steps, steps: Steps) -> jax.Array:
    return jnp.minimum(t / steps, 1.0)


def _half_cosine(x: jax.Array, end: float) -> jax.Array:
    return _at_least(0, end=end) + (1 - end) * (1 + jnp.cos(math.pi * x)) / 2


def _steps(share: float, steps: Steps) -> jax.Array:
    """A whole number: a step that rounding puts before its time would come one too late."""
    return jnp.maximum(jnp.round(share * steps), 1).astype(jnp.int32)


def _at_least(bound: float, **named: Any) -> Any:
    ((name, value),) = named.items()
    if not value >= bound:
        raise ValueError(f"{name}: must be at least {bound}, got {value}")
    return value


def _above(bound: float, **named: Any) -> Any:
    ((name, value),) = named.items()
    if not value > bound:
        raise ValueError(f"{name}: must be above {bound}, got {value}")
    return value
