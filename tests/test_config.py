"""Configs: types, every error at once and located, overrides."""

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest

from metaopt import config, registry
from tests import config_fakes
from tests.config_fakes import MINIMAL, errors, parse


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test reads the registries of a small package of its own."""
    config_fakes.install(tmp_path, monkeypatch)


def test_defaults_are_filled_in() -> None:
    run = parse()
    assert run.optimizer.kwargs == {"hidden": 4, "exp_mult": 1e-3, "sizes": (8,)}
    assert run.estimator.kwargs == {"num_tasks": 8, "truncation": 20, "horizon": 200, "std": 0.01, "clip": None}
    assert run.tasks[0].name == "image" and run.tasks[0].weight == 1.0
    assert run.tasks[0].kwargs == {"dataset": "digits", "hidden": (32,)}
    assert run.outer.optimizer.name == "adam" and run.outer.optimizer.kwargs["b1"] == 0.9
    assert "learning_rate" not in run.outer.optimizer.kwargs
    assert (run.valid, run.heldout) == (config.Valid(), config.Heldout())
    assert hash(run.steps) and isinstance(run, config.RunConfig)


def test_values_take_the_type_of_the_signature() -> None:
    run = parse(
        optimizer={"name": "net", "sizes": [1, 2], "exp_mult": 1}, estimator={"name": "pes", "horizon": [20, 40]}
    )
    assert run.optimizer.kwargs["sizes"] == (1, 2)
    assert isinstance(run.optimizer.kwargs["exp_mult"], float)
    assert run.estimator.kwargs["horizon"] == (20, 40)
    mixed = {"name": "mixed", "learnable": {"b1": 1}, "any": [1, "a"]}
    assert parse(optimizer=mixed).optimizer.kwargs == {
        "base": "adam",
        "learnable": {"b1": 1.0},
        "flag": False,
        "any": [1, "a"],
    }


@pytest.mark.parametrize(
    ("entry", "key", "expected"),
    [
        ({"hidden": "4"}, "optimizer.hidden", "int"),
        ({"hidden": True}, "optimizer.hidden", "int"),
        ({"hidden": 4.5}, "optimizer.hidden", "int"),
        ({"hidden": None}, "optimizer.hidden", "int"),
        ({"exp_mult": "fast"}, "optimizer.exp_mult", "float"),
        ({"sizes": 3}, "optimizer.sizes", "tuple[int, ...]"),
        ({"sizes": [3, "a"]}, "optimizer.sizes", "tuple[int, ...]"),
        ({"name": "mixed", "flag": 1}, "optimizer.flag", "bool"),
        ({"name": "mixed", "base": 1}, "optimizer.base", "str"),
        ({"name": "mixed", "learnable": {"b1": "x"}}, "optimizer.learnable", "dict[str, float]"),
    ],
)
def test_wrong_types(entry: dict[str, Any], key: str, expected: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        parse(optimizer={"name": "net", **entry})
    (problem,) = caught.value.problems
    assert (problem.key, problem.expected) == (key, expected)


def test_all_errors_at_once() -> None:
    found = errors(
        seeed=1,
        steps=-5,
        optimizer={"name": "nett"},
        estimator={"name": "pes", "stdd": 0.1, "task": 1, "truncation": 20, "horizon": [210, 100], "num_tasks": 0},
        tasks=[{"name": "image", "dataset": "digit"}, {"name": "quad", "weight": -1}, 3],
        outer={"optimizer": {"name": "adm"}, "schedule": "cosin", "clip": 0.0},
        valid={"suite": "valid_smal", "every": "often"},
        heldout={"step": 5},
    )
    assert all(line.startswith("run.yaml: ") for line in found)
    assert [line.removeprefix("run.yaml: ") for line in found] == [
        "steps: expected greater than 0, got -5",
        "optimizer.name: expected one of net, bare, mixed, wrap, got nett; did you mean net?",
        "estimator.stdd: expected a keyword of pes (num_tasks, truncation, horizon, std, clip), got stdd; "
        "did you mean std?",
        "estimator.task: expected no task here, the program supplies it, got 1",
        "estimator.horizon: expected the shorter horizon first, got (210, 100)",
        "estimator.horizon: expected a multiple of truncation (20), got (210, 100)",
        "estimator.num_tasks: expected a positive number, got 0",
        "tasks.0.dataset: expected one of digits, wine, tfds:NAME or user:NAME, got digit; did you mean digits?",
        "tasks.1.weight: expected greater than 0, got -1",
        "tasks.2: expected a valid dictionary or instance of WeightedEntry, got 3",
        "outer.optimizer.name: expected learned or the name of an optax optimizer, got adm; did you mean adam?",
        "outer.schedule.name: expected one of constant, cosine, got cosin; did you mean cosine?",
        "outer.clip: expected greater than 0, got 0.0",
        "valid.suite: expected one of valid_small, heldout_small, got valid_smal; did you mean valid_small?",
        "valid.every: expected a valid integer, got often",
        "heldout.step: expected one of suite, steps, seeds, got step; did you mean steps?",
        "seeed: expected one of seed, steps, optimizer, start, freeze, estimator, tasks, outer, chunk, "
        "checkpoint_every, valid, heldout, tensorboard, got seeed; did you mean seed?",
    ]


def test_missing_values() -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.parse({"optimizer": "bare", "tasks": []}, "run.yaml")
    assert [(problem.key, problem.expected) for problem in caught.value.problems] == [
        ("optimizer.width", "a value: bare needs width: int"),
        ("estimator", "a value"),
        ("tasks", "at least one task"),
    ]


def test_learning_rate_belongs_to_outer() -> None:
    (line,) = errors(outer={"optimizer": {"name": "adam", "learning_rate": 0.1}})
    assert line.startswith("run.yaml: outer.optimizer.learning_rate: expected no learning_rate here")
    assert "set outer.learning_rate" in line
    (line,) = errors(outer={"optimizer": {"name": "adamw", "weight_decays": 0.1}})
    assert line.endswith("got weight_decays; did you mean weight_decay?")


def test_heldout_tasks_are_never_trained_on() -> None:
    tasks = ["image", {"name": "image", "dataset": "wine", "hidden": [5]}]
    (line,) = errors(tasks=tasks)
    assert line == (
        "run.yaml: tasks.1: expected no task of the held-out suite heldout_small: held-out tasks are never trained on, "
        "got image on wine"
    )
    (line,) = errors("tasks.0=quad", heldout={"suite": "valid_small"})
    assert line.startswith("override tasks.0=quad: tasks.0: ") and line.endswith("got quad")
    assert parse(tasks=tasks, heldout=None).heldout is None


def test_what_has_to_go_with_the_number_of_steps() -> None:
    assert errors("outer.warmup=11", "outer.accumulate=4", steps=10) == [
        "override outer.warmup=11: outer.warmup: expected at most steps (10), got 11",
        "override outer.accumulate=4: outer.accumulate: expected a divisor of steps (10), got 4",
    ]
    assert parse("outer.accumulate=5", steps=10).outer.accumulate == 5


def test_a_learned_outer_optimizer() -> None:
    run = parse(outer={"optimizer": {"name": "learned", "weights": "runs/a"}})
    assert run.outer.optimizer.kwargs == {"weights": "runs/a"} and run.outer.learning_rate == 1.0
    assert parse("outer.optimizer={name: learned, weights: a}", "outer.learning_rate=2").outer.learning_rate == 2.0
    assert parse(outer={"optimizer": "sgd"}).outer.learning_rate == parse().outer.learning_rate == 1e-3
    assert errors(outer={"optimizer": "learned"}) == [
        "run.yaml: outer.optimizer.weights: expected a value: learned needs weights: str, got nothing"
    ]
    (line,) = errors(outer={"optimizer": {"name": "learned", "weights": "a", "num_steps": 3}})
    assert line == "run.yaml: outer.optimizer.num_steps: expected no num_steps here, the program supplies it, got 3"


def test_freeze_is_a_regular_expression() -> None:
    assert parse(freeze="^lstm/").freeze == "^lstm/"
    (line,) = errors(freeze="a(", start=3)[1:]
    assert line.startswith("run.yaml: freeze: expected a regular expression (missing ), unterminated subpattern")


def test_overrides() -> None:
    run = parse(
        "steps=7",
        "estimator.std=1e-3",
        "tasks.0.hidden=[64]",
        "optimizer={name: bare, width: 3}",
        "outer.optimizer.b1=0.5",
        "outer.schedule=cosine",
        "valid=null",
        "heldout.seeds=9",
    )
    assert run.steps == 7 and run.estimator.kwargs["std"] == 1e-3 and run.tasks[0].kwargs["hidden"] == (64,)
    assert (run.optimizer.name, run.optimizer.kwargs) == ("bare", {"width": 3})
    assert run.outer.optimizer.kwargs["b1"] == 0.5 and run.outer.schedule.kwargs == {"dips": 1}
    assert run.valid is None and run.heldout == config.Heldout(seeds=9)


def test_wrong_overrides_name_themselves() -> None:
    assert errors("seed.x=1", "tasks.1.hidden=[3]", "tasks.first=1", "steps", "estimator.st=1", "a=[", seed=3) == [
        "override seed.x=1: seed.x: expected an existing key: seed holds a value, got 3",
        "override tasks.1.hidden=[3]: tasks.1: expected an index of tasks, 0 to 0, got 1",
        "override tasks.first=1: tasks.first: expected an index of tasks, 0 to 0, got first",
        "override steps: expected key=value or key.key=value, got steps",
        "override a=[: a: expected a YAML value, got [",
        "override estimator.st=1: estimator.st: expected a keyword of pes (num_tasks, truncation, horizon, std, clip), "
        "got st; did you mean std?",
    ]


def test_an_override_below_a_value_of_its_own_making() -> None:
    (line,) = errors("seed.x=1")
    assert line.startswith("override seed.x=1: seed: expected a valid integer")


def test_parse_leaves_its_input_alone() -> None:
    raw = {**MINIMAL, "tasks": [{"name": "image"}]}
    config.parse(raw, "run.yaml", ["tasks.0.hidden=[1]", "optimizer.hidden=5"])
    assert raw == MINIMAL


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse().steps = 3  # type: ignore[misc]


def test_nothing_imports_the_registries() -> None:
    parse()
    assert registry.SUITES[0] not in sys.modules
    assert inspect.getdoc(config)
