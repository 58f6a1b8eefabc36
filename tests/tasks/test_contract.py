"""What holds for every task family in the registry, with its default arguments."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt.tasks import TASKS
from metaopt.types import Task

MEMBERS = 8
KEYS = jax.random.split(jax.random.key(0), MEMBERS)


def problem(task: Task, data, key):
    """One member of the family with its start and a minibatch: (cfg, params, batch)."""
    cfg_key, init_key, batch_key = jax.random.split(key, 3)
    cfg = task.sample(cfg_key)
    return cfg, task.init(cfg, init_key), task.batch(cfg, data, batch_key, "train")


def value_and_grad(task: Task, cfg, params, batch, key):
    (loss, _), grads = jax.value_and_grad(task.loss, argnums=1, has_aux=True)(cfg, params, batch, key)
    return loss, grads


@functools.cache
def prepared(name):
    """(task, device data, problems and their loss and gradient, leading axis MEMBERS); compiled once a process."""
    task = TASKS[name]()
    data = jax.device_put(task.data())
    problems = jax.jit(lambda data, keys: jax.vmap(lambda k: problem(task, data, k))(keys))(data, KEYS)
    losses = jax.jit(jax.vmap(functools.partial(value_and_grad, task)))(*problems, KEYS)
    return task, data, problems, losses


@pytest.fixture(params=TASKS)
def case(request):
    return prepared(request.param)


def test_factories_have_defaults_and_descriptions():
    for name, factory in TASKS.items():
        parameters = inspect.signature(factory).parameters.values()
        assert all(p.default is not p.empty and p.annotation is not p.empty for p in parameters), name
        assert all(f"    {p.name}: " in factory.__doc__ for p in parameters), name


def test_data_are_host_arrays_with_the_four_splits(case):
    task, _, (cfg, _, _), _ = case
    data = task.data()
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(data))
    if data:
        assert set(data) == {"train", "inner_valid", "outer_valid", "test"}
    cfg = jax.tree.map(lambda a: a[0], cfg)
    batches = {split: jax.eval_shape(lambda k, s=split: task.batch(cfg, data, k, s), KEYS[0]) for split in data}
    assert all(batch == batches["train"] for batch in batches.values())


def test_members_differ(case):
    _, _, (cfg, params, batch), (losses, _) = case
    assert len(np.unique(losses)) == MEMBERS
    for leaf in jax.tree.leaves(batch):
        assert not np.array_equal(leaf[0], leaf[1])


def test_shapes_and_dtypes(case):
    _, _, (_, params, _), (losses, grads) = case
    assert losses.shape == (MEMBERS,) and losses.dtype == jnp.float32
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, grads))} == {jnp.dtype(jnp.float32)}


def test_vmap_equals_a_loop_without_recompiling(case):
    task, data, problems, (losses, grads) = case
    traces = 0

    @jax.jit
    def one(data, key):
        nonlocal traces
        traces += 1
        made = problem(task, data, key)
        return made, value_and_grad(task, *made, key)

    for i in range(3):
        made, (loss, grad) = one(data, KEYS[i])
        row = jax.tree.map(lambda a: a[i], (problems, losses, grads))  # noqa: B023 (used at once)
        # Sums of up to about 1000 float32 terms in another order; QR and random bits are the same algorithm.
        for got, want in zip(jax.tree.leaves((made, loss, grad)), jax.tree.leaves(row), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * (1 + np.abs(want).max()))
    assert traces == 1


def test_gradient_matches_central_differences(case, x64):
    """Double precision: (f(x + h d) - f(x - h d)) / 2h = grad . d to a relative 1e-6 at h = 1e-6 (|d| = 1)."""
    task, _, problems, _ = case
    cfg, params, batch = jax.tree.map(lambda a: a[0], problems)
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    noise = jax.tree.map(lambda a: np.random.default_rng(1).standard_normal(a.shape), params)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(noise)))

    @jax.jit
    def along(h):
        moved = jax.tree.map(lambda p, d: p + h * d / norm, params, noise)
        return task.loss(cfg, moved, batch, KEYS[0])[0]

    slope, value = jax.jit(jax.grad(along))(0.0), along(0.0)
    numeric = (along(1e-6) - along(-1e-6)) / 2e-6
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(slope, numeric, rtol=1e-5, atol=1e-8 * float(value))


def test_second_derivatives_are_finite(case):
    task, _, problems, _ = case
    cfg, params, batch = jax.tree.map(lambda a: a[0], problems)
    grad = jax.grad(lambda p: task.loss(cfg, p, batch, KEYS[0])[0])
    product = jax.jit(lambda p: jax.grad(lambda q: optax.tree.vdot(grad(q), grad(q)))(p))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(product))
    assert optax.tree.norm(product) > 0


def test_bfloat16_parameters(case):
    """bfloat16 keeps 8 bits: a loss from it is good to a few times 2^-8, here within 5 % of the float32 one."""
    task, _, problems, (losses, _) = case
    cfg, params, batch = problems
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    got, grads = jax.jit(jax.vmap(functools.partial(value_and_grad, task)))(cfg, low, batch, KEYS)
    assert got.dtype == jnp.float32 and {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(got, losses, rtol=0.05, atol=0.05 * float(losses.mean()))


def test_normalize_is_finite_bounded_and_increasing(case):
    task, _, (cfg, _, _), _ = case
    cfg = jax.tree.map(lambda a: a[0], cfg)
    normalize = jax.jit(functools.partial(task.normalize, cfg))
    good = [float(normalize(jnp.float32(loss))) for loss in (0.0, 1e-6, 1e-3, 0.5, 1.0)]
    assert good[0] == 0.0 and all(a < b for a, b in zip(good, good[1:], strict=False))
    worst = float(normalize(jnp.float32(1e30)))
    for bad in (jnp.inf, -jnp.inf, jnp.nan, 3e38):
        assert float(normalize(jnp.float32(bad))) == worst == 10.0


def test_a_fresh_model_is_near_one(case):
    """On average over members; an autoencoder starts near 2 by its definition, single Rosenbrock starts vary widely."""
    task, _, (cfg, _, _), (losses, _) = case
    fresh = jax.jit(jax.vmap(task.normalize))(cfg, losses).mean()
    assert 0.4 < fresh < 2.5


def test_adam_makes_the_loss_fall(case):
    task, data, (cfg, params, _), _ = case
    tx = optax.adam(0.02)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0, 0))
    def final(data, cfg, params, key):
        def step(carry, key):
            params, state = carry
            batch = task.batch(cfg, data, key, "train")
            loss, grads = value_and_grad(task, cfg, params, batch, key)
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(params, updates), state), task.normalize(cfg, loss)

        return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(key, 200))[1]

    curves = final(data, cfg, params, KEYS)
    assert curves[:, -20:].mean() < 0.5 * curves[:, :5].mean()
