"""A picture as a network of its coordinates, with sines as activations (SIREN: Sitzmann et al. 2020, arXiv 2006.09661).

loss = mean over sampled points x in [-1, 1]^2 of (net(x) - f(x))^2,    f(x) = sqrt(2 / waves) sum_k cos(b_k . x + c_k)

net = linear o sin(omega (W h + b)) o ... o sin(omega (W x + b)); the fresh weights and biases are the paper's, uniform
within 1 / inputs in the first layer and sqrt(6 / inputs) / omega in the others. The pictures are random waves, b_k
uniform in [-bandwidth, bandwidth]^2, of mean square 1 on average, where the paper has photographs.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from metaopt.tasks._nets import bounded, mlp, sample_scale
from metaopt.types import Task


def coordinate_network(
    hidden: tuple[int, ...] = (32, 32),
    omega: float = 10.0,
    bandwidth: float | tuple[float, float] = (2.0, 10.0),
    waves: int = 8,
    batch_size: int = 128,
) -> Task:
    """Members differ in the picture, in how fine it is, and in their initial weights.

    hidden: widths of the hidden layers
    omega: frequency of the sines
    bandwidth: highest frequency of the picture, radians per half side, or the two ends of a log-uniform range
    waves: of which a picture is the sum
    batch_size: points of a minibatch

    Normalised loss = loss, bounded: 1 is as good as zero everywhere, 0 the picture itself.
    """
    sizes = (2, *hidden, 1)
    ends = [1 / 2, *(math.sqrt(6 / size) / omega for size in hidden)]

    def sample(key):
        keys = jax.random.split(key, 3)
        frequencies = jax.random.uniform(keys[0], (waves, 2), jnp.float32, -1, 1) * sample_scale(keys[1], bandwidth)
        return {"b": frequencies, "c": jax.random.uniform(keys[2], (waves,), jnp.float32, 0, 2 * math.pi)}

    def init(cfg, key):
        shapes = [(fan_in + 1, fan_out) for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True)]
        parts = np.cumsum([math.prod(shape) for shape in shapes])
        drawn = jnp.split(jax.random.uniform(key, (parts[-1],), jnp.float32, -1, 1), parts[:-1])
        params: dict[str, jax.Array] = {}
        for i, (shape, end, values) in enumerate(zip(shapes, ends, drawn, strict=True)):
            *w, b = end * values.reshape(shape)
            params |= {f"w{i}": jnp.stack(w), f"b{i}": b}
        return params

    def batch(cfg, data, key, split):
        x = jax.random.uniform(key, (batch_size, 2), jnp.float32, -1, 1)
        return {"x": x, "y": math.sqrt(2 / waves) * jnp.cos(x @ cfg["b"].T + cfg["c"][None, :]).sum(axis=-1)}

    def loss(cfg, params, batch, key):
        return jnp.mean(jnp.square(mlp(params, batch["x"], lambda h: jnp.sin(omega * h))[:, 0] - batch["y"])), {}

    def normalize(cfg, loss):
        return bounded(loss)

    return Task(sample, init, batch, loss, normalize, dict)
