"""Config files: read, written so that they can be launched again, and described by a schema."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaopt import config
from tests import config_fakes
from tests.config_fakes import parse


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test reads the registries of a small package of its own."""
    config_fakes.install(tmp_path, monkeypatch)


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
    names, _, cosine = outer["schedule"]["anyOf"]
    assert names == {"enum": ["constant", "cosine"]} and cosine["properties"].keys() == {"name", "dips"}
    assert {"learned", "adam", "sgd", "lamb"} <= {entry.get("title") for entry in outer["optimizer"]["anyOf"]}
    assert json.dumps(schema) and schema["additionalProperties"] is False
