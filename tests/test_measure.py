"""The table of `metaopt list tasks --measure`, on families whose numbers are known."""

import io

import jax
import numpy as np
import optax
from rich.console import Console
from typer.testing import CliRunner

from metaopt import cli, measure, unroll
from metaopt.data import DataError
from metaopt.tasks import TASKS
from metaopt.types import LearnedOptimizer


def test_a_network_on_data():
    """64·4 + 4 + 4·10 + 10 parameters; Adam's curve is that of `unroll`, its end a mean of ten minibatches."""
    task = TASKS["image_mlp"](hidden=(4,))
    row = measure.measure(task)
    assert row.parameters == 64 * 4 + 4 + 4 * 10 + 10
    adam = LearnedOptimizer(
        lambda key: (), lambda theta, num_steps: optax.with_extra_args_support(optax.adam(1e-3, b1=0.9, b2=0.999))
    )

    @jax.jit
    def curve(data):
        inner = unroll.start(task, adam, (), 1000, jax.random.key(0))
        return unroll.unroll(task, adam, (), inner, data, 1000)[1]

    losses = np.asarray(curve(jax.device_put(task.data())))
    want = losses[0], losses[-10:].mean()
    np.testing.assert_allclose(row.loss, want, rtol=1e-3)  # a thousand steps in float32, compiled differently
    np.testing.assert_allclose(row.normalized, np.array(row.loss) / np.log(10), rtol=1e-5)
    assert 0 < row.step < 0.1


def test_a_step_of_descent_is_what_is_timed(monkeypatch):
    """By a clock that ticks a second a look: a call takes one, and a step 1 / TIMED."""
    ticks = iter(range(1000))
    monkeypatch.setattr(measure.time, "process_time", lambda: float(next(ticks)))
    lengths = []
    original = unroll.unroll
    monkeypatch.setattr(unroll, "unroll", lambda *args, **kwargs: lengths.append(args[5]) or original(*args, **kwargs))
    task = TASKS["bowl"]()
    row = measure.measure(task)
    assert row.step == 1 / measure.TIMED
    keys = [jax.random.split(key, 3) for key in jax.random.split(jax.random.key(0), measure.MEMBERS)]
    losses = []
    for cfg_key, init_key, _ in keys:
        cfg = task.sample(cfg_key)
        losses.append(task.normalize(cfg, task.loss(cfg, task.init(cfg, init_key), (), cfg_key)[0]))
    np.testing.assert_allclose(row.fresh, np.mean(losses), rtol=1e-5)
    assert lengths == [measure.TIMED, measure.STEPS]


def test_what_is_absent_is_left_out_with_its_reason():
    def absent():
        raise DataError("not on this machine")

    said = []
    row = measure.Measured(12345, 1.5e-6, (2.0, 0.5), (1.0, 0.25), 0.75)
    assert measure.measure_all({"gone": absent}, said.append) == ({}, {"gone": "not on this machine"})
    assert said == ["measuring gone, 0 of 1 done"]
    console = Console(file=io.StringIO(), width=140)
    console.print(measure.table({"some": row}))
    assert [cell.strip() for cell in console.file.getvalue().strip().splitlines()[-1].split("|")[1:-1]] == [
        *("some", "12,345", "1.5", "2", "0.5", "1", "0.25", "0.75")
    ]


def test_only_tasks_are_measured(monkeypatch):
    monkeypatch.setattr(measure, "one_core", lambda: None)
    monkeypatch.setattr("metaopt.tasks.TASKS", {"gone": lambda: (_ for _ in ()).throw(DataError("no [such] data"))})
    runner = CliRunner()
    assert "left out gone: no [such] data" in runner.invoke(cli.app, ["list", "tasks", "--measure"]).output
    refused = runner.invoke(cli.app, ["list", "suites", "--measure"])
    assert refused.exit_code == 2 and "--measure is for" in refused.output
