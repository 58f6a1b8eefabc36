"""TaskSet's family of quadratics (Metz et al. 2020, arXiv 2002.11887): badly scaled, noisy, seen through a logarithm.

f(x) = s · out(||(A + E) (x - x*)||^2),   x_0 and x* ~ N(0, I);   out(v) = v or log(1 + v);   E_ij ~ N(0, noise^2), anew
                                          in each step, for half of the members

The entries of A are N(0, 1) / sqrt(dim) or uniform in [0, 1] / sqrt(dim), or A has eigenvalues that are spaced evenly
or by a constant factor in a rotated basis; one of the four, drawn for each member. TaskSet spaces from 1e-5 to a number
that is uniform in [1, 1000]; so it is here. Its dimension is a static argument here, its log(v) has no minimum and is
log(1 + v) here, and x* makes the minimum 0 where the noise does not.
"""

import jax
import jax.numpy as jnp
import numpy as np

from metaopt import linalg
from metaopt.tasks._nets import bounded, sample_scale
from metaopt.types import Task

SMALLEST = 1e-5  # eigenvalue of the spaced spectra


def taskset_quadratic(
    dim: int = 10,
    largest: tuple[float, float] = (1.0, 1000.0),
    scale: float | tuple[float, float] = (1e-5, 1e3),
    noise: float = 0.01,
) -> Task:
    """Members differ in the matrix and its kind, the minimum, the output function, the loss scale, and the noise.

    dim: number of coordinates
    largest: range of the largest eigenvalue of the spaced spectra, uniform
    scale: the factor s on the loss, or the two ends of a log-uniform range
    noise: standard deviation of the noise on entries of A, in units of their root mean square, for half of the members

    Normalised loss = loss / (s · out(E[v])), bounded, with E[v] = 2 ||A||_F^2 (1 + noise^2) over starts and minima.
    """
    even, factor = np.linspace(0, 1, dim, dtype=np.float32), np.linspace(1, 0, dim, dtype=np.float32)

    def spectrum(top):
        return jnp.stack([SMALLEST + (top - SMALLEST) * even, top * (SMALLEST / top) ** factor])

    def sample(key):
        keys = jax.random.split(key, 4)
        noise_ = jax.random.normal(keys[0], (2 * dim * dim + dim,), jnp.float32)
        gaussian, rotation = noise_[: 2 * dim * dim].reshape(2, dim, dim)
        kind, is_log, is_noisy = jax.random.randint(keys[1], (3,), 0, jnp.array([4, 2, 2]))
        q, uniform = linalg.qr(rotation)[0], jax.scipy.stats.norm.cdf(gaussian)
        spaced = spectrum(jax.random.uniform(keys[2], (), jnp.float32, *largest))
        rotated = jnp.einsum("ij,kj,lj->kil", q, spaced, q)
        kinds = jnp.concatenate([jnp.stack([gaussian, uniform]) / np.sqrt(dim), rotated])
        return {
            "a": kinds[kind],
            "minimum": noise_[2 * dim * dim :],
            "scale": sample_scale(keys[3], scale),
            "log": is_log == 1,
            "noise": jnp.where(is_noisy, jnp.float32(noise), 0.0),
        }

    def output(cfg, value):
        return cfg["scale"] * jnp.where(cfg["log"], jnp.log1p(value), value)

    def init(cfg, key):
        return {"x": jax.random.normal(key, (dim,), jnp.float32)}

    def batch(cfg, data, key, split):
        return {}

    def loss(cfg, params, batch, key):
        x = params["x"].astype(jnp.promote_types(params["x"].dtype, jnp.float32))
        size = jnp.linalg.norm(cfg["a"]) / dim
        noisy = cfg["a"] + cfg["noise"] * size * jax.random.normal(key, (dim, dim), jnp.float32)
        return output(cfg, jnp.sum(jnp.square(noisy @ (x - cfg["minimum"])))), {}

    def normalize(cfg, loss):
        expected = 2 * jnp.sum(jnp.square(cfg["a"])) * (1 + jnp.square(cfg["noise"]))
        return bounded(loss / output(cfg, expected))

    return Task(sample, init, batch, loss, normalize, dict)
