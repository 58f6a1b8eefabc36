"""What every architecture promises, whatever its equation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt.optimizers import OPTIMIZERS

SHAPES = {"scalar": (), "empty": (0,), "empty_matrix": (0, 3), "vector": (5,), "matrix": (4, 3), "kernel": (2, 2, 3, 5)}


@pytest.fixture(params=OPTIMIZERS, scope="module")
def optimizer(request):
    return OPTIMIZERS[request.param]()


def params_of(dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()}


def built(optimizer):
    return optimizer.build(optimizer.init(jax.random.key(0)), 100)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_dtypes_and_a_stable_state(optimizer, dtype):
    params, tx = params_of(dtype), built(optimizer)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(params, state, params, value=jnp.float32(1.0), unknown="ignored")
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        return (optax.apply_updates(params, updates), state), None

    state = tx.init(params)
    (after, end), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, 3))((params, state))
    chex.assert_trees_all_equal_structs(state, end)
    chex.assert_tree_all_finite(after)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_extreme_gradients_leave_finite_params(optimizer, scale):
    params, tx = params_of(), built(optimizer)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(3):
        grads = jax.tree.map(lambda p: scale * jnp.ones_like(p), params)
        updates, state = update(grads, state, params, value=jnp.float32(1.0))
        params = optax.apply_updates(params, updates)
    chex.assert_tree_all_finite(params)


def test_nan_gradients_show(optimizer):
    """A diverged run must be seen, not papered over."""
    params, tx = params_of(), built(optimizer)
    grads = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
    updates, _ = tx.update(grads, tx.init(params), params, value=jnp.float32(jnp.nan))
    assert np.isnan(np.asarray(updates["vector"])).all()


def test_a_new_theta_or_horizon_does_not_recompile(optimizer):
    params, traces = params_of(), []

    @jax.jit
    def first_step(theta, num_steps):
        traces.append(1)
        tx = optimizer.build(theta, num_steps)
        return tx.update(params, tx.init(params), params, value=jnp.float32(1.0))[0]

    thetas = [optimizer.init(jax.random.key(i)) for i in range(3)]
    thetas[-1] = jax.tree.map(lambda x: x + 0.1, thetas[-1])
    results = [first_step(theta, n) for theta, n in zip(thetas, [10, 20, 30], strict=True)]
    assert len(traces) == 1
    assert not np.allclose(results[0]["matrix"], results[2]["matrix"], rtol=1e-3, atol=0)


def test_vmap_over_thetas_equals_a_loop(optimizer):
    params = params_of()
    thetas = [jax.tree.map(lambda x, i=i: x + 0.1 * i, optimizer.init(jax.random.key(i))) for i in range(3)]

    def first_step(theta):
        tx = optimizer.build(theta, 10)
        return tx.update(params, tx.init(params), params, value=jnp.float32(1.0))[0]

    batched = jax.vmap(first_step)(jax.tree.map(lambda *xs: jnp.stack(xs), *thetas))
    looped = jax.tree.map(lambda *xs: jnp.stack(xs), *map(first_step, thetas))
    # the same sums of at most 40 terms in another order: some tens of float32's 6e-8
    chex.assert_trees_all_close(batched, looped, rtol=1e-4, atol=1e-8)


def test_theta_gets_a_gradient(optimizer):
    """Backpropagation through three steps: finite, and not zero in any leaf that can matter."""
    params = {"matrix": params_of()["matrix"], "vector": params_of()["vector"]}

    @jax.grad
    def meta_gradient(theta):
        tx, p = optimizer.build(theta, 10), params
        state = tx.init(p)
        for _ in range(3):
            updates, state = tx.update(p, state, p, value=jnp.float32(1.0))
            p = optax.apply_updates(p, updates)
        return sum(jnp.sum(x**2) for x in p.values())

    gradient = meta_gradient(optimizer.init(jax.random.key(1)))
    chex.assert_tree_all_finite(gradient)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(gradient))
