"""QR decompositions of many runs at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt import linalg


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7)])
@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_each_matrix_has_the_librarys_own_factors(lead, shape):
    x = jax.random.normal(jax.random.key(0), (*lead, *shape))
    expected = jnp.linalg.qr(x)
    mapped = linalg.qr
    for _ in lead:
        mapped = jax.vmap(mapped)
    for q, r in (linalg.qr(x), jax.jit(linalg.qr)(x), jax.jit(mapped)(x)):
        np.testing.assert_array_equal(q, expected[0])
        np.testing.assert_array_equal(r, expected[1])


def test_on_a_cpu_no_batch_is_handed_to_the_library():
    """Its threads would wait for each other: on two devices of one thread each, some of these never ended."""
    text = jax.jit(jax.vmap(jax.vmap(linalg.qr))).lower(jnp.ones((2, 3, 4, 4))).compile().as_text()
    calls = [line for line in text.splitlines() if "lapack" in line and "custom-call" in line]
    assert calls and all("f32[4,4]" in line for line in calls)
