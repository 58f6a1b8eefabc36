"""Pytree arithmetic that optax.tree and jax.tree lack."""

import jax
import jax.numpy as jnp

from metaopt.types import PyTree

SMALL = 1 << 16  # numbers of a leaf


def where(condition: jax.Array, a: PyTree, b: PyTree) -> PyTree:
    """Leafwise `a if condition else b` for a scalar boolean."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def all_finite(tree: PyTree) -> jax.Array:
    """True when every entry of every floating leaf is finite. Small leaves are looked at side by side: a loop for each
    takes longer to compile than to run."""
    leaves = [x.ravel() for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    small, large = ([x for x in leaves if (x.size > SMALL) == side] for side in (False, True))
    parts = [jnp.concatenate(small), *large] if small else large
    return jnp.array([jnp.isfinite(x).all() for x in parts]).all()
