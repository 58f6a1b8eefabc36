"""The outer step against optax by hand, with estimators whose gradient is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt import train
from metaopt.train import Family, inner_steps, make_train, place
from metaopt.types import Estimator, LearnedOptimizer

OPTIMIZER = LearnedOptimizer(lambda key: {"w": jax.random.normal(key, (3,))}, lambda theta, num_steps: optax.sgd(0.1))


def bowl(target: float, noise: float = 0.0) -> Estimator:
    """Meta-loss |theta - target|^2 / 2, its gradient with noise drawn from the step's key; the state counts calls."""

    def init(theta, key):
        return jnp.zeros((2,))

    def estimate(theta, state, data, key):
        loss = 0.5 * jnp.sum((theta["w"] - target) ** 2)
        draw = noise * jax.random.normal(key, (3,))
        return (
            {"w": theta["w"] - target + draw},
            state + 1,
            {"meta_loss": loss, "diverged": jnp.ones(()), "draw": draw[0]},
        )

    return Estimator(init, estimate, inner_steps=7)


def broken(theta_grad: float) -> Estimator:
    return bowl(0.0)._replace(
        estimate=lambda theta, state, data, key: (
            {"w": jnp.full((3,), theta_grad)},
            state,
            {"meta_loss": jnp.ones(()), "diverged": jnp.zeros(())},
        )
    )


def test_step_equals_optax_by_hand():
    outer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(optax.linear_schedule(0.1, 0.0, 20)))
    init, step = make_train(OPTIMIZER, [Family("a", bowl(1.0), 3.0), Family("b", bowl(-2.0), 1.0)], outer)
    state = init(jax.random.key(0))
    theta = jax.tree.map(jnp.copy, state.theta)
    opt_state = outer.init(theta)
    state, metrics = step(state, (None, None), 10)
    losses = []
    for _ in range(10):
        losses.append(0.75 * 0.5 * jnp.sum((theta["w"] - 1.0) ** 2) + 0.25 * 0.5 * jnp.sum((theta["w"] + 2.0) ** 2))
        grad = {"w": 0.75 * (theta["w"] - 1.0) + 0.25 * (theta["w"] + 2.0)}
        updates, opt_state = outer.update(grad, opt_state, theta)
        theta = optax.apply_updates(theta, updates)
    np.testing.assert_allclose(state.theta["w"], theta["w"], rtol=1e-5)
    np.testing.assert_allclose(metrics["meta_loss"], jnp.stack(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"][-1], jnp.linalg.norm(grad["w"]), rtol=1e-5)
    assert int(state.step) == 10
    assert float(state.estimators[1][0]) == 10
    np.testing.assert_array_equal(metrics["diverged"], 2.0)
    assert set(metrics) == {
        *("meta_loss", "grad_norm", "diverged", "skipped"),
        *("a/meta_loss", "a/diverged", "a/draw", "b/meta_loss", "b/diverged", "b/draw"),
    }


def test_chunks_do_not_change_the_run():
    init, step = make_train(OPTIMIZER, [Family("a", bowl(1.0, noise=1.0))], optax.adam(0.1))
    whole, whole_metrics = step(init(jax.random.key(3)), (None,), 12)
    state, parts = init(jax.random.key(3)), []
    for length in (5, 1, 6):
        state, metrics = step(state, (None,), length)
        parts.append(metrics["meta_loss"])
    np.testing.assert_array_equal(whole.theta["w"], state.theta["w"])
    np.testing.assert_array_equal(whole_metrics["meta_loss"], jnp.concatenate(parts))


def test_steps_and_families_draw_their_own_noise():
    families = [Family(name, bowl(0.0, noise=1.0)) for name in "ab"]
    init, step = make_train(OPTIMIZER, families, optax.sgd(0.0))
    _, metrics = step(init(jax.random.key(0)), (None, None), 4)
    assert len({float(x) for name in "ab" for x in metrics[f"{name}/draw"]}) == 8


def test_a_family_left_out_of_a_call():
    """It is as if it were not there: its estimator is not called, and its gradient counts as zero."""
    families = [Family("a", bowl(1.0), 3.0), Family("b", bowl(-2.0), 1.0)]
    init, step = make_train(OPTIMIZER, families, optax.sgd(0.1))
    state = init(jax.random.key(0))
    theta = np.array(state.theta["w"])
    state, metrics = step(state, (None, None), 3, np.array([[True, True], [False, True], [False, False]]))
    for a, b in ((0.75, 0.25), (0.0, 0.25)):
        theta = theta - 0.1 * (a * (theta - 1.0) + b * (theta + 2.0))
    np.testing.assert_allclose(state.theta["w"], theta, rtol=1e-5)
    assert [float(x[0]) for x in state.estimators] == [1, 2]
    np.testing.assert_array_equal(metrics["diverged"], [2, 1, 0])
    np.testing.assert_array_equal(metrics["skipped"], 0)


def test_throughput_of_each_family_alone(monkeypatch):
    """A clock on which a call costs 10 s, an outer step of the first family 1 s and of the second 4 s."""
    families, clock = [Family("a", bowl(1.0)), Family("b", bowl(2.0))], [0.0]
    init, step = make_train(OPTIMIZER, families, optax.sgd(0.1))
    monkeypatch.setattr(train.time, "perf_counter", lambda: clock[0])
    lengths = []

    def timed(state, data, length, active):
        clock[0] += 10.0 + float(active.sum(0) @ [1.0, 4.0])
        lengths.append(length)
        return step(state, data, length, active)

    rates = train.throughput(timed, init(jax.random.key(0)), (None, None), 5, [7, 8])
    assert rates == [7.0, 2.0]
    assert set(lengths) == {5}


def test_a_quick_family_takes_more_steps_until_it_is_clear(monkeypatch):
    """A call costs 11 ms, and 5 more now and then. At 1 ms an outer step, 117 of them in seven calls are the first to
    take 0.1 s by themselves; a family that takes no time is given up after 0.3 s, which are 28 calls."""
    families, clock, active = [Family("a", bowl(1.0)), Family("b", bowl(2.0))], [0.0], []
    init, step = make_train(OPTIMIZER, families, optax.sgd(0.1))
    monkeypatch.setattr(train.time, "perf_counter", lambda: clock[0])
    idle = iter((0.1, 0.011, 0.016))

    def timed(state, data, length, on):
        active.append(on.sum(0).tolist())
        clock[0] += next(idle, 0.011) + 0.001 * on[:, 0].sum()
        return step(state, data, length, on)

    rates = train.throughput(timed, init(jax.random.key(0)), (None, None), 24, [7, 8])
    assert rates == [7000.0, None]
    assert active[:3] == [[0, 0]] * 3
    assert [a for a, b in active if a] == [3, 6, 12, 24, 24, 24, 24]
    assert [b for a, b in active if b] == [3, 6, 12] + [24] * 25


def test_a_family_too_quick_to_time():
    """Where a family takes no longer than idle calls differ, a rate would be noise."""
    families, calls, clock = [Family("a", bowl(1.0)), Family("b", bowl(2.0))], iter((10, 99, 11, 10.5, 14)), [0.0]
    init, step = make_train(OPTIMIZER, families, optax.sgd(0.1))

    def timed(*args):
        clock[0] += next(calls)
        return step(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.time, "perf_counter", lambda: clock[0])
        assert train.throughput(timed, init(jax.random.key(0)), (None, None), 5, [7, 8]) == [None, 6.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_gradient_never_reaches_theta(bad):
    init, step = make_train(OPTIMIZER, [Family("bad", broken(bad)), Family("good", bowl(1.0))], optax.sgd(0.5))
    state = init(jax.random.key(0))
    before = np.array(state.theta["w"])
    state, metrics = step(state, (None, None), 1)
    np.testing.assert_allclose(state.theta["w"], before - 0.5 * 0.5 * (before - 1.0), rtol=1e-6)
    assert float(metrics["skipped"][0]) == 1
    assert np.isfinite(metrics["grad_norm"]).all()


WEAK = OPTIMIZER._replace(init=lambda key: {"w": jnp.broadcast_to(jnp.log(2.0), (3,))})


@pytest.mark.parametrize("optimizer", [OPTIMIZER, WEAK], ids=["", "weakly typed"])
def test_no_trace_after_the_first_call(optimizer):
    traces = []
    estimator = bowl(1.0)

    def estimate(*args):
        traces.append(1)
        return estimator.estimate(*args)

    init, step = make_train(optimizer, [Family("a", estimator._replace(estimate=estimate))], optax.adam(0.1))
    state = init(jax.random.key(0))
    state, _ = step(state, (None,), 3)
    first = len(traces)
    for _ in range(3):
        state, _ = step(state, (None,), 3)
    assert len(traces) == first


def test_state_is_donated():
    init, step = make_train(OPTIMIZER, [Family("a", bowl(1.0))], optax.adam(0.1))
    key = jax.random.key(0)
    state = init(key)
    step(state, (None,), 1)
    assert state.theta["w"].is_deleted()
    assert not key.is_deleted()


def test_families_are_checked():
    with pytest.raises(ValueError, match="at least one"):
        make_train(OPTIMIZER, [], optax.adam(0.1))
    with pytest.raises(ValueError, match="different names"):
        make_train(OPTIMIZER, [Family("a", bowl(0.0)), Family("a", bowl(1.0))], optax.adam(0.1))
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight of family 'a'"):
            make_train(OPTIMIZER, [Family("a", bowl(0.0), weight)], optax.adam(0.1))


def test_inner_steps_counts_all_families():
    assert inner_steps([Family("a", bowl(0.0)), Family("b", bowl(0.0))]) == 14


def test_equal_arrays_are_placed_once():
    x = np.ones((4, 2), np.float32)
    a, b, c = place(
        [Family("a", bowl(0.0), data={"x": x}), Family("b", bowl(0.0), data={"x": x}), Family("c", bowl(0.0))]
    )
    assert a["x"] is b["x"]
    assert c is None
