"""What holds for every task family in the registry.

Nearly all the time goes into compiling. So there are three programs a family, at XLA's lowest effort: a look at one
member, called in a loop; a whole run of several members, by vmap; and derivatives in double precision.
"""

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt import tree
from metaopt.tasks import TASKS
from metaopt.types import Task
from tests.tasks.cases import FAMILIES, fast_jit, tiny, value_and_grad

MEMBERS = 3
STEPS = 50
LEARNING_RATE = 0.02
KEYS = jax.random.split(jax.random.key(0), MEMBERS)
FRACTIONS = np.array([0.0, 1e-6, 1e-3, 0.5, 1.0], np.float32)  # of a fresh loss
BAD = np.array([np.inf, -np.inf, np.nan, 3e38], np.float32)


def run(task: Task, data, key):
    """Adam: (cfg, initial params, first loss, first gradient, normalised losses [STEPS])."""
    cfg, params, keys = started(task, key)
    tx = optax.adam(LEARNING_RATE)

    def step(carry, key):
        params, state, t, first = carry
        loss, grads = value_and_grad(task, cfg, params, task.batch(cfg, data, key, "train"), key)
        updates, state = tx.update(grads, state)
        carry = optax.apply_updates(params, updates), state, t + 1, tree.where(t == 0, grads, first)
        return carry, (loss, task.normalize(cfg, loss))

    start = params, tx.init(params), 0, params
    (*_, first), (losses, curve) = jax.lax.scan(step, start, keys)
    return cfg, params, losses[0], first, curve


def started(task: Task, key):
    """(cfg, params, the keys of STEPS minibatches) of a member."""
    cfg_key, init_key, run_key = jax.random.split(key, 3)
    cfg = task.sample(cfg_key)
    return cfg, task.init(cfg, init_key), jax.random.split(run_key, STEPS)


class Findings(NamedTuple):
    """Of one member at its start; [MEMBERS, ...] of several."""

    cfg: dict
    params: dict
    batch: dict
    loss: jax.Array
    grads: dict
    normalized: jax.Array  # of FRACTIONS of the loss
    normalized_bad: jax.Array  # of BAD
    bfloat16: jax.Array  # loss of params in bfloat16


def examine(task: Task, data, key) -> Findings:
    cfg, params, (key, *_) = started(task, key)
    batch = task.batch(cfg, data, key, "train")
    loss, grads = value_and_grad(task, cfg, params, batch, key)
    return Findings(
        *(cfg, params, batch, loss, grads),
        jax.vmap(lambda fraction: task.normalize(cfg, fraction * loss))(FRACTIONS),
        jax.vmap(lambda bad: task.normalize(cfg, bad))(BAD),
        task.loss(cfg, optax.tree.cast(params, jnp.bfloat16), batch, key)[0],
    )


class Case(NamedTuple):
    task: Task
    found: Findings  # by a loop over members
    traces: int  # that it took
    runs: tuple  # what `run` gives, by vmap


@pytest.fixture(scope="module", params=FAMILIES)
def case(request) -> Case:
    """Of the whole module, so that the tests of a family come one after another and one worker does them all."""
    task, traces = tiny(request.param), 0
    data = jax.device_put(task.data())

    @fast_jit
    def one(data, key):
        nonlocal traces
        traces += 1
        return examine(task, data, key)

    found = [jax.tree.map(np.asarray, one(data, key)) for key in KEYS]
    runs = fast_jit(lambda data, keys: jax.vmap(lambda key: run(task, data, key))(keys))(data, KEYS)
    return Case(task, jax.tree.map(lambda *rows: np.stack(rows), *found), traces, jax.tree.map(np.asarray, runs))


def test_factories_have_defaults_and_descriptions():
    for name, factory in TASKS.items():
        parameters = inspect.signature(factory).parameters.values()
        assert all(p.default is not p.empty and p.annotation is not p.empty for p in parameters), name
        doc = getattr(factory, "func", factory).__doc__
        assert all(f"    {p.name}: " in doc for p in parameters), name


def test_data_are_host_arrays_with_the_four_splits(case):
    data = case.task.data()
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(data))
    if data:
        assert set(data) == {"train", "inner_valid", "outer_valid", "test"}
    cfg = jax.tree.map(lambda a: a[0], case.found.cfg)
    batches = {split: jax.eval_shape(lambda k, s=split: case.task.batch(cfg, data, k, s), KEYS[0]) for split in data}
    assert all(batch == batches["train"] for batch in batches.values())


def test_members_differ(case):
    assert len(np.unique(case.found.loss)) == MEMBERS
    for leaf in jax.tree.leaves(case.found.batch):
        assert not np.array_equal(leaf[0], leaf[1])


def test_shapes_and_dtypes(case):
    found = case.found
    assert found.loss.shape == (MEMBERS,) and found.loss.dtype == jnp.float32
    assert jax.tree.map(jnp.shape, found.grads) == jax.tree.map(jnp.shape, found.params)
    assert {leaf.dtype for leaf in jax.tree.leaves((found.params, found.grads))} == {jnp.dtype(jnp.float32)}


def test_vmap_equals_a_loop_without_recompiling(case):
    """Sums of up to about 1000 float32 terms in another order; QR and random bits are the same algorithm."""
    assert case.traces == 1
    looped = case.found.cfg, case.found.params, case.found.loss, case.found.grads
    for got, want in zip(jax.tree.leaves(case.runs[:4]), jax.tree.leaves(looped), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * (1 + np.abs(want).max()))


def test_derivatives_match_central_differences(case, x64):
    """Double precision: (f(x + h d) - f(x - h d)) / 2h = grad . d to a relative 1e-6 at h = 1e-6 (|d| = 1).

    So for the slope of the gradient: grad(f) . d after a step h, which makes second derivatives right and finite. At
    0.1 d from the start: there, ReLUs of zero inputs and zero biases are just at their kink.
    """
    cfg, params, batch = jax.tree.map(lambda a: a[0], case.found[:3])
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    noise = jax.tree.map(lambda a: np.random.default_rng(1).standard_normal(a.shape), params)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(noise)))
    direction = jax.tree.map(lambda d: d / norm, noise)

    def slope(params):
        loss, grads = value_and_grad(case.task, cfg, params, batch, KEYS[0])
        return optax.tree.vdot(grads, direction), loss

    @fast_jit
    @jax.vmap
    def measured(h):
        moved = jax.tree.map(lambda p, d: p + h * d, params, direction)
        return jax.jvp(slope, (moved,), (direction,), has_aux=True)

    slopes, curvatures, values = measured(0.1 + np.array([-1e-6, 0.0, 1e-6]))
    assert values.dtype == jnp.float64
    np.testing.assert_allclose(slopes[1], (values[2] - values[0]) / 2e-6, rtol=1e-5, atol=1e-8 * abs(values[1]))
    scale = abs(slopes[1]) + abs(values[1])
    np.testing.assert_allclose(curvatures[1], (slopes[2] - slopes[0]) / 2e-6, rtol=1e-4, atol=1e-7 * scale)


def test_bfloat16_parameters(case):
    """bfloat16 keeps 8 bits: a loss from it is good to a few times 2^-8, here within 5 % of the float32 one."""
    cfg, params, batch = jax.tree.map(lambda a: a[0], case.found[:3])
    low = optax.tree.cast(params, jnp.bfloat16)
    _, grads = jax.eval_shape(lambda p: value_and_grad(case.task, cfg, p, batch, KEYS[0]), low)
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(jnp.bfloat16)}
    got, want = case.found.bfloat16, case.found.loss
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=0.05, atol=0.05 * float(np.abs(want).mean()))


def test_normalize_is_finite_bounded_and_increasing(case):
    for good, bad in zip(case.found.normalized, case.found.normalized_bad, strict=True):
        assert good[0] == 0.0 and all(a < b for a, b in zip(good, good[1:], strict=False))
        assert (bad == 10.0).all()


def test_a_fresh_model_is_near_one(case):
    """On average over members; those of a closed form have their exact mean tested elsewhere."""
    assert 0.4 < case.found.normalized[:, -1].mean() < 2


def test_adam_makes_the_loss_fall(case):
    curve = case.runs[-1]
    assert curve[:, -10:].mean() < 0.9 * curve[:, :5].mean()
