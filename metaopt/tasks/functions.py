"""Test functions of optimization, in closed form and mostly in two coordinates; all have the minimum 0.

    bowl             (u^2 + kappa v^2) / 2,  (u, v) = (x, y) turned by an angle;            start in [-2, 2]^2
    valley           (x - y)^2 / 2: a whole line of minima;                                 start in [-2, 2]^2
    rosenbrock       sum_i 100 s (x_{i+1} - x_i^2)^2 + (1 - x_i)^2;                         start in [-2.048, 2.048]^dim
    ackley           20 + e - 20 exp(-sqrt((x^2 + y^2) / 2) / 5) - exp((cos 2 pi x + cos 2 pi y) / 2);  in [-5, 5]^2
    beale            (3/2 - x + xy)^2 + (9/4 - x + xy^2)^2 + (21/8 - x + xy^3)^2;           start in [0, 4.5] x [-1, 1]
    styblinski_tang  sum_i (x_i^4 - 16 x_i^2 + 5 x_i) / 2 + 39.166...;                      start in [-5, 5]^2

Rosenbrock 1960, "An automatic method for finding the greatest or least value of a function", in De Jong's box (1975);
Ackley 1987, "A connectionist machine for genetic hillclimbing"; Beale 1958; Styblinski & Tang 1990. They are TaskSet's
fixed problems (arXiv 2002.11887), but for the valley. Beale's function is a polynomial of degree 8: in its usual box
the corners are 10,000 times as high as the rest and decide every mean, so it is started where it is of one scale.

No data, no minibatch noise. Normalised loss = loss / E[initial loss], bounded; the expectation is over the start, exact
for the member, so that fresh losses are 1 on average.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metaopt.tasks._nets import bounded, sample_scale
from metaopt.types import Task

Box = tuple[tuple[float, float], ...]  # the two ends of each coordinate's start

STYBLINSKI_MINIMUM = -39.16616570377142  # of one coordinate's (x^4 - 16 x^2 + 5 x) / 2, at x = -2.9035...


def bowl(condition: float | tuple[float, float] = (1.0, 1000.0)) -> Task:
    """A two-dimensional quadratic; members differ in its condition number and its angle.

    condition: kappa, or the two ends of a log-uniform range
    """
    box = ((-2.0, 2.0),) * 2

    def sample(key):
        angle_key, condition_key = jax.random.split(key)
        angle = jax.random.uniform(angle_key, (), jnp.float32, 0, np.pi)
        return {"kappa": sample_scale(condition_key, condition), "angle": angle}

    def value(cfg, x):
        c, s = jnp.cos(cfg["angle"]), jnp.sin(cfg["angle"])
        u, v = c * x[0] - s * x[1], s * x[0] + c * x[1]
        return (jnp.square(u) + cfg["kappa"] * jnp.square(v)) / 2

    return _task(sample, box, value, lambda cfg: (1 + cfg["kappa"]) * (2.0**2 / 3) / 2)


def valley(scale: float | tuple[float, float] = 1.0) -> Task:
    """Half the squared difference of two coordinates; members differ in their start.

    scale: factor on the loss, or the two ends of a log-uniform range
    """
    return _fixed(lambda x, y, xp: xp.square(x - y) / 2, ((-2.0, 2.0),) * 2, scale)


def rosenbrock(dim: int = 2, steepness: float | tuple[float, float] = 1.0) -> Task:
    """A curved, badly conditioned valley; members differ in their start and in how steep the walls are.

    dim: number of coordinates, at least 2
    steepness: the factor s on 100, or the two ends of a log-uniform range

    With U = 2.048, E[initial loss] = (dim - 1) (100 s (U^2/3 + U^4/5) + 1 + U^2/3). Raises ValueError for dim < 2.
    """
    if dim < 2:
        raise ValueError(f"dim: {dim}, expected at least 2")
    end = 2.048

    def sample(key):
        return {"walls": 100 * sample_scale(key, steepness)}

    def value(cfg, x):
        walls = cfg["walls"] * jnp.square(x[1:] - jnp.square(x[:-1]))
        return jnp.sum(walls + jnp.square(1 - x[:-1]))

    def expected(cfg):
        return (dim - 1) * (cfg["walls"] * (end**2 / 3 + end**4 / 5) + 1 + end**2 / 3)

    return _task(sample, ((-end, end),) * dim, value, expected)


def ackley(scale: float | tuple[float, float] = 1.0) -> Task:
    """A funnel covered with ripples, so with many local minima; members differ in their start.

    scale: factor on the loss, or the two ends of a log-uniform range
    """

    def value(x, y, xp):
        waves = (xp.cos(2 * np.pi * x) + xp.cos(2 * np.pi * y)) / 2
        return 20 + np.e - 20 * xp.exp(-xp.sqrt((x * x + y * y) / 2) / 5) - xp.exp(waves)

    return _fixed(value, ((-5.0, 5.0),) * 2, scale)


def beale(scale: float | tuple[float, float] = 1.0) -> Task:
    """Flat around its minimum, with steep walls; members differ in their start.

    scale: factor on the loss, or the two ends of a log-uniform range
    """

    def value(x, y, xp):
        terms = (1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3)
        return xp.square(terms[0]) + xp.square(terms[1]) + xp.square(terms[2])

    return _fixed(value, ((0.0, 4.5), (-1.0, 1.0)), scale)


def styblinski_tang(scale: float | tuple[float, float] = 1.0) -> Task:
    """Four minima, one in each quadrant, the deepest at (-2.9, -2.9); members differ in their start.

    scale: factor on the loss, or the two ends of a log-uniform range
    """

    def value(x, y, xp):
        return (x**4 - 16 * x**2 + 5 * x + y**4 - 16 * y**2 + 5 * y) / 2 - 2 * STYBLINSKI_MINIMUM

    return _fixed(value, ((-5.0, 5.0),) * 2, scale)


def _fixed(value: Callable[[Any, Any, Any], Any], box: Box, scale: float | tuple[float, float]) -> Task:
    """A function value(x, y, numpy or jax.numpy) times a sampled scale."""
    nodes, weights = np.polynomial.legendre.leggauss(100)  # exact for polynomials; for Ackley's ripples to 1e-3
    x, y = ((low + high) / 2 + (high - low) / 2 * nodes for low, high in box)
    mean = float(weights @ value(x[:, None], y[None, :], np) @ weights) / 4

    def sample(key):
        return {"scale": sample_scale(key, scale)}

    return _task(
        sample, box, lambda cfg, x: cfg["scale"] * value(x[0], x[1], jnp), lambda cfg: jnp.asarray(cfg["scale"]) * mean
    )


def _task(sample: Callable, box: Box, value: Callable, expected: Callable) -> Task:
    """value(cfg, x) -> loss of x [dim]; expected(cfg) -> its mean over the box of starts."""
    low, high = np.asarray(box, np.float32).T

    def init(cfg, key):
        return {"x": low + (high - low) * jax.random.uniform(key, low.shape, jnp.float32)}

    def batch(cfg, data, key, split):
        return {}

    def loss(cfg, params, batch, key):
        x = params["x"].astype(jnp.promote_types(params["x"].dtype, jnp.float32))
        return value(cfg, x), {}

    def normalize(cfg, loss):
        return bounded(loss / expected(cfg))

    return Task(sample, init, batch, loss, normalize, dict)
