"""Random quadratics, the first inner problem of Andrychowicz et al. 2016, arXiv 1606.04474, section 3.1.

f(x) = ||W x - y||^2,   W [dim, dim] and y [dim] i.i.d. N(0, 1),   x_0 ~ N(0, 0.01^2)

The paper says Gaussian W and y where its code draws them uniformly; the paper is followed. x_0 is the code's.
"""

import jax
import jax.numpy as jnp
import numpy as np

from metaopt import linalg
from metaopt.tasks._nets import bounded
from metaopt.types import Task

INIT_STD = 0.01


def quadratic(dim: int = 10, condition: float | None = None) -> Task:
    """A fresh (W, y) for each member; no data, no minibatch noise.

    dim: number of coordinates
    condition: largest over smallest eigenvalue of the Hessian, >= 1; null for the Gaussian W

    With `condition` the Hessian 2 W^T W has the eigenvalues 2 lambda, lambda log-spaced from 1 / condition to 1, in a
    random rotated basis, and y = W x* with x* ~ N(0, I), so that the minimum is 0 at a distance of about sqrt(dim).
    Normalised loss = loss / E[initial loss], which is dim or the sum of the lambdas but for the 1e-4 of x_0; bounded.
    Raises ValueError for condition < 1.
    """
    if condition is not None and condition < 1:
        raise ValueError(f"condition: {condition}, expected a number >= 1 or null")
    lambdas = None if condition is None else np.geomspace(1 / condition, 1.0, dim, dtype=np.float32)
    expected = float(dim if lambdas is None else lambdas.sum())

    def sample(key):
        noise = jax.random.normal(key, (dim * dim + dim,), jnp.float32)
        gaussian, y = noise[: dim * dim].reshape(dim, dim), noise[dim * dim :]
        if lambdas is None:
            return {"w": gaussian, "y": y}
        w = np.sqrt(lambdas)[:, None] * linalg.qr(gaussian)[0]
        return {"w": w, "y": w @ y}

    def init(cfg, key):
        return {"x": INIT_STD * jax.random.normal(key, (dim,), jnp.float32)}

    def batch(cfg, data, key, split):
        return {}

    def loss(cfg, params, batch, key):
        x = params["x"].astype(jnp.promote_types(params["x"].dtype, jnp.float32))
        wx = jnp.sum(cfg["w"] * x[None], axis=1)  # a sum: a product of small matrices has each put in order first
        return jnp.sum(jnp.square(wx - cfg["y"])), {}

    def normalize(cfg, loss):
        return bounded(loss / expected)

    return Task(sample, init, batch, loss, normalize, dict)
