"""Configs: every error at once and located, overrides, and files that can be launched again."""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaopt import config, registry

FAKE = '''
def net(hidden: int = 4, exp_mult: float = 1e-3, sizes: tuple[int, ...] = (8,)): """A net.

    hidden: units of a layer"""
def bare(width: int): "Needs a width."
def mixed(base: str = "adam", learnable: dict[str, float] = {"learning_rate": 1e-3}, flag: bool = False, any=None):
    "Mixed."
def pes(task, optimizer, *, num_tasks: int = 8, truncation: int = 20, horizon: int | tuple[int, int] = 200,
        std: float = 0.01, clip: float | None = None): "PES."
def image(dataset: str = "digits", hidden: tuple[int, ...] = (32,)): "An image task."
def quad(dims: int = 10): "A quadratic."
def digits(): "Digits."
def wine(): "Wine."
def constant(peak: float, steps: int): "Constant."
def cosine(peak: float, steps: int): "Cosine."
OPTIMIZERS = {"net": net, "bare": bare, "mixed": mixed}
ESTIMATORS = {"pes": pes}
TASKS = {"image": image, "quad": quad}
DATASETS = {"digits": digits, "wine": wine}
SCHEDULES = {"constant": constant, "cosine": cosine}
SUITES = {"valid_small": ({"name": "quad", "dims": 3},), "heldout_small": ({"name": "image", "dataset": "wine"},)}
'''
MINIMAL = {"optimizer": "net", "estimator": "pes", "tasks": [{"name": "image"}]}


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test reads the registries of a small package of its own."""
    name = f"fake_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    for kind in registry.REGISTRIES:
        monkeypatch.setitem(registry.REGISTRIES, kind, (name, kind.upper()))
    monkeypatch.setattr(registry, "SUITES", (name, "SUITES"))


def parse(*overrides: str, **changes: Any) -> config.RunConfig:
    return config.parse({**MINIMAL, **changes}, "run.yaml", overrides)


def errors(*overrides: str, **changes: Any) -> list[str]:
    with pytest.raises(config.ConfigError) as caught:
        parse(*overrides, **changes)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


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
        "optimizer.name: expected one of net, bare, mixed, got nett; did you mean net?",
        "estimator.stdd: expected a keyword of pes (num_tasks, truncation, horizon, std, clip), got stdd; "
        "did you mean std?",
        "estimator.task: expected no task here, the program supplies it, got 1",
        "estimator.num_tasks: expected a positive number, got 0",
        "estimator.horizon: expected a multiple of truncation (20), got (210, 100)",
        "estimator.horizon: expected the shorter horizon first, got (210, 100)",
        "tasks.0.dataset: expected one of digits, wine or tfds:NAME, got digit; did you mean digits?",
        "tasks.1.weight: expected greater than 0, got -1",
        "tasks.2: expected a valid dictionary or instance of WeightedEntry, got 3",
        "outer.optimizer.name: expected the name of an optax optimizer, got adm; did you mean adam?",
        "outer.schedule: expected one of constant, cosine, got cosin; did you mean cosine?",
        "outer.clip: expected greater than 0, got 0.0",
        "valid.suite: expected one of valid_small, heldout_small, got valid_smal; did you mean valid_small?",
        "valid.every: expected a valid integer, got often",
        "heldout.step: expected one of suite, steps, seeds, got step; did you mean steps?",
        "seeed: expected one of seed, steps, optimizer, estimator, tasks, outer, chunk, checkpoint_every, valid, "
        "heldout, tensorboard, got seeed; did you mean seed?",
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


def test_warmup_ends_before_the_run() -> None:
    assert errors("outer.warmup=11", steps=10) == [
        "override outer.warmup=11: outer.warmup: expected at most steps (10), got 11"
    ]


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
    assert run.outer.optimizer.kwargs["b1"] == 0.5 and run.outer.schedule == "cosine"
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


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("steps: 10\noptimizer: {name: net, exp_mult: 1e-4}\nestimator: pes\ntasks: [quad]\n")
    run = config.load(file, ["seed=4"])
    assert (run.seed, run.steps, run.optimizer.kwargs["exp_mult"]) == (4, 10, 1e-4)
    for text, expected in [("a: [", "YAML"), ("- 1", "a mapping"), ("seed: 1\nseed: 2", "YAML"), ("", "a value")]:
        file.write_text(text)
        with pytest.raises(config.ConfigError) as caught:
            config.load(file)
        assert caught.value.problems[0].origin == str(file)
        assert caught.value.problems[0].expected == expected
    with pytest.raises(config.ConfigError, match="expected a readable file, got No such file"):
        config.load(tmp_path / "none.yaml")


values = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**32 - 1),
        "steps": st.integers(100, 10**9),
        "optimizer": st.one_of(
            st.builds(lambda f, s: {"name": "net", "exp_mult": f, "sizes": s}, st.floats(), st.lists(st.integers())),
            st.builds(
                lambda base, learnable, anything: {
                    "name": "mixed",
                    "base": base,
                    "learnable": learnable,
                    "any": anything,
                },
                st.text()
                | st.sampled_from(["1e-3", "1_0e5", "null", "yes", "0x1", "1:30", "~", "2020-01-01", " a", "a: b"]),
                st.dictionaries(st.text(), st.floats(allow_nan=False)),
                st.none() | st.text() | st.lists(st.integers() | st.booleans()),
            ),
        ),
        "estimator": st.builds(
            lambda k, a, std: {"name": "pes", "truncation": k, "horizon": [k * a, 2 * k * a], "std": std},
            *(st.integers(1, 99), st.integers(1, 99), st.floats(1e-300, 1e300)),
        ),
        "outer": st.builds(
            lambda lr, clip: {"learning_rate": lr, "clip": clip, "optimizer": {"name": "sgd", "momentum": lr}},
            *(st.floats(1e-30, 1e30), st.none() | st.floats(1e-30, 1e30)),
        ),
        "valid": st.none(),
        "tensorboard": st.booleans(),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values)
def test_resolved_configs_launch_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = parse(**changes)
    file = tmp_path / "again.yaml"
    file.write_text(config.to_yaml(run), encoding="utf-8")
    again = config.load(file)
    assert config.to_yaml(again) == config.to_yaml(run)  # as text: NaN is equal to itself there
    if "nan" not in config.to_yaml(run):
        assert again == run
        assert config.resolved(again) == config.resolved(run)


def test_yaml_that_the_standard_loader_reads_too() -> None:
    run = parse()
    assert yaml.safe_load(config.to_yaml(run)) == config.resolved(run)
    assert json.loads(json.dumps(config.resolved(run))) == config.resolved(run)


def test_json_schema() -> None:
    schema = config.json_schema()
    entries = {entry.get("title"): entry for entry in schema["properties"]["optimizer"]["anyOf"]}
    assert entries["net"]["properties"]["hidden"] == {
        "type": "integer",
        "description": "int: units of a layer",
        "default": 4,
    }
    assert entries["net"]["additionalProperties"] is False and entries["net"]["description"] == "A net."
    assert entries["bare"]["required"] == ["name", "width"]
    (pes,) = (entry for entry in schema["properties"]["estimator"]["anyOf"] if "title" in entry)
    assert "task" not in pes["properties"] and pes["properties"]["std"]["default"] == 0.01
    tasks = schema["properties"]["tasks"]["items"]["anyOf"]
    assert all("weight" in entry["properties"] for entry in tasks if "title" in entry)
    outer = schema["$defs"]["Outer"]["properties"]
    assert outer["schedule"]["enum"] == ["constant", "cosine"]
    assert {"adam", "sgd", "lamb"} <= {entry.get("title") for entry in outer["optimizer"]["anyOf"]}
    assert json.dumps(schema) and schema["additionalProperties"] is False


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse().steps = 3  # type: ignore[misc]


def test_nothing_imports_the_registries() -> None:
    parse()
    assert registry.SUITES[0] not in sys.modules
    assert inspect.getdoc(config)
