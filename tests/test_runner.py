"""The run loop, around an outer problem with a gradient in closed form: what it writes, and that nothing stops it."""

import io
import json
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from metaopt import checkpoint, record, runner
from metaopt.train import Family, RunError, make_train
from metaopt.types import Estimator, LearnedOptimizer

CONFIG = {"steps": 11, "tasks": [{"name": "bowl"}]}
TEXT = json.dumps(CONFIG)
OPTIMIZER = LearnedOptimizer(lambda key: {"w": jax.random.normal(key, (3,))}, lambda theta, num_steps: optax.sgd(0.1))


def estimate(theta, state, data, key):
    grad = {"w": theta["w"] - 1 + jax.random.normal(key, (3,))}
    return grad, state + 1, {"meta_loss": jnp.sum((theta["w"] - 1) ** 2) / 2, "diverged": jnp.zeros(())}


INIT, STEP = make_train(
    OPTIMIZER,
    [Family("bowl", Estimator(lambda theta, key: jnp.zeros((2,)), estimate, 7))],
    optax.adam(optax.cosine_decay_schedule(0.1, 11)),
)
PLAN = runner.Plan(
    config=TEXT,
    copies={"start.safetensors": ({"w": jnp.ones(3)}, {"outer_step": 0})},
    init=INIT,
    step=STEP,
    data=(None,),
    families={"bowl": 7},
    origins={"bowl": {"dataset": "digits", "sha256": "0" * 64, "synthetic": False}},
    steps=11,
    chunk=2,
    checkpoint_every=3,
    seed=5,
    meta={"optimizer": {"name": "fake"}},
    whole=lambda theta: theta,
    validate=lambda theta: float(np.abs(np.asarray(theta["w"])).sum()),
    valid_every=4,
    finish=lambda folder, theta, summary: {**summary, "heldout": "done"},
    tensorboard=False,
)


def run(out: Path, plan: runner.Plan = PLAN, resume: bool = False) -> str:
    """Returns what was printed."""
    console = Console(file=io.StringIO(), width=200)
    if runner.wanted(out, CONFIG, lambda path: json.loads(path.read_text()), resume):
        runner.run(plan, out, console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(out)
    return out


def assert_same(out: Path, whole: Path) -> None:
    for name in ("theta.safetensors", "last.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    rows, expected = (record.read_rows(folder / "metrics.jsonl") for folder in (out, whole))
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in expected]
    assert (
        json.loads((out / "summary.json").read_text())["best"]
        == json.loads((whole / "summary.json").read_text())["best"]
    )


def test_the_folder_of_a_run(whole):
    assert sorted(os.listdir(whole)) == [
        *("checkpoints", "config.yaml", "environment.json", "last.safetensors"),
        *("metrics.jsonl", "start.safetensors", "summary.json", "theta.safetensors"),
    ]
    assert {path.stem for path in (whole / "checkpoints").iterdir()} == {"6", "10", "11"}
    rows = record.read_rows(whole / "metrics.jsonl")
    assert [row["outer_step"] for row in rows] == list(range(1, 12))
    assert [row["outer_step"] for row in rows if "valid/score" in row] == [4, 8, 11]
    environment = json.loads((whole / "environment.json").read_text())
    assert environment[0]["versions"]["jax"] == jax.__version__
    assert environment[0]["data"] == PLAN.origins
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["heldout"] == "done"
    assert summary["inner_steps"] == 77


def test_best_and_last_weights(whole):
    rows = record.read_rows(whole / "metrics.jsonl")
    scores = {row["outer_step"]: row["valid/score"] for row in rows if "valid/score" in row}
    theta, meta = checkpoint.read_weights(whole / "theta.safetensors")
    assert meta["outer_step"] == min(scores, key=scores.get)
    assert np.abs(theta["w"]).sum() == pytest.approx(min(scores.values()), rel=1e-6)
    assert checkpoint.read_weights(whole / "last.safetensors")[1]["outer_step"] == 11


def test_without_validation_the_last_weights_are_the_best(tmp_path):
    run(tmp_path / "a", PLAN._replace(validate=None))
    assert (tmp_path / "a/theta.safetensors").read_bytes() == (tmp_path / "a/last.safetensors").read_bytes()


class Crash(Exception):
    pass


@pytest.mark.parametrize("call", range(1, 7))
def test_a_run_that_dies_in_any_chunk(tmp_path, whole, call):
    calls = []

    def step(*args):
        calls.append(1)
        if len(calls) == call:
            raise Crash
        return STEP(*args)

    with pytest.raises(Crash):
        run(tmp_path / "a", PLAN._replace(step=step))
    run(tmp_path / "a", resume=True)
    assert_same(tmp_path / "a", whole)


@pytest.mark.parametrize("place", ["write_environment", "append_rows", "truncate_rows"])
def test_a_run_that_dies_while_writing(tmp_path, whole, place, monkeypatch):
    def dying(*args):
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(record, place, dying)
        run(tmp_path / "a")
    run(tmp_path / "a", resume=True)
    assert_same(tmp_path / "a", whole)


def test_a_run_that_dies_between_metrics_and_checkpoint(tmp_path, whole, monkeypatch):
    save = checkpoint.save_state

    def dying(folder, step, *args):
        if step == 6:
            raise Crash
        save(folder, step, *args)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(checkpoint, "save_state", dying)
        run(tmp_path / "a")
    assert len(record.read_rows(tmp_path / "a/metrics.jsonl")) == 6
    run(tmp_path / "a", resume=True)
    assert_same(tmp_path / "a", whole)


def test_a_half_written_line_is_written_again(tmp_path, whole):
    def dying(theta):
        raise Crash

    with pytest.raises(Crash):
        run(tmp_path / "a", PLAN._replace(validate=dying))
    with (tmp_path / "a/metrics.jsonl").open("a") as file:
        file.write('{"outer_step": 3, "meta_l')
    run(tmp_path / "a", resume=True)
    assert_same(tmp_path / "a", whole)


def test_a_run_that_dies_in_the_final_evaluation(tmp_path, whole):
    def dying(folder, theta, summary):
        raise Crash

    with pytest.raises(Crash):
        run(tmp_path / "a", PLAN._replace(finish=dying))
    assert "resuming after outer step 11 of 11" in run(tmp_path / "a", resume=True)
    assert_same(tmp_path / "a", whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_go_on(tmp_path, whole, number, code):
    def validate(theta):
        os.kill(os.getpid(), number)
        return PLAN.validate(theta)

    before = signal.getsignal(number)
    console = Console(file=io.StringIO(), width=200)
    out = tmp_path / "a"
    with pytest.raises(runner.Interrupted) as caught:
        runner.run(PLAN._replace(validate=validate), out, console)
    assert caught.value.code == code
    assert signal.getsignal(number) is before
    assert f"go on with: metaopt train {out}/config.yaml --out {out} --resume" in console.file.getvalue()
    assert len(record.read_rows(out / "metrics.jsonl")) == 4
    assert "resuming after outer step 4 of 11" in run(out, resume=True)
    assert_same(out, whole)


def test_ctrl_c_in_the_final_evaluation(tmp_path, whole):
    def finish(folder, theta, summary):
        raise KeyboardInterrupt

    with pytest.raises(runner.Interrupted) as caught:
        run(tmp_path / "a", PLAN._replace(finish=finish))
    assert caught.value.code == 130
    run(tmp_path / "a", resume=True)
    assert_same(tmp_path / "a", whole)


def test_a_damaged_newest_checkpoint_costs_time_only(tmp_path, whole):
    def dying(theta):
        if len(record.read_rows(tmp_path / "a/metrics.jsonl")) > 5:
            raise Crash
        return PLAN.validate(theta)

    with pytest.raises(Crash):
        run(tmp_path / "a", PLAN._replace(validate=dying))
    newest = tmp_path / "a/checkpoints/6"
    damaged = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-3])
    with pytest.warns(RuntimeWarning, match=f"{damaged} has"):
        assert "resuming after outer step 4 of 11" in run(tmp_path / "a", resume=True)
    assert_same(tmp_path / "a", whole)


def test_a_folder_with_a_run_is_not_taken(tmp_path, whole):
    with pytest.raises(RunError, match="already holds a run: go on with it by --resume, choose another --out"):
        run(whole)
    files = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    run(whole, resume=True)  # is over: rewrites nothing
    assert files == {path: path.stat().st_mtime_ns for path in whole.rglob("*")}


def test_resuming_where_nothing_was_begun_starts(tmp_path, whole):
    run(tmp_path / "a", resume=True)
    assert_same(tmp_path / "a", whole)


def test_several_families_are_timed_by_the_program_that_trains(tmp_path):
    """Once a start, and nothing of the run depends on it: the families' draws and the metrics stay as they are."""
    traces = []

    def counted(*args):
        traces.append(1)
        return estimate(*args)

    estimators = [Estimator(lambda theta, key: jnp.zeros((2,)), lambda *args: counted(*args), 7) for _ in range(2)]
    families = [Family("bowl", estimators[0]), Family("cup", estimators[1])]
    init, step = make_train(OPTIMIZER, families, optax.sgd(0.1))
    plan = PLAN._replace(init=init, step=step, data=(None, None), families={"bowl": 7, "cup": 7}, chunk=11)
    printed = run(tmp_path / "a", plan)
    summary = json.loads((tmp_path / "a/summary.json").read_text())
    assert set(summary["throughput"]) == {"bowl", "cup"}
    assert all(rate is None or rate > 0 for rate in summary["throughput"].values())
    assert summary["inner_steps"] == 11 * 14
    assert "inner steps/s of each family alone: bowl " in printed
    assert len(traces) == 2
    state, metrics = step(init(jax.random.key(5)), (None, None), 11)
    last, _ = checkpoint.read_weights(tmp_path / "a/last.safetensors")
    np.testing.assert_array_equal(last["w"], state.theta["w"])


def test_another_config_cannot_resume(whole):
    other = {"steps": 12, "tasks": [{"name": "bowl", "dim": 3}, {"name": "cup"}]}
    with pytest.raises(RunError) as caught:
        runner.wanted(whole, other, lambda path: json.loads(path.read_text()), True)
    lines = str(caught.value).splitlines()
    assert "schedules depend on" in lines[0]
    assert lines[1:] == [
        "  steps: 11 there, 12 here",
        "  tasks.0.dim: nothing there, 3 here",
        "  tasks.1.name: nothing there, 'cup' here",
    ]


def test_tensorboard_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(RunError, match=r"pip install 'metaopt-jax\[log\]'"):
        run(tmp_path / "a", PLAN._replace(tensorboard=True))
