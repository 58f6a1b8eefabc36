"""Eigenbases of gradients: eigenvectors, rotations and back, and renewal only when it is due, under `vmap` too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from metaopt.optimizers import _basis
from metaopt.optimizers._blocks import VECTOR, blocks_of
from tests.estimators.problems import quick_jit

ULP = 2.0**-23  # float32
SHAPES = [(6, 4), (5,), (2, 3, 4), (), (600, 30)]  # the last is too large for a flat block


def bases_of(arrays, limit=64, steps=3):
    """After some gradients like the arrays."""
    rng, bases = np.random.default_rng(1), [_basis.start(x.shape, limit) for x in arrays]
    for _ in range(steps):
        grads = [jnp.asarray(rng.standard_normal(x.shape), jnp.float32) for x in arrays]
        bases = [_basis.follow(b, g, jnp.array(True)) for b, g in zip(bases, grads, strict=True)]
    return bases


def test_a_constant_gradient_has_its_singular_vectors_as_bases():
    """G = U S V^T with S = 8, 4, 2, 1: subspace iteration gains a factor of 4 a renewal, so that 20 leave 1e-12, less
    than float32's rounding of the smallest eigenvalue, 64 ulp of the largest."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((n, 4)))[0] for n in (6, 4))
    g = jnp.asarray(u @ np.diag([8.0, 4.0, 2.0, 1.0]) @ v.T, jnp.float32)
    basis = _basis.start(g.shape, 6)
    renewed = quick_jit(lambda basis: _basis.follow(basis, g, jnp.array(True)))
    for _ in range(20):
        basis = renewed(basis)
    for side, vectors in zip(basis, (u, v), strict=True):
        overlap = np.abs(np.asarray(side.vectors)[:, :4].T @ vectors)
        np.testing.assert_allclose(overlap, np.eye(4), rtol=0, atol=10 * 64 * ULP)
        size = len(side.vectors)  # all columns are orthonormal, also those without a gradient
        np.testing.assert_allclose(side.vectors.T @ side.vectors, np.eye(size), rtol=0, atol=10 * ULP)


@pytest.mark.parametrize("limit", [0, 5, 64])
def test_there_and_back(limit):
    """A rotation: norms stay, and the way back is the inverse; sides above the limit are left alone."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in SHAPES]
    bases = bases_of(arrays, limit)
    for block in blocks_of(arrays, VECTOR):
        x = block.gather(arrays)
        y, twice = _basis.turn(bases, block, [x, 2 * x])
        (z,) = _basis.turn(bases, block, [y], back=True)
        # sums of at most 64 products, twice
        np.testing.assert_allclose(z, x, rtol=0, atol=64 * ULP)
        np.testing.assert_allclose(twice, 2 * y, rtol=0, atol=64 * ULP)
        np.testing.assert_allclose(jnp.linalg.norm(y), jnp.linalg.norm(x), rtol=64 * ULP)
        assert np.any(x != y) == (limit >= 30 or (block.flat and limit > 0))


def test_a_basis_is_renewed_where_it_is_due_and_under_vmap_alone_there():
    rng = np.random.default_rng(0)
    g = jnp.asarray(rng.standard_normal((4, 5, 3)), jnp.float32)
    (basis,) = bases_of([g[0]])
    due = jnp.array([True, False, True, False])

    def follow(g, due):
        return _basis.follow(basis, g, due)

    together = jax.vmap(follow)(g, due)
    for i in range(4):
        for side, alone, before in zip(together, follow(g[i], due[i]), basis, strict=True):
            np.testing.assert_allclose(side.covariance[i], alone.covariance, rtol=1e-5, atol=1e-6)
            # of rounding, a hundredth of the smallest of eigenvalues that are of one size
            np.testing.assert_allclose(side.vectors[i], alone.vectors, rtol=0, atol=1e-4)
            assert np.all(side.vectors[i] == before.vectors) != due[i]


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_no_factorisation_is_computed_in_vain(levels):
    """It stays inside a `cond`, however often `vmap` is applied: as a select it would be computed at every step."""
    basis = _basis.start((5, 3), 64)

    def follow(g, due):
        return _basis.follow(basis, g, due)

    for _ in range(levels):
        follow = jax.vmap(follow)
    shape = (2,) * levels
    program = jax.make_jaxpr(follow)(jnp.ones((*shape, 5, 3)), jnp.ones(shape, bool))
    names = list(primitives(program.jaxpr))
    inside = list(primitives(program.jaxpr, into_cond=True))
    assert not {"geqrf", "qr", "householder_product"} & set(names)
    assert {"geqrf", "qr"} & set(inside)


def primitives(jaxpr, into_cond=False):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        if equation.primitive.name == "cond" and not into_cond:
            continue
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)):
            if isinstance(parameter, Jaxpr | ClosedJaxpr):
                yield from primitives(getattr(parameter, "jaxpr", parameter), into_cond)
