"""The outer optimizer as a config has it: clips, means over outer steps, learned optimizers, all of optax's."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt import build, commands, config, outer
from metaopt.checkpoint import CheckpointError, save_weights
from metaopt.entry import names
from metaopt.optimizers import OPTIMIZERS
from metaopt.train import Family, RunError, make_train
from metaopt.types import Estimator, LearnedOptimizer
from tests.estimators.problems import quick_jit

THETA = {"w": jnp.array([0.5, -1.0, 2.0]), "b": jnp.array([0.1, 0.3])}
OPTIMIZER = LearnedOptimizer(lambda key: THETA, lambda theta, num_steps: optax.sgd(0.1))


def noisy(scale: float) -> Estimator:
    """Gradients and losses drawn from the step's key, both told in the metrics; diverged and finite as they may be."""

    def estimate(theta, state, data, key):
        grad = jax.tree.map(lambda x: scale * jax.random.normal(key, x.shape, x.dtype), theta)
        loss = jax.random.uniform(key, (), grad["w"].dtype)
        told = {f"grad_{name}{i}": x[i] for name, x in grad.items() for i in range(len(x))}
        return grad, state, {"meta_loss": loss, "diverged": jnp.zeros(()), **told}

    return Estimator(lambda theta, key: jnp.zeros(()), estimate, inner_steps=1)


def run(tx, steps: int):
    """Theta [steps, 5] after each outer step, its gradients [steps, 5] and values [steps], families weighted 3 to 1."""
    families = [Family("a", noisy(1.0), 3.0), Family("b", noisy(2.0), 1.0)]
    init, step = make_train(OPTIMIZER, families, tx)
    state, thetas, rows = init(jax.random.key(0)), [], []
    for _ in range(steps):
        state, metrics = step(state, (None, None), 1)
        thetas.append(flat(state.theta))
        rows.append({name: float(x[0]) for name, x in metrics.items()})
    told = [f"grad_{name}{i}" for name in sorted(THETA) for i in range(len(THETA[name]))]
    a, b = (np.array([[row[f"{family}/{name}"] for name in told] for row in rows]) for family in "ab")
    grads = (3 * a + b) / 4
    np.testing.assert_allclose([row["grad_norm"] for row in rows], np.linalg.norm(grads, axis=1), rtol=1e-5)
    return np.array(thetas), grads, np.array([row["meta_loss"] for row in rows])


def flat(theta) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64) for x in jax.tree.leaves(theta)])


def settings(**given) -> config.Outer:
    return config.Outer.model_validate(given)


def write(path: Path, name: str, **arguments) -> Path:
    theta = OPTIMIZERS[name](**arguments).init(jax.random.key(1))
    save_weights(path, theta, {"optimizer": {"name": name, **arguments}})
    return path


def test_accumulation_is_a_step_on_the_mean(x64):
    """SGD with momentum in closed form, on means of three gradients; the metrics are float32, hence 1e-6."""
    tx = build.outer(settings(optimizer={"name": "sgd", "momentum": 0.9}, learning_rate=0.1, accumulate=3), 9)
    thetas, grads, _ = run(tx, 9)
    theta, trace = flat(THETA), 0.0
    for u in range(3):
        for t in (3 * u, 3 * u + 1):
            np.testing.assert_array_equal(thetas[t], theta if u == 0 else thetas[3 * u - 1])
        trace = 0.9 * trace + grads[3 * u : 3 * u + 3].mean(0)
        theta = theta - 0.1 * trace
        np.testing.assert_allclose(thetas[3 * u + 2], theta, rtol=1e-6, atol=1e-6)


def test_accumulated_values_are_means(x64):
    """Polyak's step on the mean of two gradients and losses: min(loss / |g|^2, max), a rate that counts updates."""
    tx = build.outer(settings(optimizer="polyak_sgd", learning_rate=0.5, schedule="linear", accumulate=2), 8)
    thetas, grads, values = run(tx, 8)
    theta, clipped = flat(THETA), 0
    for u in range(4):
        grad, value, largest = grads[2 * u : 2 * u + 2].mean(0), values[2 * u : 2 * u + 2].mean(), 0.5 * (1 - 2 * u / 8)
        clipped += value / (grad @ grad) > largest
        theta = theta - min(value / (grad @ grad), largest) * grad
        np.testing.assert_allclose(thetas[2 * u + 1], theta, rtol=1e-6, atol=1e-6)
    assert 0 < clipped < 4


def test_warmup_and_schedule_run_over_outer_steps():
    given = {"learning_rate": 0.5, "schedule": "cosine", "warmup": 4}
    tx = build.outer(settings(optimizer="sgd", **given, accumulate=2), 12)
    plain = build.outer(settings(optimizer="sgd", **given), 12)
    rates = []
    for steps, every in ((plain, 1), (tx, 2)):
        state, rates = steps.init(THETA), [*rates, []]
        for _ in range(12):
            updates, state = steps.update(optax.tree.ones_like(THETA), state, THETA, value=jnp.ones(()))
            rates[-1].append(-float(updates["w"][0]))
        rates[-1] = rates[-1][every - 1 :: every]
    np.testing.assert_allclose(rates[1], rates[0][::2], rtol=1e-6)


def test_a_schedule_with_arguments():
    """SGD at gradients of one moves by its rate; plateau sees the mean of two meta-losses, which never improve."""
    entries = [{"name": "step_drop", "every": 0.25}, {"name": "plateau", "factor": 0.5, "patience": 1, "window": 0.3}]
    expected = [[1.0, 0.1, 0.01, 0.001], [1.0, 0.5, 0.25, 0.125]]
    for entry, drops in zip(entries, expected, strict=True):
        tx = build.outer(settings(optimizer="sgd", learning_rate=0.5, schedule=entry, accumulate=2), 8)

        def step(state, _, tx=tx):
            updates, state = tx.update(optax.tree.ones_like(THETA), state, THETA, value=jnp.ones(()))
            return state, -updates["w"][0]

        rates = quick_jit(lambda tx=tx, step=step: jax.lax.scan(step, tx.init(THETA), None, 8)[1])()
        np.testing.assert_allclose(rates[1::2], 0.5 * np.array(drops), rtol=1e-6)


def test_schedules_that_are_refused():
    with pytest.raises(RunError, match=r"^outer.schedule \(step_drop\): schedule step_drop: every: must be above 0"):
        build.outer(settings(schedule={"name": "step_drop", "every": 0.0}), 4)
    raw = {"optimizer": "hyper", "estimator": "es", "tasks": ["quadratic"], "heldout": None}
    with pytest.raises(config.ConfigError, match=r"outer.schedule.dip: expected a keyword of cosine \(dips, end\)"):
        config.parse({**raw, "outer": {"schedule": {"name": "cosine", "dip": 3}}}, "test")
    with pytest.raises(config.ConfigError, match=r"optimizer.schedule.name: expected one of constant, linear"):
        config.parse({**raw, "optimizer": {"name": "hyper", "schedule": "cosin"}}, "test")


def test_clips_against_numpy():
    tx = build.outer(settings(optimizer="sgd", learning_rate=1.0, clip_value=0.4, clip=0.7, accumulate=2), 4)
    thetas, grads, _ = run(tx, 4)
    theta, norms = flat(THETA), []
    for u in range(2):
        clipped = np.clip(grads[2 * u : 2 * u + 2].mean(0), -0.4, 0.4)
        norms.append(np.linalg.norm(clipped))
        theta = theta - clipped * min(1.0, 0.7 / norms[-1])
        np.testing.assert_allclose(thetas[2 * u + 1], theta, rtol=1e-5, atol=1e-6)
    assert max(norms) > 0.7


def test_learned_weights_of_sgd_are_sgd(tmp_path):
    weights = write(tmp_path / "a.safetensors", "hyper", base="sgd", learnable={"learning_rate": 0.25})
    entry = {"name": "learned", "weights": str(weights)}
    assert settings(optimizer=entry).learning_rate == 1.0
    thetas, _, _ = run(build.outer(settings(optimizer=entry, schedule="linear"), 4), 4)
    expected, _, _ = run(build.outer(settings(optimizer="sgd", learning_rate=0.25, schedule="linear"), 4), 4)
    np.testing.assert_allclose(thetas, expected, rtol=1e-6)
    assert np.ptp(thetas[:, 0]) > 0.01


def test_a_learned_optimizer_gets_the_loss_and_the_number_of_updates(tmp_path, monkeypatch):
    """One whose step is -value / num_steps."""

    def build_(theta, num_steps):
        def update(grads, state, params, *, value):
            return jax.tree.map(lambda g: jnp.full_like(g, -value / num_steps), grads), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    monkeypatch.setitem(OPTIMIZERS, "told", lambda: LearnedOptimizer(lambda key: {"x": jnp.zeros(2)}, build_))
    entry = {"name": "learned", "weights": str(write(tmp_path / "theta.safetensors", "told"))}
    thetas, _, values = run(build.outer(settings(optimizer=entry, learning_rate=3.0, accumulate=2), 6), 6)
    means = values.reshape(3, 2).mean(1)
    np.testing.assert_allclose(thetas[1::2] - flat(THETA), -np.cumsum(means)[:, None] + np.zeros(5), rtol=1e-5)


def test_weights_that_are_not_there(tmp_path):
    write(tmp_path / "first.safetensors", "hyper")
    for name in ("firt.safetensors", "firt"):
        with pytest.raises(CheckpointError, match=rf"^outer.optimizer.weights: .*{name}.*did you mean '.*/first.safe"):
            build.outer(settings(optimizer={"name": "learned", "weights": str(tmp_path / name)}), 4)
    (tmp_path / "a.safetensors").write_text("nothing")
    with pytest.raises(CheckpointError, match=r"^outer.optimizer.weights: .*a.safetensors: not a readable"):
        build.outer(settings(optimizer={"name": "learned", "weights": str(tmp_path / "a.safetensors")}), 4)


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("name", [*sorted(outer.COORDINATEWISE), "lamb", "lars", "novograd", "adafactor"])
def test_updates_are_those_of_the_tree(name):
    """Also of those that are told theta as one vector, and of those that look at tensors, which must not be."""
    theta = {"w": jnp.linspace(-1.0, 2.0, 6).reshape(3, 2), "b": jnp.array([0.1, 0.3]), "s": jnp.array(0.5)}
    given, plain = build.outer(settings(optimizer=name, learning_rate=0.1), 5), getattr(optax, name)(0.1)
    states = [tx.init(theta) for tx in (given, plain)]
    for key in jax.random.split(jax.random.key(0), 5):
        grads = jax.tree.map(lambda x, key=key: jax.random.normal(key, x.shape) * (1 + x), theta)
        (updates, expected), states = zip(
            *(tx.update(grads, s, theta) for tx, s in zip((given, plain), states, strict=True)), strict=True
        )
        chex.assert_trees_all_close(updates, expected, rtol=1e-5)  # of the same sums, in another order of operations


@pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:Specifying a key")
@pytest.mark.parametrize("name", [name for name in names("outer") if name not in outer.OUTER])
def test_every_optimizer_of_optax(name):
    """It takes the schedule, and runs on theta, gradient and loss; what needs more says so before a run."""
    theta = LearnedOptimizer(lambda key: {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}, OPTIMIZER.build)
    raw = {"optimizer": "hyper", "estimator": "es", "tasks": ["quadratic"], "outer": {"optimizer": name}}
    settings = config.parse({**raw, "steps": 4, "heldout": None}, "test")
    if name != "lbfgs":
        commands._outer_for(theta, settings)
        return
    with pytest.raises(RunError, match=r"^outer.optimizer \(lbfgs\): .*missing .* 'value_fn'"):
        commands._outer_for(theta, settings)
