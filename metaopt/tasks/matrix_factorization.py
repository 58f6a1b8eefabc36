"""Matrix factorisation from sampled entries: not convex, with saddle points and a whole orbit of minima (U Q, V Q^-T).

loss = mean over sampled entries (i, j) of (u_i . v_j - M_ij)^2,   M = sum_k s_k a_k b_k^T,   a_k, b_k ~ N(0, I)

sum_k s_k^2 = 1, so that E[M_ij^2] = 1 over members; s_k / s_{k+1} is constant and s_1 / s_rank the condition number.
Stochastic gradients over entries are those of Koren, Bell & Volinsky 2009, "Matrix factorization techniques".
"""

import jax
import jax.numpy as jnp
import numpy as np

from metaopt.tasks._nets import bounded, sample_scale
from metaopt.types import Task


def matrix_factorization(
    rows: int = 32,
    columns: int = 24,
    rank: int = 4,
    condition: float | tuple[float, float] = (1.0, 30.0),
    batch_size: int = 128,
    init_scale: float | tuple[float, float] = (0.1, 0.5),
) -> Task:
    """Members differ in the matrix, its condition number, and the scale of the initial factors.

    rows: of the matrix
    columns: of the matrix
    rank: of the matrix and of the factors
    condition: largest over smallest s_k, or the two ends of a log-uniform range
    batch_size: entries of a minibatch, drawn with replacement
    init_scale: standard deviation of the initial u and v, or the two ends of a log-uniform range

    Normalised loss = loss / mean of M_ij^2 of the member, bounded: 1 is as good as zeros, 0 the right matrix.
    """
    steps = np.linspace(0, 1, rank, dtype=np.float32)

    def sample(key):
        keys = jax.random.split(key, 3)
        s = sample_scale(keys[0], condition) ** -steps
        factors = jax.random.normal(keys[1], (rows + columns, rank), jnp.float32)
        return {
            "a": factors[:rows] * (s / jnp.linalg.norm(s))[None, :],
            "b": factors[rows:],
            "init_scale": sample_scale(keys[2], init_scale),
        }

    def init(cfg, key):
        factors = cfg["init_scale"] * jax.random.normal(key, (rows + columns, rank), jnp.float32)
        return {"u": factors[:rows], "v": factors[rows:]}

    def batch(cfg, data, key, split):
        bits = jax.random.bits(key, (2, batch_size), jnp.uint32)  # see _nets.some_rows
        i, j = bits[0] % jnp.uint32(rows), bits[1] % jnp.uint32(columns)
        return {"i": i, "j": j, "m": jnp.sum(cfg["a"][i] * cfg["b"][j], axis=-1)}

    def loss(cfg, params, batch, key):
        u, v = (p.astype(jnp.promote_types(p.dtype, jnp.float32)) for p in (params["u"], params["v"]))
        return jnp.mean(jnp.square(jnp.sum(u[batch["i"]] * v[batch["j"]], axis=-1) - batch["m"])), {}

    def normalize(cfg, loss):
        square = jnp.sum((cfg["a"].T @ cfg["a"]) * (cfg["b"].T @ cfg["b"])) / (rows * columns)
        return bounded(loss / square)

    return Task(sample, init, batch, loss, normalize, dict)
