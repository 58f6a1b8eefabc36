"""What holds for every task family in the registry.

Most of the time goes into compiling. So all that can be computed for several members at once is one program, what is
looked at for one member at a time is another, and double precision a third; XLA compiles them at its lowest effort.
"""

import functools
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt.tasks import TASKS
from metaopt.types import Task
from tests.tasks.cases import FAMILIES, fast_jit, problem, tiny, value_and_grad

MEMBERS = 4
STEPS = 50
LEARNING_RATE = 0.02
KEYS = jax.random.split(jax.random.key(0), MEMBERS)
FRACTIONS = np.array([0.0, 1e-6, 1e-3, 0.5, 1.0], np.float32)  # of a fresh loss
BAD = np.array([np.inf, -np.inf, np.nan, 3e38], np.float32)


def adam_curve(task: Task, data, cfg, params, key):
    """Normalised losses [STEPS] of Adam."""
    tx = optax.adam(LEARNING_RATE)

    def step(carry, key):
        params, state = carry
        loss, grads = value_and_grad(task, cfg, params, task.batch(cfg, data, key, "train"), key)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), task.normalize(cfg, loss)

    return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(key, STEPS))[1]


class Findings(NamedTuple):
    """Of one member; [MEMBERS, ...] of several."""

    problem: tuple  # (cfg, params, batch)
    loss: jax.Array
    grads: dict
    normalized: jax.Array  # of FRACTIONS of the loss
    normalized_bad: jax.Array  # of BAD
    bfloat16: tuple  # (loss, grads) of params in bfloat16
    curve: jax.Array


def examine(task: Task, data, key) -> Findings:
    cfg, params, batch = problem(task, data, key)
    loss, grads = value_and_grad(task, cfg, params, batch, key)
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    return Findings(
        (cfg, params, batch),
        loss,
        grads,
        jax.vmap(lambda fraction: task.normalize(cfg, fraction * loss))(FRACTIONS),
        jax.vmap(lambda bad: task.normalize(cfg, bad))(BAD),
        value_and_grad(task, cfg, low, batch, key),
        adam_curve(task, data, cfg, params, key),
    )


@functools.cache
def examined(name):
    """(task, device data, findings), computed once a process."""
    task = tiny(name)
    data = jax.device_put(task.data())
    findings = fast_jit(lambda data, keys: jax.vmap(lambda key: examine(task, data, key))(keys))(data, KEYS)
    return task, data, jax.tree.map(np.asarray, findings)


@pytest.fixture(params=FAMILIES)
def case(request):
    return examined(request.param)


def test_factories_have_defaults_and_descriptions():
    for name, factory in TASKS.items():
        parameters = inspect.signature(factory).parameters.values()
        assert all(p.default is not p.empty and p.annotation is not p.empty for p in parameters), name
        doc = getattr(factory, "func", factory).__doc__
        assert all(f"    {p.name}: " in doc for p in parameters), name


def test_data_are_host_arrays_with_the_four_splits(case):
    task, _, findings = case
    data = task.data()
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(data))
    if data:
        assert set(data) == {"train", "inner_valid", "outer_valid", "test"}
    cfg = jax.tree.map(lambda a: a[0], findings.problem[0])
    batches = {split: jax.eval_shape(lambda k, s=split: task.batch(cfg, data, k, s), KEYS[0]) for split in data}
    assert all(batch == batches["train"] for batch in batches.values())


def test_members_differ(case):
    _, _, findings = case
    assert len(np.unique(findings.loss)) == MEMBERS
    for leaf in jax.tree.leaves(findings.problem[2]):
        assert not np.array_equal(leaf[0], leaf[1])


def test_shapes_and_dtypes(case):
    _, _, findings = case
    params = findings.problem[1]
    assert findings.loss.shape == (MEMBERS,) and findings.loss.dtype == jnp.float32
    assert jax.tree.map(jnp.shape, findings.grads) == jax.tree.map(jnp.shape, params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, findings.grads))} == {jnp.dtype(jnp.float32)}


def test_vmap_equals_a_loop_without_recompiling(case):
    task, data, findings = case
    traces = 0

    @fast_jit
    def one(data, key):
        nonlocal traces
        traces += 1
        cfg, params, batch = problem(task, data, key)
        return (cfg, params, batch), *value_and_grad(task, cfg, params, batch, key)

    for i in range(3):
        row = jax.tree.map(lambda a, i=i: a[i], (findings.problem, findings.loss, findings.grads))
        # Sums of up to about 1000 float32 terms in another order; QR and random bits are the same algorithm.
        for got, want in zip(jax.tree.leaves(one(data, KEYS[i])), jax.tree.leaves(row), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * (1 + np.abs(want).max()))
    assert traces == 1


def test_derivatives_match_central_differences(case, x64):
    """Double precision: (f(x + h d) - f(x - h d)) / 2h = grad . d to a relative 1e-6 at h = 1e-6 (|d| = 1).

    So for the slope of the gradient: grad(f) . d after a step h, which makes second derivatives right and finite. At
    0.1 d from the start: there, ReLUs of zero inputs and zero biases are just at their kink.
    """
    task, _, findings = case
    cfg, params, batch = jax.tree.map(lambda a: a[0], findings.problem)
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    noise = jax.tree.map(lambda a: np.random.default_rng(1).standard_normal(a.shape), params)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(noise)))
    direction = jax.tree.map(lambda d: d / norm, noise)

    def slope(params):
        return optax.tree.vdot(jax.grad(lambda p: task.loss(cfg, p, batch, KEYS[0])[0])(params), direction)

    @fast_jit
    def measured(h):
        moved = jax.vmap(lambda h: jax.tree.map(lambda p, d: p + h * d, params, direction))(h)
        values = jax.vmap(lambda p: task.loss(cfg, p, batch, KEYS[0])[0])(moved)
        return values, *jax.vmap(lambda p: jax.jvp(slope, (p,), (direction,)))(moved)

    values, slopes, curvatures = measured(0.1 + np.array([-1e-6, 0.0, 1e-6]))
    assert values.dtype == jnp.float64
    np.testing.assert_allclose(slopes[1], (values[2] - values[0]) / 2e-6, rtol=1e-5, atol=1e-8 * abs(values[1]))
    scale = abs(slopes[1]) + abs(values[1])
    np.testing.assert_allclose(curvatures[1], (slopes[2] - slopes[0]) / 2e-6, rtol=1e-4, atol=1e-7 * scale)


def test_bfloat16_parameters(case):
    """bfloat16 keeps 8 bits: a loss from it is good to a few times 2^-8, here within 5 % of the float32 one."""
    _, _, findings = case
    loss, grads = findings.bfloat16
    assert loss.dtype == jnp.float32 and {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(loss, findings.loss, rtol=0.05, atol=0.05 * float(np.abs(findings.loss).mean()))


def test_normalize_is_finite_bounded_and_increasing(case):
    _, _, findings = case
    for good, bad in zip(findings.normalized, findings.normalized_bad, strict=True):
        assert good[0] == 0.0 and all(a < b for a, b in zip(good, good[1:], strict=False))
        assert (bad == 10.0).all()


def test_a_fresh_model_is_near_one(case):
    """On average over members; those of a closed form have their exact mean tested elsewhere."""
    _, _, findings = case
    assert 0.4 < findings.normalized[:, -1].mean() < 2.5


def test_adam_makes_the_loss_fall(case):
    _, _, findings = case
    assert findings.curve[:, -10:].mean() < 0.8 * findings.curve[:, :5].mean()
