"""The inner loop: gradients that reach the optimizer late, steps that are computed again. All tests see the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt import measure
from metaopt.estimators.tbptt import tbptt
from metaopt.evaluate import curves
from metaopt.optimizers.anchored import anchored
from metaopt.tasks.augment import delayed_gradients
from metaopt.tasks.matrix_factorization import matrix_factorization
from metaopt.tasks.quadratic import quadratic
from metaopt.types import LearnedOptimizer
from metaopt.unroll import start, unroll
from tests.estimators.problems import quick_jit

KEY = jax.random.key(5)
RATE = 0.02


def descent(theta, num_steps):
    """Theta is the log of the rate. Even steps take the gradient from one argument, odd ones from the other."""

    def update(grads, t, params, *, grad, **extra):
        return jax.tree.map(lambda a, b: -jnp.exp(theta) * jnp.where(t % 2, a, b), grads, grad), t + 1

    return optax.GradientTransformationExtraArgs(lambda params: jnp.int32(0), update)


SGD = LearnedOptimizer(lambda key: jnp.log(RATE), descent)


@pytest.mark.parametrize("delay", [1, 3])
@pytest.mark.parametrize("pieces", [1, 2])
def test_late_gradients_are_those_of_earlier_params(delay, pieces):
    """SGD on ||W x - y||^2 written out, in one unroll of ten steps and in two of five; losses are of their own step."""
    task, steps = delayed_gradients(quadratic(4), delay), 10

    @quick_jit
    def run(key):
        first = inner = start(task, SGD, SGD.init(key), steps, key)
        losses = []
        for _ in range(pieces):
            inner, some = unroll(task, SGD, SGD.init(key), inner, {}, steps // pieces)
            losses.append(some)
        return first, inner, jnp.concatenate(losses)

    first, inner, got = run(KEY)
    w, y, x = (np.float64(leaf) for leaf in (first.cfg["w"], first.cfg["y"], first.params["x"]))
    grads, want = [], []
    for t in range(steps):
        want.append(np.sum((w @ x - y) ** 2))
        grads.append(2 * w.T @ (w @ x - y))
        x = x - RATE * grads[max(t - delay, 0)]
    np.testing.assert_allclose(got, want, rtol=1e-5)  # float32, ten steps of sums of four
    np.testing.assert_allclose(inner.params["x"], x, rtol=1e-5, atol=1e-6)


def test_curves_and_measurements_are_of_late_gradients():
    """A delay of one step shows in the second step, and so in the third loss."""
    base, late = quadratic(3), delayed_gradients(quadratic(3), 1)
    thetas = np.log(np.float32([RATE]))
    plain, delayed = (curves.run_curves(task, SGD, thetas, {}, steps=3, seeds=2)[0] for task in (base, late))
    np.testing.assert_allclose(plain[:, :2], delayed[:, :2], rtol=1e-6)
    assert (np.abs(plain[:, 2] / delayed[:, 2] - 1) > 1e-3).all()
    assert np.isfinite(measure.measure(late).loss).all()


def test_meta_gradients_pass_through_late_gradients():
    """By TBPTT, of the mean loss over a run, against a central difference of it."""
    task, steps = delayed_gradients(quadratic(3), 2), 8
    estimator = tbptt(task, SGD, num_tasks=1, truncation=steps, horizon=steps)
    theta = SGD.init(KEY)
    state = estimator.init(theta, KEY)
    grad, _, metrics = quick_jit(estimator.estimate)(theta, state, {}, KEY)
    inner = jax.tree.map(lambda x: x[0], state.runs)

    @quick_jit
    @jax.vmap
    def loss(theta):
        return task.normalize(inner.cfg, unroll(task, SGD, theta, inner, {}, steps)[1]).mean()

    low, middle, high = loss(theta + np.float32([-0.01, 0, 0.01]))
    np.testing.assert_allclose(metrics["meta_loss"], middle, rtol=1e-5)
    np.testing.assert_allclose(grad, (high - low) / 0.02, rtol=1e-3)


def test_steps_computed_again_have_the_same_derivative_also_where_not_all_can_be_differentiated():
    """Bases by QR, which has no derivative in reverse: they are constants to whoever differentiates."""
    task, optimizer = matrix_factorization(rows=3, columns=4, rank=2, batch_size=8), anchored()
    theta = optimizer.init(jax.random.key(0))

    def loss(theta, remat):
        inner = start(task, optimizer, theta, 12, jax.random.key(1))
        return unroll(task, optimizer, theta, inner, task.data(), 12, remat=remat)[1].mean()

    plain, again = (jax.grad(loss)(theta, remat) for remat in (False, True))
    assert any(np.any(x) for x in jax.tree.leaves(plain))
    for x, y in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        # the same numbers, but for what XLA merges: some thousand roundings of 6e-8 along the way
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * np.abs(x).max())
