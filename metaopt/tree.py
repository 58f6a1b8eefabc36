"""Pytree arithmetic that optax.tree and jax.tree lack."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metaopt.types import PyTree


def normal_like(key: jax.Array, tree: PyTree, std: float) -> PyTree:
    """Gaussian noise with the structure, shapes and dtypes of `tree`; one draw for all leaves compiles fastest."""
    flat, unravel = ravel_pytree(tree)
    return unravel(std * jax.random.normal(key, flat.shape, flat.dtype))


def where(condition: jax.Array, a: PyTree, b: PyTree) -> PyTree:
    """Leafwise `a if condition else b` for a scalar boolean."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def all_finite(tree: PyTree) -> jax.Array:
    """True when every entry of every floating leaf is finite."""
    leaves = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack(leaves).all() if leaves else jnp.array(True)
