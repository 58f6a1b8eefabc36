"""Each schedule against its written formula, in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt.schedules import SCHEDULES, scale_by, schedule, with_rate
from tests.estimators.problems import quick_jit

T, PEAK = 120, 3e-2
t = np.arange(T + 1)
x = t / T


def halves(x, end):
    return end + (1 - end) * (1 + np.cos(np.pi * x)) / 2


def sgdr(lengths, end=0.0):
    """Periods of so many steps each, one after another, and the step after the last one."""
    return np.concatenate([*(halves(np.arange(n) / n, end) for n in lengths), [end]])


CASES = [  # entry, what the peak is multiplied by at t
    ("constant", np.ones(T + 1)),
    ("linear", 1 - x),
    ({"name": "linear", "end": 0.2}, 1 - 0.8 * x),
    ({"name": "inverse_time", "decay": 0.05}, 1 / (1 + 0.05 * t)),
    ({"name": "inverse_time", "end": 0.25}, 1 / (1 + 3 * x)),
    ("power", 1 / (1 + t) ** 0.6),
    ({"name": "power", "exponent": 1.0}, 1 / (1 + t)),
    ("exponential", 0.01**x),
    ({"name": "exponential", "gamma": 0.97}, 0.97**t),
    ("step_drop", 0.1 ** (t // 36)),
    ({"name": "step_drop", "factor": 0.5, "every": 1 / 7}, 0.5 ** (t // 17)),
    ("cosine", halves(x, 0.0)),
    ({"name": "cosine", "dips": 3, "end": 0.1}, 0.1 + 0.45 * (1 + np.cos(np.pi * t / (T / 5)))),
    ("warm_restarts", sgdr([17, 34, 69])),  # edges at round(120 / 7) and round(360 / 7)
    ({"name": "warm_restarts", "periods": 4, "mult": 1.0, "end": 0.1}, sgdr([30] * 4, 0.1)),
]
IDS = [str(entry) for entry, _ in CASES]


@pytest.fixture(autouse=True)
def double_precision(x64):
    pass


def values(fn, steps):
    return np.asarray(quick_jit(jax.vmap(fn))(jnp.asarray(steps)))


def name_of(entry):
    return entry if isinstance(entry, str) else entry["name"]


def test_every_schedule_has_a_formula():
    assert {name_of(entry) for entry, _ in CASES} | {"plateau"} == SCHEDULES.keys()


@pytest.mark.parametrize(("entry", "formula"), CASES, ids=IDS)
def test_formula(entry, formula):
    """With and without a warm-up; peak, horizon and warm-up may be tracers. After the end the last value stays."""
    beyond = np.append(t, [T + 1, 10 * T])
    expected = PEAK * np.append(formula, formula[[-1, -1]])
    np.testing.assert_allclose(values(schedule(entry, PEAK, T), beyond), expected, rtol=1e-12, atol=1e-17)
    traced = quick_jit(lambda peak, steps, warmup: jax.vmap(schedule(entry, peak, steps, warmup))(np.arange(T + 110)))
    got = traced(PEAK, T + 10, 10)
    np.testing.assert_allclose(got[:10], PEAK * np.arange(1, 11) / 11, rtol=1e-12)
    np.testing.assert_allclose(got[10 : T + 11], PEAK * formula, rtol=1e-12, atol=1e-17)
    np.testing.assert_allclose(got[T + 11 :], PEAK * formula[-1], rtol=1e-12, atol=1e-17)


def test_a_run_that_is_all_warm_up():
    np.testing.assert_allclose(values(schedule("cosine", 1.0, 4, warmup=4), range(5)), [0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"name": "step_drop", "factor": 0.5}, [300, 600, 900]),
        ({"name": "warm_restarts", "periods": 10, "mult": 1.0}, np.arange(100, 1000, 100)),
    ],
)
def test_single_precision_drops_and_restarts_in_time(entry, expected):
    """Where 0.3 · 1000 and 1000 / 10 are no binary fractions."""
    with jax.enable_x64(False):
        got = values(schedule(entry, 1.0, 1000), np.arange(1000))
    np.testing.assert_array_equal(np.flatnonzero(np.abs(np.diff(got)) > 0.05) + 1, expected)  # else at most 0.016


def test_gradients_of_the_peak_are_finite_in_a_warm_up():
    rates = quick_jit(jax.jacobian(lambda peak: jnp.stack([schedule(e, peak, 9, warmup=4)(0) for e, _ in CASES])))(PEAK)
    np.testing.assert_allclose(rates, 0.2, rtol=1e-12)


def plateau(losses, factor, patience, window, rtol=1e-4):
    """Its rate at each step, over the peak: a drop is felt at the very step that ends the last window."""
    scale, best, waited, rates = 1.0, np.inf, 0, []
    for i, _ in enumerate(losses):
        if (i + 1) % window == 0:
            mean = np.mean(losses[i + 1 - window : i + 1])
            waited = 0 if mean < (1 - rtol) * best else waited + 1
            best = mean if mean < (1 - rtol) * best else best
            if waited == patience:
                scale, waited = scale * factor, 0
        rates.append(scale)
    return np.array(rates)


@pytest.mark.parametrize("warmup", [0, 10])
def test_plateau(warmup):
    losses = 0.98 ** np.minimum(np.arange(T), 50) + 0.01 * np.random.default_rng(0).standard_normal(T)
    entry = {"name": "plateau", "factor": 0.5, "patience": 3, "window": 0.05}
    rates = _rates(scale_by(entry, PEAK, T, warmup), losses)
    window = round(0.05 * (T - warmup))
    warm = np.minimum((np.arange(T) + 1) / (warmup + 1), 1)
    expected = plateau(losses, 0.5, 3, window)
    assert expected[-1] < 0.5 and expected[40] == 1.0
    # optax keeps the number one's dtype, float32, for the best mean and the scale
    np.testing.assert_allclose(rates, PEAK * warm * expected, rtol=1e-6)


def _rates(tx, losses):
    def step(state, loss):
        rate, state = tx.update(jnp.float32(1.0), state, value=loss)
        return state, rate

    return quick_jit(lambda losses: jax.lax.scan(step, tx.init(jnp.float32(1.0)), losses)[1])(losses)


def test_scale_by_strides_over_steps():
    tx = scale_by("cosine", PEAK, T, warmup=8, every=3)
    expected = values(schedule("cosine", PEAK, T, 8), 3 * np.arange(40))
    np.testing.assert_allclose(_rates(tx, np.ones(40)), expected, atol=4e-7 * PEAK)  # float32, of order one times PEAK


def test_with_rate_equals_the_schedule_of_optax():
    """Weight decay follows the rate too; and rprop, which keeps its first one."""
    rng = np.random.default_rng(1)
    grads, params = jnp.asarray(rng.standard_normal((9, 3)), jnp.float32), jnp.ones(3, jnp.float32)

    def run(tx):
        def step(carry, g):
            updates, state = tx.update(g, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), carry[0]

        return quick_jit(lambda: jax.lax.scan(step, (params, tx.init(params)), grads)[1])()

    rate = schedule("linear", 0.1, 9, warmup=3)
    ours = run(with_rate(lambda rate: optax.adamw(rate, weight_decay=0.1), scale_by("linear", 0.1, 9, warmup=3)))
    np.testing.assert_allclose(ours, run(optax.adamw(rate, weight_decay=0.1)), rtol=1e-6)
    ours = run(with_rate(optax.rprop, scale_by("linear", 0.1, 9, warmup=3)))
    np.testing.assert_allclose(ours, run(optax.rprop(0.025)), rtol=1e-6)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("cosin", "no schedule 'cosin'; did you mean 'cosine'?"),
        ("xyz", "there are constant, linear"),
        ({"name": "cosine", "dip": 3}, "schedule cosine: .*unexpected keyword argument 'dip'"),
        ({"name": "cosine", "dips": 0}, "schedule cosine: dips: must be at least 1, got 0"),
        ({"name": "step_drop", "every": 0.0}, "schedule step_drop: every: must be above 0, got 0.0"),
        ("plateau", "plateau uses the loss: it is no function of the step"),
    ],
)
def test_errors(entry, message):
    with pytest.raises(ValueError, match=message):
        schedule(entry, 1.0, 10)


def test_plateau_without_a_loss():
    tx = scale_by("plateau", 1.0, 10)
    with pytest.raises(ValueError, match="plateau uses the loss: give it to update, as value"):
        tx.update(jnp.ones(()), tx.init(jnp.ones(())))
