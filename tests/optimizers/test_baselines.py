"""hyper as the face of all baselines: on schedules, with the loss as a function, on small problems."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt import unroll
from metaopt.optimizers import OPTIMIZERS, make
from metaopt.optimizers._newton import newton
from metaopt.tasks.image_mlp import image_mlp
from tests.estimators.problems import make_task, quick_jit

H = np.diag([1.0, 3.0, 10.0]) + 0.3
START, CENTRE = jnp.array([3.0, -1.0, 2.0]), jnp.array([0.5, 1.0, 0.0])
BOWL = make_task(lambda: START, lambda x: 0.5 * (x - CENTRE) @ jnp.asarray(H, jnp.float32) @ (x - CENTRE))
WINE = image_mlp("wine", hidden=(4,))
slow = pytest.mark.slow
BASES = {  # base -> (learnable, schedule)
    "sgd": ({"learning_rate": 0.15}, {"name": "step_drop", "factor": 0.5}),
    "momentum": ({"learning_rate": 0.03}, "linear"),
    "nesterov": ({"learning_rate": 0.03}, "inverse_time"),
    "rmsprop": ({"learning_rate": 0.1}, "cosine"),
    "adam": ({"learning_rate": 0.3}, {"name": "cosine", "dips": 2}),
    "adamw": ({"learning_rate": 0.3}, "plateau"),
    "nadamw": ({"learning_rate": 0.3}, "exponential"),
    "lion": ({"learning_rate": 0.1}, "warm_restarts"),
    "muon": ({"learning_rate": 0.1}, {"name": "power", "exponent": 0.5}),
    "schedule_free_adamw": ({"learning_rate": 0.3}, "constant"),
    "prodigy": (None, "cosine"),
    "lbfgs": (None, "constant"),
    "newton": (None, "constant"),
}
QUICK = ("momentum", "adamw", "lbfgs", "newton")


def losses(task, optimizer, theta, steps, data=()):
    def run(theta, seed):
        inner = unroll.start(task, optimizer, theta, steps, jax.random.key(seed))
        return unroll.unroll(task, optimizer, theta, inner, data, steps)[1]

    return np.asarray(quick_jit(jax.vmap(run, (None, 0)))(theta, jnp.arange(2)))


def test_every_baseline_is_tried():
    assert set(QUICK) < set(BASES)


@pytest.mark.parametrize("base", [base if base in QUICK else pytest.param(base, marks=slow) for base in BASES])
@pytest.mark.parametrize("task", [BOWL, pytest.param(WINE, marks=slow)], ids=["bowl", "wine"])
def test_trains(base, task):
    """Far below where it starts, in 200 steps under vmap."""
    learnable, schedule = BASES[base]
    optimizer = OPTIMIZERS["hyper"](base, learnable, schedule=schedule, warmup=0.02)
    curves = losses(task, optimizer, optimizer.init(jax.random.key(0)), 200, task.data())
    assert np.isfinite(curves).all()
    assert (curves[:, -10:].mean(1) < 0.1 * curves[:, 0]).all(), curves[:, ::20]


def test_the_schedule_of_an_entry_over_a_traced_horizon():
    """SGD at a gradient of one moves by its rate: a warm-up of round(0.26 · 10) steps, then the drops."""
    entry = {"name": "hyper", "base": "sgd", "learnable": {"learning_rate": 0.5}, "warmup": 0.26}
    optimizer = make({**entry, "schedule": {"name": "step_drop", "factor": 0.1, "every": 0.5}})

    def rates(theta, num_steps):
        tx = optimizer.build(theta, num_steps)

        def step(state, _):
            updates, state = tx.update(jnp.ones(()), state, jnp.ones(()), value=1.0)
            return state, -updates

        return jax.lax.scan(step, tx.init(jnp.ones(())), None, 10)[1]

    got = quick_jit(rates)(optimizer.init(jax.random.key(0)), 10)
    drops = 0.1 ** (np.arange(7) // 4)  # of the seven steps that are left, half, rounded to even
    np.testing.assert_allclose(got, 0.5 * np.concatenate([[1 / 4, 2 / 4, 3 / 4], drops]), rtol=1e-5)


def test_lbfgs_is_optax():
    """Through the inner loop: the gradient and the loss as a function arrive. Line search and all, as in optax."""
    optimizer = OPTIMIZERS["hyper"]("lbfgs")
    theta = optimizer.init(jax.random.key(0))
    assert values(theta) == {"learning_rate": 1.0}
    got = losses(BOWL, optimizer, theta, 6)[0]

    def theirs():
        tx, fn = optax.lbfgs(), lambda x: BOWL.loss((), x, (), None)[0]

        def step(carry, _):
            x, state = carry
            loss, grad = jax.value_and_grad(fn)(x)
            updates, state = tx.update(grad, state, x, value=loss, grad=grad, value_fn=fn)
            return (optax.apply_updates(x, updates), state), loss

        return jax.lax.scan(step, (START, tx.init(START)), None, 6)[1]

    np.testing.assert_allclose(got, quick_jit(theirs)(), rtol=1e-4, atol=1e-6)


def values(theta):
    return {name: float(np.exp(u)) for name, u in theta.items()}


def test_newton_needs_one_step_for_a_quadratic():
    optimizer = OPTIMIZERS["hyper"]("newton", {"learning_rate": 1.0, "damping": 1e-6})
    got = losses(BOWL, optimizer, optimizer.init(jax.random.key(0)), 2)
    assert got[0, 0] > 10 and got[0, 1] < 1e-9


def test_newton_against_numpy():
    """At a saddle: the magnitudes of the eigenvalues, so that the loss falls along the one that is negative."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 4)), rng.standard_normal(4)
    h, x = a + a.T, rng.standard_normal(4)
    assert (np.linalg.eigvalsh(h) < 0).any()
    fn = lambda p: 0.5 * p["x"] @ jnp.asarray(h, jnp.float32) @ p["x"] + jnp.asarray(b, jnp.float32) @ p["x"]  # noqa: E731
    params = {"x": jnp.asarray(x, jnp.float32)}

    def step(rate, damping):
        tx = newton(rate, damping)
        return tx.update(jax.grad(fn)(params), tx.init(params), params, value_fn=fn)[0]["x"]

    size, v = np.linalg.eigh(h)
    expected = -0.5 * v @ (v.T @ (h @ x + b) / (np.abs(size) + 0.1))
    np.testing.assert_allclose(quick_jit(step)(0.5, 0.1), expected, rtol=1e-4, atol=1e-5)
    slope = quick_jit(jax.jacobian(step, argnums=1))(0.5, 0.1)  # -(|L| + damping)^-2 times the gradient
    np.testing.assert_allclose(slope, 0.5 * v @ (v.T @ (h @ x + b) / (np.abs(size) + 0.1) ** 2), rtol=1e-3, atol=1e-4)


def test_newton_is_for_small_problems():
    with pytest.raises(ValueError, match="at most 2,000 parameters, not 2,010"):
        newton().init({"w": jnp.zeros((200, 10)), "b": jnp.zeros(10)})
    with pytest.raises(ValueError, match="give it to update, as value_fn"):
        newton().update(jnp.zeros(2), newton().init(jnp.zeros(2)), jnp.zeros(2))


def test_loss_as_a_function_of_params_with_empty_leaves_in_low_precision():
    optimizer = OPTIMIZERS["hyper"]("newton", {"learning_rate": 1.0, "damping": 1e-6})
    params = {"empty": jnp.zeros((0, 2), jnp.bfloat16), "x": START.astype(jnp.bfloat16)}

    def fn(p):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), p) == jax.tree.map(lambda x: (x.shape, x.dtype), params)
        return jnp.sum(p["x"].astype(jnp.float32) ** 2)

    def step():
        tx = optimizer.build(optimizer.init(jax.random.key(0)), 1)
        return tx.update(jax.grad(fn)(params), tx.init(params), params, value_fn=fn, value=fn(params))[0]

    updates = quick_jit(step)()
    assert updates["empty"].shape == (0, 2)
    np.testing.assert_allclose(updates["x"].astype(np.float32), -START, rtol=2**-7)


def test_plateau_wants_the_loss():
    optimizer = OPTIMIZERS["hyper"]("sgd", schedule="plateau")
    tx, params = optimizer.build(optimizer.init(jax.random.key(0)), 10), jnp.ones(2)
    with pytest.raises(ValueError, match="plateau uses the loss: give it to update, as value"):
        tx.update(params, tx.init(params), params)
