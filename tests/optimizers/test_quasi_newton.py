"""Quasi-Newton steps where there is no noise: their equation in numpy, when the gate opens, what happens behind it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import rosen

from metaopt.optimizers.quasi_newton import Pairs, Track, _follow, _paired, _recursion, quasi_newton
from metaopt.types import LearnedOptimizer
from tests.estimators.problems import quick_jit

ALWAYS = 2.0  # a share of noise that opens the gate from the first step on


def descent(rate=1e-3) -> LearnedOptimizer:
    """p <- p - theta g"""

    def build(theta, num_steps):
        def update(grads, state, params=None, **extra):
            return jax.tree.map(lambda g: -theta * g, grads), state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    return LearnedOptimizer(lambda key: jnp.float32(rate), build)


def program(loss, steps, rate=1e-3, transform=None, **arguments):
    """Compiled: (params, keys [steps]) -> (params, losses [steps], updates of every step, those of the base alone, the
    tracks). `loss(params, key)`; a state is lifted to float64 under x64, as it is float32 by contract."""
    base, optimizer = descent(rate), quasi_newton(descent(rate), **arguments)

    def run(params, keys):
        tx, plain = optimizer.build(jnp.asarray(rate), steps), base.build(jnp.asarray(rate), steps)
        first = tx.init(params)
        if jax.config.jax_enable_x64:
            first = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(float), first)

        def step(carry, key):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, key)
            grads = grads if transform is None else transform(grads)
            updates, state = tx.update(grads, state, params, value=value)
            alone, _ = plain.update(grads, (), params)
            return (optax.apply_updates(params, updates), state), (value, updates, alone, state.track)

        (params, _), found = jax.lax.scan(step, (params, first), keys)
        return params, *found

    return quick_jit(run)


def keys(steps, seed=0):
    return jax.random.split(jax.random.key(seed), steps)


def inverse_hessian(pairs):
    """BFGS's update of a dense matrix from s·y/y·y of the newest pair; the oldest first."""
    s, y = pairs[-1]
    h = (s @ y / (y @ y)) * np.eye(s.size)
    for s, y in pairs:
        left = np.eye(s.size) - np.outer(s, y) / (s @ y)
        h = left @ h @ left.T + np.outer(s, s) / (s @ y)
    return h


@pytest.mark.parametrize("count", [1, 3, 5])
def test_direction(count, x64):
    """Any lengths of steps, and fewer pairs than there is room for."""
    rng = np.random.default_rng(count)
    root = rng.standard_normal((8, 8))
    steps = rng.standard_normal((count, 8)) * 10.0 ** rng.uniform(-6, 3, (count, 1))
    known = [(s, root @ root.T @ s) for s in steps]
    pairs = Pairs(jnp.zeros((5, 8)), jnp.zeros((5, 8)), jnp.zeros(5), jnp.zeros(5))
    for s, y in known:
        pairs = _paired(pairs, jnp.asarray(s), jnp.asarray(y), jnp.array(True))
    g = rng.standard_normal(8)
    np.testing.assert_allclose(_recursion(jnp.asarray(g), pairs), inverse_hessian(known) @ g, rtol=1e-9)


@pytest.mark.parametrize(
    ("s", "y"), [(1e-36, 1e3), (1e20, 1e-30), (1.0, -1.0), (0.0, 1.0), (1.0, np.inf), (np.nan, 1.0)]
)
def test_what_is_no_pair(s, y):
    """Lengths whose ratio float32 does not hold, no curvature, or none that can be used."""
    before = Pairs(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones(2), jnp.ones(2))
    direction = jnp.float32([1, 2, -1])
    chex.assert_trees_all_equal(_paired(before, s * direction, y * direction, jnp.array(True)), before)
    chex.assert_trees_all_equal(_paired(before, direction, direction, jnp.array(False)), before)


def equation(f, gradient, p, steps, rate, memory, noise, trust):
    """The docstring in numpy. -> p after each step, and what happened in it"""
    n, found, events = p.size, [], []
    b, f_b, g_b, pairs, level, r, highest, taken = None, None, None, [], 1.0, trust, f(p), False
    for _ in range(steps):
        value, g, opened, back = f(p), gradient(p), False, False
        if b is not None:
            s, y = p - b, g - g_b
            fall, told = value - f_b, (g + g_b) @ s / 2
            highest = max(highest, value)
            rounding = 4e-7 * (value + f_b) + 6e-8 * np.sqrt(max(value, f_b) * highest)
            error = max(abs(fall - told) - rounding, 0)
            level = 0.8 * level + 0.2 * min(error / (abs(fall) + abs(told)), 1)
            opened = level < noise
            if s @ y > 1e-4 * np.linalg.norm(s) * np.linalg.norm(y):
                pairs = [*pairs, (s, y)][-memory:]
            back = taken and not value <= f_b + rounding
            if back:
                size = max(np.linalg.norm(b), np.sqrt(n) / 100)
                r = min(np.linalg.norm(s) / size, r) / 4
            elif taken:
                r = min(2 * r, trust)
        if not back:
            b, f_b, g_b = p, value, g
        p = p - rate * g
        taken = (opened or back) and bool(pairs)
        if taken:
            step = inverse_hessian(pairs) @ g_b
            p = b - min(1, r * max(np.linalg.norm(b), np.sqrt(n) / 100) / np.linalg.norm(step)) * step
        found.append(p)
        events.append("back" if back else "open" if opened else "closed")
    return np.array(found), events


@pytest.mark.parametrize(
    "arguments", [{"memory": 4, "noise": 0.1, "trust": 0.3}, {"memory": 2, "noise": 0.2, "trust": 1.0}]
)
def test_equation(arguments, x64):
    """On Rosenbrock's function of five numbers in two tensors, in float64, until rounding has grown too much: steps of
    each kind are among them."""
    steps, rate, start = 60, 2e-3, np.random.default_rng(0).uniform(-1, 1, 5)

    def loss(params, key):
        x = jnp.concatenate([params["a"].ravel(), params["b"]])
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    def params(x):
        return {"a": jnp.reshape(x[:4], (2, 2)), "b": jnp.asarray(x[4:])}

    gradient = jax.grad(lambda x: loss(params(x), None))
    theirs, events = equation(rosen, lambda x: np.asarray(gradient(jnp.asarray(x))), start, steps, rate, **arguments)
    _, _, updates, _, _ = program(loss, steps, rate, **arguments)(params(start), keys(steps))
    moves = np.concatenate([np.reshape(updates["a"], (steps, 4)), updates["b"]], axis=1)
    assert {"open", "closed", "back"} <= set(events)
    np.testing.assert_allclose(start + np.cumsum(moves, axis=0), theirs, rtol=0, atol=1e-6)


def quadratic(condition, n=20, seed=0):
    """Of minimum 0, its Hessian with eigenvalues from 1/condition to 1."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((n, n)))
    root, x = np.float32(np.geomspace(condition**-0.5, 1, n)[:, None] * basis), np.float32(rng.standard_normal(n))
    return lambda p, key: jnp.sum((jnp.asarray(root) @ (p - x)) ** 2)


@pytest.mark.parametrize("condition", [1.0, 100.0])
def test_solves_what_the_base_does_not(condition):
    """20 numbers in 150 steps to float32's last digits, where gradient descent is at the start still."""
    loss = quadratic(condition)
    start = jnp.zeros(20)
    end, losses, *_ = program(loss, 150)(start, keys(150))
    assert losses[-1] < 1e-10 * losses[0]
    assert loss(start - 0.15 * jax.grad(loss)(start, None), None) > 0.1 * losses[0]


@pytest.mark.parametrize("seed", range(5))
def test_never_loses_what_it_had(seed):
    """From Rosenbrock's box: the loss at b never rises while the gate is open, and ends at zero."""
    start = np.random.default_rng(seed).uniform(-2.048, 2.048, 2).astype(np.float32)
    _, _, _, _, track = program(lambda p, key: 100 * (p[1] - p[0] ** 2) ** 2 + (1 - p[0]) ** 2, 300)(start, keys(300))
    value, opened = np.asarray(track.value), np.asarray(track.noise) < 0.1
    assert np.all(value[1:][opened[1:]] <= value[:-1][opened[1:]] * (1 + 1e-6))
    assert value[-1] < 1e-8


def followed(value, before, own, noise):
    """From a loss of one at ones, with U = before, to `value` at 1.1 by a step of its own or the base's."""
    pairs, (g, old) = Pairs(jnp.ones((1, 3)), jnp.ones((1, 3)), jnp.ones(1), jnp.ones(1)), (1e-3 * jnp.ones(3), 1.0)
    radius, level, old, value = map(jnp.float32, (0.1, before, old, value))
    track = Track(jnp.ones(3), g, old, pairs, radius, level, highest=old, taken=jnp.array(own))
    return _follow(track, jnp.full(3, 1.1), g, value, noise, 0.3)


@pytest.mark.parametrize("value, kept", [(0.5, True), (1 + 2**-22, True), (1 + 1e-6, False), (np.nan, 0), (np.inf, 0)])
def test_what_is_taken_back(value, kept):
    """Two units in the last place are rounding, eight are not: 2 · 4e-7 + 6e-8."""
    track, to, taken = followed(value, 0.0, True, ALWAYS)
    assert taken and np.isclose(track.params[0], 1.1 if kept else 1.0)
    assert np.isclose(track.radius, 0.2 if kept else 0.1 / 4) and np.all(to < track.params)


@pytest.mark.parametrize("own", [True, False])
def test_a_wild_step_is_taken_back_though_it_closes_the_gate(own):
    """One of quasi-Newton's; what the base did in front of a closed gate stays."""
    track, _, taken = followed(3.0, 0.09, own, 0.1)
    assert track.noise > 0.2 and taken == own and np.isclose(track.params[0], 1.0 if own else 1.1)


def table(rows, seed=0):
    """Rows of a linear regression with residuals of one."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 4)).astype(np.float32)
    return x, x.sum(1) + rng.standard_normal(rows).astype(np.float32)


def minibatch_loss(p, key, rows=16):
    x, y = table(256)
    batch = jax.random.randint(key, (rows,), 0, 256)
    return jnp.mean((jnp.asarray(x)[batch] @ p - jnp.asarray(y)[batch]) ** 2)


def whole_loss(p, key):
    x, y = map(jnp.asarray, table(256))
    return jnp.mean((x @ p - y) ** 2)


def noisy(grads):
    """As if they came late, or were of other data: not those of the loss."""
    return jax.tree.map(lambda g: g[::-1] + 0.3, grads)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("loss", "transform"),
    [(minibatch_loss, None), (whole_loss, noisy), (whole_loss, lambda g: g / jnp.linalg.norm(g))],
    ids=["minibatches", "other gradients", "normalised gradients"],
)
def test_noise_leaves_all_to_the_base(loss, transform, seed):
    """Bit for bit."""
    start = np.float32([0.9, 1.2, 0.8, 1.1])
    _, _, updates, alone, track = program(loss, 200, 0.02, transform)(start, keys(200, seed))
    assert np.all(track.noise >= 0.1)
    np.testing.assert_array_equal(updates, alone)


def test_no_noise_opens_the_gate():
    """On the same problem as a whole: after eleven steps, .8^11 < .1."""
    *_, track = program(whole_loss, 200, 0.02)(np.zeros(4, np.float32), keys(200))
    assert np.argmax(track.noise < 0.1) == 11  # the first has no step behind it
    assert np.all(track.noise[11:] < 0.1)  # at the minimum too, where what changes is rounding


def test_a_loss_of_zero_leaves_a_finite_state():
    """A separable classification, learned until nothing is left of loss and gradients in float32."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((12, 3)), jnp.float32)
    sign = jnp.sign(x[:, 0])
    program_ = program(lambda p, key: jnp.mean(jax.nn.softplus(-sign * (x @ p))), 400, 0.1)
    _, losses, updates, _, track = program_(jnp.zeros(3), keys(400))
    chex.assert_tree_all_finite((updates, jax.tree.map(lambda t: t[1:], track)))
    assert losses[-1] < 1e-30


def test_a_step_to_where_there_is_no_loss_is_taken_back():
    """log has none below zero: x - log x from 4 with steps of up to twice x."""

    def loss(p, key):
        return jnp.sum(p - jnp.log(p))

    _, losses, _, _, track = program(loss, 80, noise=ALWAYS, trust=2.0)(jnp.full(3, 4.0), keys(80))
    assert np.isnan(losses).any()
    np.testing.assert_allclose(track.params[-1], 1, atol=1e-3)


def test_steps_are_constants_to_whoever_differentiates():
    """What the base did while the gate was closed has a derivative, what came after has none."""

    def end(rate, noise):
        tx, p = quasi_newton(descent(), noise=noise).build(rate, 20), jnp.zeros(4)
        state = tx.init(p)
        for _ in range(5):
            value, g = jax.value_and_grad(whole_loss)(p, None)
            updates, state = tx.update(g, state, p, value=value)
            p = p + updates
        return whole_loss(p, None)

    assert jax.grad(end)(0.02, 0.1) < 0
    assert jax.grad(end)(0.02, ALWAYS) == 0


def test_large_models_are_left_to_the_base():
    optimizer, params = quasi_newton(descent(), limit=11), {"a": jnp.ones((3, 3)), "b": jnp.ones(3)}
    tx = optimizer.build(optimizer.init(jax.random.key(0)), 10)
    updates, state = tx.update(params, tx.init(params), params, value=jnp.float32(1.0))
    assert state.track is None
    chex.assert_trees_all_equal(updates, jax.tree.map(lambda p: -1e-3 * p, params))
    assert quasi_newton(descent(), limit=12).build(jnp.float32(1), 10).init(params).track is not None


def test_weights_are_the_bases():
    assert quasi_newton(descent(0.5)).init(jax.random.key(0)) == 0.5


@pytest.mark.parametrize("argument", ["memory", "noise", "trust"])
def test_bad_arguments(argument):
    with pytest.raises(ValueError, match=f"{argument}: must be positive, got 0"):
        quasi_newton(descent(), **{argument: 0})
