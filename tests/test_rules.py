"""What a config may say about estimators, their horizons and outer losses, and whose task it may name."""

import json
from pathlib import Path
from typing import Any

import pytest

from metaopt import build, config
from metaopt.estimators import ESTIMATORS, WHOLE_RUNS


def parse(estimator: Any, *overrides: str, task: Any = "quadratic") -> config.RunConfig:
    raw = {"optimizer": "adafac_mlp", "estimator": estimator, "tasks": [task], "valid": None, "heldout": None}
    return config.parse(raw, "run.yaml", overrides)


def problem(estimator: Any, *overrides: str, task: Any = "quadratic") -> str:
    with pytest.raises(config.ConfigError) as caught:
        parse(estimator, *overrides, task=task)
    (only,) = caught.value.problems
    return str(only).removeprefix("run.yaml: ")


def resolved(estimator: Any, *overrides: str) -> dict[str, Any]:
    """The resolved entry; a config made of it must be equal."""
    run = parse(estimator, *overrides)
    again = config.resolved(run)
    assert config.parse(again, "again") == run
    assert json.loads(json.dumps(again)) == again
    return again["estimator"]


def test_a_horizon_is_a_number_a_range_or_a_law() -> None:
    assert resolved("pes")["horizon"] == 200
    assert resolved({"name": "pes", "horizon": [100, 200]})["horizon"] == [100, 200]
    assert resolved("pes", "estimator.horizon=uniform")["horizon"] == {"name": "uniform", "low": 100, "high": 1000}
    law = {"name": "curriculum", "low": 20, "high": 40}
    assert resolved({"name": "es", "horizon": law})["horizon"] == {**law, "over": 1000}
    assert resolved({"name": "es", "horizon": law}, "estimator.horizon.over=7")["horizon"] == {**law, "over": 7}


def test_an_outer_loss_has_its_defaults() -> None:
    default = {"name": "mean", "split": "train", "scale": "normalised", "batches": 0}
    assert resolved("tbptt")["outer_loss"] == default
    assert resolved("tbptt", "estimator.outer_loss=final")["outer_loss"] == default | {"name": "final"}
    assert resolved("tbptt", "estimator.outer_loss.scale=log")["outer_loss"] == default | {"scale": "log"}
    given = {"name": "weighted", "weights": [0.0, 2.0]}
    assert resolved({"name": "tbptt", "outer_loss": given})["outer_loss"] == default | given


def test_what_is_wrong_with_a_horizon() -> None:
    multiple = "expected a multiple of truncation (20), got"
    assert problem({"name": "pes", "horizon": 30}) == f"estimator.horizon: {multiple} 30"
    assert problem({"name": "pes", "horizon": [20, 50]}) == f"estimator.horizon: {multiple} (20, 50)"
    assert problem({"name": "pes", "horizon": [40, 20]}) == (
        "estimator.horizon: expected the shorter horizon first, got (40, 20)"
    )
    assert problem({"name": "pes", "horizon": 0}) == "estimator.horizon: expected a positive number, got 0"
    law = {"name": "uniform", "low": 40, "high": 70}
    assert problem({"name": "pes", "horizon": law}) == f"estimator.horizon.high: {multiple} 70"
    assert problem({"name": "pes", "horizon": law | {"high": 20}}) == (
        "estimator.horizon.low: expected at most high (20), got 40"
    )
    assert problem({"name": "pes", "horizon": law | {"low": -20}}) == (
        "estimator.horizon.low: expected a positive number, got -20"
    )
    assert problem({"name": "pes", "horizon": "unifrom"}) == (
        "estimator.horizon.name: expected one of constant, uniform, log_uniform, curriculum, got unifrom; "
        "did you mean uniform?"
    )
    assert problem({"name": "pes", "horizon": 1.5}) == (
        "estimator.horizon: expected int | tuple[int, int] or one of constant, uniform, log_uniform, curriculum, "
        "got 1.5"
    )
    assert problem({"name": "gpes", "period": 30}) == f"estimator.period: {multiple} 30"
    assert problem({"name": "nres", "period": 40}) == (
        "estimator.period: expected null: in nres a perturbation lasts the whole run, got 40"
    )


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_minimum_is_of_whole_runs(name: str) -> None:
    given = {"name": name, "outer_loss": "minimum"}
    if name in WHOLE_RUNS:
        assert resolved(given)["outer_loss"]["name"] == "minimum"
    else:
        assert problem(given) == (
            f"estimator.outer_loss.name: expected mean, weighted or final: {name} sees truncations, the minimum is of "
            "whole runs (full_grad, es), got minimum"
        )


def test_other_splits_need_batches() -> None:
    assert problem({"name": "es", "outer_loss": {"split": "inner_valid"}}) == (
        "estimator.outer_loss.batches: expected a positive number for split inner_valid, which no step trains on, got 0"
    )
    assert problem({"name": "es", "outer_loss": {"batches": -1}}) == (
        "estimator.outer_loss.batches: expected a positive number, or 0, got -1"
    )
    assert problem({"name": "es", "outer_loss": {"split": "valid"}}) == (
        "estimator.outer_loss.split: expected Literal['train', 'inner_valid', 'outer_valid'], got valid"
    )


@pytest.mark.parametrize("name", ESTIMATORS)
def test_std_may_be_zero_where_that_is_its_default(name: str) -> None:
    given = {"name": name, "std": 0.0}
    if name in ("tbptt", "full_grad"):
        assert resolved(given)["std"] == 0.0
        assert problem(given | {"std": -1.0}) == "estimator.std: expected 0 or a positive number, got -1.0"
    else:
        assert problem(given) == "estimator.std: expected a positive number, got 0.0"


@pytest.mark.parametrize("name", ESTIMATORS)
def test_one_word_switches(name: str) -> None:
    """The arguments that all estimators share are those of a config for any other; it can be built."""
    shared = {"num_tasks": 2, "truncation": 5, "std": 0.1, "outer_loss": {"name": "final", "scale": "log"}}
    run = parse({"name": name, "horizon": {"name": "uniform", "low": 5, "high": 10}, **shared})
    estimator = build.estimator(run.estimator, build.task(run.tasks[0]), build.optimizer(run.optimizer))
    assert estimator.inner_steps % (2 * 5) == 0


def test_a_refusal_of_the_factory_names_the_key() -> None:
    run = parse({"name": "es", "outer_loss": {"name": "weighted", "weights": [0.0, -1.0]}})
    with pytest.raises(build.RunError, match=r"^estimator.outer_loss \(weighted\): weights: "):
        build.estimator(run.estimator, build.task(run.tasks[0]), build.optimizer(run.optimizer))


def test_a_task_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_tasks.py").write_text(
        "from metaopt.tasks.quadratic import quadratic\n"
        "def line(dim: int = 3, condition: float | None = None): return quadratic(dim, condition)\n"
    )
    monkeypatch.chdir(tmp_path)
    run = parse("es", task={"name": "own_tasks:line", "dim": 4})
    assert run.tasks[0].kwargs == {"dim": 4, "condition": None}
    assert build.task(run.tasks[0]).init({}, build.jax.random.key(0))["x"].shape == (4,)
    assert build.labels(run.tasks) == ["own_tasks:line-dim=4"]
    assert problem("es", task={"name": "own_tasks:line", "dims": 4}) == (
        "tasks.0.dims: expected a keyword of line (dim, condition), got dims; did you mean dim?"
    )
    assert problem("es", task="own_tasks:lin") == (
        "tasks.0.name: expected a function of module own_tasks, got own_tasks:lin"
    )
    assert problem("es", task="no_tasks:line") == (
        "tasks.0.name: expected MODULE:FUNCTION, of an importable module or a file in the working directory, "
        "got no_tasks:line"
    )


def test_what_wraps_a_held_out_task_is_held_out() -> None:
    raw = {"optimizer": "adafac_mlp", "estimator": "es", "tasks": ["quadratic"], "valid": None}
    raw["tasks"] = [{"name": "reparametrized", "base": {"name": "image_mlp", "dataset": "wine"}}]
    with pytest.raises(config.ConfigError, match=r"tasks.0: .*never trained on, got image_mlp on wine"):
        config.parse(raw, "run.yaml")
    run = config.parse(raw | {"heldout": None}, "run.yaml")
    assert build.labels(run.tasks) == ["reparametrized(image_mlp-wine)"]
