"""Pytree arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt import tree

LEAVES = {
    "scalar": np.float32(2.0),
    "small": np.ones((3, 4), np.float32),
    "half": jnp.ones(5, jnp.bfloat16),
    "empty": np.zeros((0, 3), np.float32),
    "large": np.ones((2, tree.SMALL), np.float32),
    "larger": np.ones(tree.SMALL + 1, np.float32),
    "count": np.arange(3),
}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_found(bad):
    """In any floating leaf, at its first, its last and any place between, and of one run among several."""
    leaves = jax.tree.map(jnp.asarray, LEAVES)
    assert tree.all_finite(leaves) and tree.all_finite({}) and tree.all_finite({"count": leaves["count"]})
    for name in ("scalar", "small", "half", "large", "larger"):
        for place in {0, leaves[name].size // 2, leaves[name].size - 1}:
            broken = leaves[name].ravel().at[place].set(bad).reshape(leaves[name].shape)
            assert not tree.all_finite({**leaves, name: broken})
            runs = jax.tree.map(lambda x, y: jnp.stack([x, y, x]), leaves, {**leaves, name: broken})
            assert jax.vmap(tree.all_finite)(runs).tolist() == [True, False, True]
