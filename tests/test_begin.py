"""What a run begins with: given weights, frozen leaves, a learned outer optimizer, and that it resumes from copies."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt import build, commands, config, record, weights
from metaopt.begin import beginning
from metaopt.checkpoint import CheckpointError, read_weights, save_weights
from metaopt.estimators.es import es
from metaopt.freeze import freeze
from metaopt.optimizers import OPTIMIZERS
from metaopt.train import RunError, first_theta
from tests.estimators.problems import dynamics, make_task, quick_jit

A, B = jnp.array([0.5, -1.0]), jnp.array([1.5])
WHOLE = dynamics(lambda theta, x: jnp.concatenate([theta["a"], theta["net"]["b"]]), {"a": A, "net": {"b": B}})
RAW = {
    "steps": 8,
    "optimizer": {"name": "hyper", "learnable": {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99}},
    "estimator": {"name": "es", "num_tasks": 2, "truncation": 2, "horizon": 2, "std": 0.1},
    "tasks": [{"name": "quadratic", "dim": 2}],
    "outer": {"optimizer": {"name": "adamw", "weight_decay": 0.1}, "learning_rate": 0.1, "accumulate": 2},
    "chunk": 4,
    "checkpoint_every": 4,
    "valid": None,
    "heldout": None,
}


@pytest.fixture(autouse=True)
def no_reports(monkeypatch):
    """They need no weights, and seconds."""
    monkeypatch.setattr(commands, "report", lambda folder: None)


def parse(**changes) -> config.RunConfig:
    return config.parse({**RAW, **changes}, "test")


def leaves(path: Path) -> dict[str, np.ndarray]:
    return read_weights(path)[0]


def test_frozen_leaves_feel_no_noise():
    """ES of the trained part is, bit for bit, ES of a problem that has no other theta."""
    theta = WHOLE.init(None)
    part = freeze(WHOLE, theta, "^net/")
    alone = dynamics(lambda theta, x: jnp.concatenate([theta["a"], B]), {"a": A})
    task = make_task(lambda: jnp.zeros(3), lambda x: jnp.sum((x - 0.3) ** 2) + jnp.prod(x))
    grads = []
    for optimizer in (part.optimizer, alone):
        estimator = es(task, optimizer, num_tasks=4, truncation=2, horizon=2, std=0.5)
        begin = optimizer.init(jax.random.key(5))
        state = estimator.init(begin, jax.random.key(0))
        grads.append(quick_jit(estimator.estimate)(begin, state, {}, jax.random.key(1)))
    jax.tree.map(np.testing.assert_array_equal, grads[0], grads[1])
    assert list(grads[0][0]) == ["a"] and np.all(grads[0][0]["a"] != 0)
    jax.tree.map(np.testing.assert_array_equal, part.merge(part.optimizer.init(None)), theta)


@pytest.mark.parametrize(
    ("pattern", "trained"),
    [("^net/", ["a"]), ("b", ["a"]), ("^a$", ["net/b"]), ("/", ["a"]), ("A|n.t", ["a"])],
)
def test_patterns_are_searched_for(pattern, trained):
    assert list(freeze(WHOLE, WHOLE.init(None), pattern).optimizer.init(None)) == trained


def test_a_frozen_network_begins_as_a_trained_one():
    """Celo's first phase; theta is as in a run of that seed that freezes nothing, to a rounding of float32."""
    celo = OPTIMIZERS["celo"](lstm_hidden=2, hidden=2)
    settings = parse(optimizer={"name": "celo", "lstm_hidden": 2, "hidden": 2}, freeze="^scheduler/", seed=3)
    part, whole, _ = beginning(settings, celo, {})
    theta = first_theta(celo, jax.random.key(3), 1)
    trained = part.init(None)
    assert trained.keys() == {f"network/{leaf}" for leaf in theta["network"]}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-7), whole(trained), theta)


def test_patterns_that_freeze_nothing_or_all():
    with pytest.raises(ValueError, match=r"'nett' is in no path of theta's leaves, a, net/b; nearest: 'net'"):
        freeze(WHOLE, WHOLE.init(None), "nett")
    with pytest.raises(ValueError, match="'' is in the path of every leaf, a, net/b: nothing is left to train"):
        freeze(WHOLE, WHOLE.init(None), "")


@pytest.fixture(scope="module")
def outer_weights(tmp_path_factory) -> Path:
    """An optimizer that has to be given the loss."""
    entry = {"name": "celo_adam", "lstm_hidden": 2}
    theta = build.optimizer(config.entry("optimizers", entry, "test")).init(jax.random.key(7))
    save_weights(tmp_path_factory.mktemp("outer") / "theta.safetensors", theta, {"optimizer": entry})
    return tmp_path_factory.getbasetemp() / "outer0"


def test_two_phases_and_a_resumed_run_without_its_sources(tmp_path, monkeypatch, outer_weights):
    """A recipe such as Celo's, the second phase by a learned optimizer, on means of two gradients."""
    first, whole, resumed = (tmp_path / name for name in ("first", "whole", "resumed"))
    commands.run(parse(freeze="^b"), first)
    begin, end = leaves(first / "start.safetensors"), leaves(first / "last.safetensors")
    assert begin.keys() == end.keys()
    for name, x in begin.items():
        assert name.startswith("b") == np.array_equal(x, end[name]), name

    outer = tmp_path / "outer"
    shutil.copytree(outer_weights, outer)
    phase = parse(
        start=str(first),
        freeze="^learning",
        outer={**RAW["outer"], "optimizer": {"name": "learned", "weights": str(outer)}},
    )
    commands.run(phase, whole)
    assert (whole / "start.safetensors").exists() and (whole / "outer.safetensors").exists()
    last = leaves(whole / "last.safetensors")
    for name, x in leaves(first / "theta.safetensors").items():
        assert (name == "learning_rate") == np.array_equal(x, last[name]), name
    assert weights.read(whole).meta["config"]["start"] == str(first)

    append, calls = record.append_rows, []

    def dying(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyError
        append(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(record, "append_rows", dying)
        commands.run(phase, resumed)
    shutil.rmtree(first)
    save_weights(outer / "theta.safetensors", {"x": jnp.ones(2)}, {"optimizer": {"name": "gone"}})
    commands.run(phase, resumed, resume=True)
    for name in ("start", "outer", "theta", "last"):
        assert (resumed / f"{name}.safetensors").read_bytes() == (whole / f"{name}.safetensors").read_bytes(), name
    rows, expected = (record.read_rows(folder / "metrics.jsonl") for folder in (resumed, whole))
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in expected]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"start": "runs/none"},
            CheckpointError,
            r"^start: no weights 'runs/none': give a .safetensors file, a run fol",
        ),
        (
            {"start": "OUTER"},
            CheckpointError,
            r"(?s)^start: .*theta.safetensors: the weights do not fit .*  leaf 'learni",
        ),
        ({"freeze": "^learnin_rate"}, RunError, "^freeze: '.learnin_rate' is in no path .*; nearest: 'learning_rate'"),
        ({"freeze": "."}, RunError, "^freeze: '.' is in the path of every leaf"),
    ],
)
def test_what_cannot_begin_leaves_no_folder(tmp_path, outer_weights, changes, error, message):
    changes = {key: str(outer_weights) if value == "OUTER" else value for key, value in changes.items()}
    with pytest.raises(error, match=message):
        commands.run(parse(**changes), tmp_path / "a")
    assert not (tmp_path / "a").exists()
