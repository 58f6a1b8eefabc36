"""Outer losses against their definitions, written out over whole runs; and what keeps a meta-gradient clean."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from metaopt.estimators import _common as C
from metaopt.estimators import _outer_losses, es, final, full_grad, mean, minimum, pes, tbptt, weighted
from tests.estimators import problems

STEPS, PIECE = 8, 2
RNG = np.random.default_rng(1)
DATA = {split: RNG.standard_normal((8, 3)) for split in ("train", "inner_valid", "outer_valid")}


def definition(problem, loss, theta, run, data, combine):
    """combine(l_0 .. l_T) of a run of T = STEPS steps, as the documentation has it."""
    task, tx = problem.task, problem.optimizer.build(theta, STEPS)

    def once(x, batch_key, loss_key):
        return task.loss(run.cfg, x, task.batch(run.cfg, data, batch_key, loss.split), loss_key)[0]

    def measured(x, t):
        if loss.batches:
            keys = jax.random.split(
                jax.random.fold_in(run.key, np.uint32(2**31) + t.astype(np.uint32)), (2, loss.batches)
            )
            raw = jnp.mean(jax.lax.map(lambda pair: once(x, *pair), tuple(keys)))
        else:
            raw = once(x, jax.random.fold_in(run.key, 2 * t), jax.random.fold_in(run.key, 2 * t + 1))
        if loss.scale == "raw":
            return raw
        value = task.normalize(run.cfg, raw)
        return jnp.log(value) if loss.scale == "log" else value

    def step(carry, t):
        x, velocity = carry
        keys = [jax.random.fold_in(run.key, 2 * t + i) for i in range(2)]
        batch = task.batch(run.cfg, data, keys[0], "train")
        grads = jax.grad(lambda x: task.loss(run.cfg, x, batch, keys[1])[0])(x)
        update, velocity = tx.update(grads, velocity, x)
        return (x + update, velocity), measured(x, t)

    (x, _), losses = jax.lax.scan(step, (run.params, tx.init(run.params)), jnp.arange(STEPS))
    return combine(jnp.append(losses, measured(x, jnp.asarray(STEPS))))


FIRST_HALF = jnp.asarray([2.0, 2, 2, 2, 0, 0, 0, 0])
CASES = {
    "mean": (mean(), lambda x: x[:-1].mean()),
    "mean-raw-recomputed": (mean(scale="raw", batches=2), lambda x: x[:-1].mean()),
    "mean-log-inner_valid": (mean(split="inner_valid", scale="log", batches=1), lambda x: x[:-1].mean()),
    "weighted": (weighted((1.0, 0.0)), lambda x: jnp.mean(FIRST_HALF * x[:-1])),
    "final": (final(), lambda x: x[-1]),
    "final-outer_valid": (final(split="outer_valid", batches=3, scale="raw"), lambda x: x[-1]),
    "minimum": (minimum(), lambda x: x[:-1].min()),
}


SLOW = ("mean", "mean-log-inner_valid", "final")  # what they have the others have, too


@pytest.mark.parametrize("name", [pytest.param(k, marks=[pytest.mark.slow] * (k in SLOW)) for k in CASES])
def test_against_the_definition(name, x64):
    """Value and gradient of a whole run cut into four pieces. Float64, rounding of some hundred operations."""
    loss, combine = CASES[name]
    problem = problems.momentum()
    theta, data = jax.tree.map(jnp.float64, (problem.theta, DATA))
    setup = C.setup(problem.task, problem.optimizer, PIECE, STEPS, loss, whole=True)
    estimator = full_grad(
        problem.task, problem.optimizer, num_tasks=1, truncation=PIECE, horizon=STEPS, outer_loss=loss
    )

    @problems.quick_jit
    def both(key):
        grad, _, metrics = estimator.estimate(theta, estimator.init(theta, key), data, key)
        run = C.fresh(setup, ravel_pytree(theta)[0], 0, jax.random.split(jax.random.split(key)[0], 1)[0])
        return (metrics["meta_loss"], grad), jax.value_and_grad(
            lambda theta: definition(problem, loss, theta, run, data, combine)
        )(theta)

    got, expected = both(jax.random.key(4))
    chex.assert_trees_all_close(got, expected, rtol=1e-10)


def test_weights_have_mean_one_and_the_given_proportions():
    def share_weights(weights, horizon, piece):
        """w_t, as the derivative of the shares by the losses"""
        share = weighted(weights).share
        grads = [jax.grad(share)(jnp.ones(piece), k, horizon, piece) * piece for k in range(0, horizon, piece)]
        return np.concatenate(grads)

    rtol = 1e-5  # differences of cumulative weights in float32: 6e-8 over steps of a hundredth
    np.testing.assert_allclose(share_weights((1.0, 3.0), 8, 2), [0.5] * 4 + [1.5] * 4, rtol=rtol)
    np.testing.assert_allclose(share_weights((0.0, 3.0, 3.0), 4, 2), [0.0, 1.0, 1.5, 1.5], rtol=rtol, atol=1e-6)
    for horizon, piece in ((10, 5), (60, 20), (7, 7)):
        assert share_weights((1.0, 0.0, 5.0), horizon, piece).mean() == pytest.approx(1.0, rel=rtol)


def test_bad_arguments():
    for weights in ((), (0.0, 0.0), (-1.0, 2.0), (float("nan"),)):
        with pytest.raises(ValueError, match=r"^weights: .* must be finite and >= 0, one of them positive"):
            weighted(weights)
    with pytest.raises(ValueError, match=r"^batches: must be 0 or more, got -1"):
        mean(batches=-1)
    with pytest.raises(ValueError, match=r"^batches: must be positive for split=inner_valid, which no step trains on"):
        final(split="inner_valid")
    problem = problems.bowl()
    with pytest.raises(ValueError, match=r"^analytic: .* no clip_diff"):
        pes(problem.task, problem.optimizer, analytic=True, clip_diff=1.0)


def test_log_has_a_floor():
    task = problems.bowl().task
    value, slope = jax.value_and_grad(lambda x: _outer_losses.scaled(task, mean(scale="log"), (), x))(0.0)
    assert value == pytest.approx(np.log(_outer_losses.LOG_FLOOR)) and slope == 0


def test_differences():
    """Clipped, signed; not finite counts as zero."""

    def values(pairs, clip_diff=None, sign_diff=None):
        value, finite = zip(*(C.difference(jnp.asarray(pair), clip_diff, sign_diff) for pair in pairs), strict=True)
        return [float(x) for x in value], [bool(x) for x in finite]

    pairs = [[3.0, 1.0], [1.0, 1.25], [np.inf, 1.0], [np.inf, np.inf], [1.0, np.nan]]
    finite = [True, True, False, False, False]
    assert values(pairs) == ([2.0, -0.25, 0, 0, 0], finite)
    assert values(pairs, clip_diff=0.5) == ([0.5, -0.25, 0, 0, 0], finite)
    assert values(pairs, sign_diff=0.1) == (pytest.approx([0.1, -0.1, 0, 0, 0]), finite)


@pytest.mark.parametrize("make", [es, pes, tbptt])
def test_differences_that_are_not_finite_are_counted(make):
    """A raw loss that overflows for half of the members: their pairs count as zero in the mean over all."""
    problem = problems.bowl()

    def loss(cfg, x, batch, key):
        return jnp.where(cfg, jnp.inf, 1.0) * problem.task.loss((), x, (), None)[0], ()

    def whole(theta, key):
        std = {} if make is tbptt else {"std": 0.1}
        one = make(task, problem.optimizer, num_tasks=8, truncation=4, horizon=4, outer_loss=mean(scale="raw"), **std)
        return one.estimate(theta, one.init(theta, key), None, key)

    task = problem.task._replace(sample=jax.random.bernoulli, loss=loss)
    grad, _, metrics = problems.quick_jit(whole)(problem.theta, jax.random.key(0))
    assert 0 < float(metrics["nonfinite"]) < 8
    chex.assert_tree_all_finite(grad)
    if make is tbptt:  # exact: the mean over the members that are left, over all eight
        left = 1 - float(metrics["nonfinite"]) / 8
        exact = jax.grad(lambda theta: 0.75 * problem.task.loss((), theta, (), None)[0])(problem.theta)
        np.testing.assert_allclose(grad, left * exact, rtol=1e-5)
    assert optax.tree.norm(grad) > 0
