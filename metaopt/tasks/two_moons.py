"""Two interleaved half circles told apart by a small network: the picture-book problem of classification.

x = R (c_t + r (cos a, +- sin a)) + noise,   a uniform in [0, pi],   drawn anew for every minibatch
loss = mean over the minibatch of log(1 + exp(-t z)),   z = mlp(x)

Upper moon t = 1, centre (-1/2, -1/4), +sin; lower moon t = -1, centre (1/2, 1/4), -sin; radius r = 1, then the member's
turn R. The set-up is scikit-learn's `make_moons`, centred. No data set: the splits are streams of fresh points.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from metaopt.tasks import _nets
from metaopt.types import Task


def two_moons(
    hidden: tuple[int, ...] = (16, 16),
    activation: Literal["relu", "tanh", "gelu", "silu", "sigmoid", "elu", "leaky_relu", "cos", "sampled"] = "sampled",
    noise: float | tuple[float, float] = (0.02, 0.2),
    batch_size: int = 64,
    init_scale: float | tuple[float, float] = (0.5, 2.0),
) -> Task:
    """Members differ in the turn and the noise of the moons, in their activation, and in their initial weights.

    hidden: widths of the hidden layers
    activation: between layers, none after the last; sampled: each member draws its own, as often as in TaskSet
    noise: standard deviation of the points, or the two ends of a log-uniform range
    batch_size: points of a minibatch
    init_scale: factor on the initial weights (see `_nets.mlp_init`), or the two ends of a log-uniform range

    Normalised loss = loss / log 2, bounded: 1 is as good as a guess. aux = {"accuracy": of the minibatch}.
    Raises ValueError for an unknown activation.
    """
    fixed = None if activation == _nets.SAMPLED else _nets.activation_fn(activation)

    def sample(key):
        keys = jax.random.split(key, 4)
        cfg = {
            "angle": jax.random.uniform(keys[0], (), jnp.float32, 0, 2 * math.pi),
            "noise": _nets.sample_scale(keys[1], noise),
            "init_scale": _nets.sample_scale(keys[2], init_scale),
        }
        return cfg if fixed else cfg | {"activation": _nets.sample_activation(keys[3])}

    def init(cfg, key):
        return _nets.mlp_init(key, (2, *hidden, 1), cfg["init_scale"])

    def batch(cfg, data, key, split):
        keys = jax.random.split(key, 3)
        t = jax.random.rademacher(keys[0], (batch_size,), jnp.float32)
        a = jax.random.uniform(keys[1], (batch_size,), jnp.float32, 0, math.pi)
        x, y = jnp.cos(a) - t / 2, t * (jnp.sin(a) - 0.25)
        c, s = jnp.cos(cfg["angle"]), jnp.sin(cfg["angle"])
        points = jnp.stack([c * x - s * y, s * x + c * y], axis=-1)
        return {"x": points + cfg["noise"] * jax.random.normal(keys[2], points.shape, jnp.float32), "t": t}

    def loss(cfg, params, batch, key):
        act = fixed or _nets.sampled_activation(cfg["activation"])
        margin = batch["t"] * _nets.mlp(params, batch["x"], act)[:, 0]
        return jnp.mean(jax.nn.softplus(-margin)), {"accuracy": jnp.mean(margin > 0)}

    def normalize(cfg, loss):
        return _nets.bounded(loss / math.log(2))

    return Task(sample, init, batch, loss, normalize, dict)
