"""The nouns every module speaks in. Imports nothing of ours.

Shapes are written for ONE inner run; callers `vmap`. `theta` are meta-parameters (the weights of a learned optimizer),
`params` the inner parameters it optimizes, `horizon` the length of an inner run in steps, `truncation` the number of
steps unrolled for one outer-gradient estimate.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

PyTree = Any  # any pytree of arrays


class LearnedOptimizer(NamedTuple):
    """An architecture: a family of update rules indexed by theta.

    init(key) -> theta, a pytree of float32 arrays.
    build(theta, num_steps) -> optax.GradientTransformationExtraArgs. Called inside jit: theta and num_steps may be
      tracers, so a new theta never recompiles. Its `update(grads, state, params, *, value, **ignored)` takes the loss
      as `value`; architectures that do not use the loss give `value` a default. The inner loop also gives `grad`, the
      gradient again, and `value_fn`, the loss of the present batch as a function of the params, as optax's L-BFGS
      wants them.
    """

    init: Callable[[jax.Array], PyTree]
    build: Callable[..., Any]


class Task(NamedTuple):
    """A family of inner problems.

    sample(key) -> cfg            one member of the family, a pytree of arrays (so that `vmap` runs many members)
    init(cfg, key) -> params
    batch(cfg, data, key, split) -> batch        `data` is an argument, never closed over; `split` is a static string
    loss(cfg, params, batch, key) -> (scalar, aux)
    normalize(cfg, loss) -> loss on a scale on which families can be averaged (a fresh model near 1, a good one near
      0); finite for any input, NaN included
    data() -> {"train": arrays, "inner_valid": arrays, "outer_valid": arrays, "test": arrays} on the host
    delay: gradients reach the optimizer that many steps late; the inner loop keeps them meanwhile
    """

    sample: Callable[[jax.Array], PyTree]
    init: Callable[[PyTree, jax.Array], PyTree]
    batch: Callable[[PyTree, PyTree, jax.Array, str], PyTree]
    loss: Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, PyTree]]
    normalize: Callable[[PyTree, jax.Array], jax.Array]
    data: Callable[[], PyTree]
    delay: int = 0


class Estimator(NamedTuple):
    """An estimator of d E[meta-loss] / d theta, one truncation at a time.

    init(theta, key) -> state     every leaf has a leading axis [tasks (times pairs), ...], sharded over the devices
    estimate(theta, state, data, key) -> (grad, state, metrics)
      grad has theta's structure and is finite; metrics is a flat dict of float32 scalars, among them `meta_loss` (the
      outer loss, or a truncation's share of it), `diverged` (inner runs that start anew because they are not finite)
      and `nonfinite` (differences or gradients that counted as zero because they are not).
    inner_steps: inner optimization steps that one `estimate` takes, all runs together; where runs have different
      horizons and are unrolled whole, as many as if all had the longest
    """

    init: Callable[[PyTree, jax.Array], PyTree]
    estimate: Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[PyTree, PyTree, dict[str, jax.Array]]]
    inner_steps: int


class Inner(NamedTuple):
    """One inner run in flight. Step t draws from `fold_in(key, 2t)` and `fold_in(key, 2t + 1)`: resuming repeats it."""

    cfg: PyTree
    params: PyTree
    opt_state: PyTree
    step: jax.Array  # i32 scalar, steps taken
    horizon: jax.Array  # i32 scalar, steps this run will take
    key: jax.Array  # typed PRNG key
