"""Newton's method, damped, with a dense Hessian: for small problems.

    p <- p - learning_rate V (|L| + damping)^-1 V' g,        H = V diag(L) V', the Hessian of the batch's loss

Where H has no negative eigenvalue, that is (H + damping I)^-1 g. Taking the magnitudes of the others goes down along
directions of negative curvature, where Newton's own step would go up to the saddle point (Dauphin et al. 2014,
arXiv 1406.2572). No step is longer than learning_rate / damping times the gradient, which is what keeps it from
diverging on minibatches, whose Hessian says little where it is flat. An n x n matrix is decomposed at every step: in
the order of 10 n^3 operations, 4 n^2 bytes.
"""

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

LIMIT = 2000  # parameters


def newton(learning_rate: float = 1.0, damping: float = 0.3) -> optax.GradientTransformationExtraArgs:
    """The transformation; `update` needs the loss of the present batch as a function of the parameters, `value_fn`.

    No derivative goes through the Hessian. Raises ValueError for more than 2,000 parameters, or without `value_fn`.
    """

    def init_fn(params):
        count = sum(x.size for x in jax.tree.leaves(params))
        if count > LIMIT:
            raise ValueError(f"newton has a dense Hessian: for at most {LIMIT:,} parameters, not {count:,}")
        return optax.EmptyState()

    def update_fn(grads, state, params=None, *, value_fn=None, **extra):
        del extra
        if value_fn is None:
            raise ValueError("newton uses the loss as a function of the parameters: give it to update, as value_fn")
        flat, unravel = ravel_pytree(params)
        hessian = jax.lax.stop_gradient(jax.hessian(lambda p: value_fn(unravel(p)))(flat))
        eigenvalues, vectors = jnp.linalg.eigh(hessian)
        direction = vectors @ (vectors.T @ ravel_pytree(grads)[0] / (jnp.abs(eigenvalues) + damping))
        return unravel(-learning_rate * direction), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
