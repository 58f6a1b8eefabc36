"""From configs to running code, with the real registries."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from metaopt import build, commands, config, sharding, train
from metaopt.entry import Entry
from metaopt.evaluate.trials import Cache
from metaopt.evaluation import Settings
from metaopt.tasks import TASKS
from metaopt.tasks.suites import SUITES
from metaopt.train import RunError
from metaopt.types import Task

RAW = {
    "steps": 20,
    "optimizer": "hyper",
    "estimator": {"name": "pes", "num_tasks": 4, "truncation": 3, "horizon": 9},
    "tasks": [{"name": "quadratic", "weight": 3.0}, {"name": "quadratic", "dim": 3}],
    "outer": {"learning_rate": 0.05},
    "valid": None,
    "heldout": None,
}


def parse(**changes) -> config.RunConfig:
    return config.parse({**RAW, **changes}, "test")


def make(settings: config.RunConfig):
    learned = build.optimizer(settings.optimizer)
    members = build.families(settings, learned)
    init, step = train.make_train(learned, members, build.outer(settings.outer, settings.steps))
    return members, init(jax.random.key(0)), step


def test_families_are_named_and_weighted():
    settings = parse()
    members = build.families(settings, build.optimizer(settings.optimizer))
    assert [(family.name, family.weight) for family in members] == [("quadratic", 3.0), ("quadratic-dim=3", 1.0)]
    assert train.inner_steps(members) == 2 * 4 * 3 * 2


def test_labels():
    entries = [
        Entry(name="image_mlp", dataset="wine", hidden=[64, 64], activation="tanh"),
        Entry(name="image_mlp", hidden=[], dataset="digits"),
        Entry(name="quadratic"),
        Entry(name="quadratic", dim=10),
        Entry(name="quadratic"),
    ]
    assert build.labels(entries)[:2] == ["image_mlp-wine-hidden=64x64-activation=tanh", "image_mlp-digits-hidden=none"]
    assert len(set(build.labels(entries))) == 5
    for suite in SUITES.values():
        entries = [Entry(**entry) for entry in suite]
        assert len(set(build.labels(entries))) == len(entries)


def test_no_recompile_after_the_first_call(caplog):
    """On two devices, where a state whose sharding is not the one it came with would compile again."""
    members, state, step = make(parse())
    data = build.place(members)
    state, _ = step(state, data, 4)
    jax.config.update("jax_log_compiles", True)
    try:
        for _ in range(3):
            state, _ = step(state, data, 4)
    finally:
        jax.config.update("jax_log_compiles", False)
    assert jax.device_count() == 2
    assert not [record for record in caplog.records if "step" in record.getMessage()]


def test_the_number_of_devices_does_not_matter(monkeypatch):
    """Means over runs are summed in another order: equal to rounding, here after 20 outer steps."""
    thetas = []
    for devices in (1, 2):
        monkeypatch.setattr(sharding, "mesh", lambda n=devices: Mesh(np.array(jax.devices()[:n]), (sharding.AXIS,)))
        members, state, step = make(parse(tasks=["quadratic"]))
        state, metrics = step(state, build.place(members), 20)
        thetas.append(jax.tree.map(np.asarray, (state.theta, metrics)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *thetas)


def test_outer_optimizer_against_optax():
    settings = parse(
        outer={"optimizer": {"name": "adam", "b1": 0.8}, "learning_rate": 0.1, "schedule": "linear", "clip": 0.5}
    )
    ours = build.outer(settings.outer, 20)
    theirs = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(optax.linear_schedule(0.1, 0.0, 20), b1=0.8))
    theta = {"w": jnp.array([1.0, -2.0, 3.0])}
    states = [ours.init(theta), theirs.init(theta)]
    for i in range(3):
        grads = {"w": jnp.array([1.0, 2.0, -3.0]) * (i + 1)}
        updates = []
        for j, tx in enumerate((ours, theirs)):
            update, states[j] = tx.update(grads, states[j], theta)
            updates.append(update["w"])
        np.testing.assert_array_equal(*updates)


def test_an_argument_that_a_factory_refuses_is_named_by_its_key(monkeypatch):
    def picky(size: int = 3) -> Task:
        raise ValueError("size: must be even, got 3")

    monkeypatch.setitem(TASKS, "picky", picky)
    with pytest.raises(RunError, match=r"tasks.0 \(picky\): size: must be even, got 3"):
        build.task(Entry(name="picky"), "tasks.0")
    with pytest.raises(RunError, match=r"optimizer \(hyper\): base: optax has no optimizer 'adm'"):
        build.optimizer(Entry(name="hyper", base="adm"))


def test_validation_leaves_out_what_this_machine_lacks(monkeypatch, capsys):
    monkeypatch.setitem(
        SUITES, "valid_small", ({"name": "image_mlp", "dataset": "tfds:none_such"}, {"name": "quadratic"})
    )
    settings = parse(valid={"every": 5, "steps": 4, "seeds": 1}, steps=5)
    learned = build.optimizer(settings.optimizer)
    score = commands._validation(settings, learned, commands.Console())
    assert "validation leaves out image_mlp-tfds:none_such: " in capsys.readouterr().out
    assert np.isfinite(score(learned.init(jax.random.key(0))))
    monkeypatch.setitem(SUITES, "valid_small", ({"name": "image_mlp", "dataset": "tfds:none_such"},))
    with pytest.raises(RunError, match="valid.suite: this machine has the data of no task in valid_small"):
        commands._validation(settings, learned, commands.Console())


def test_a_whole_run_and_its_evaluation(monkeypatch, tmp_path, capsys):
    cache = Cache(tmp_path / "curves")
    monkeypatch.setattr(commands, "cache_folder", lambda: cache.folder)
    monkeypatch.setitem(SUITES, "valid_small", ({"name": "quadratic", "dim": 3},))
    monkeypatch.setitem(SUITES, "heldout_small", ({"name": "quadratic"},))
    settings = parse(
        tasks=[{"name": "image_mlp", "hidden": [4]}],
        valid={"every": 10, "steps": 10, "seeds": 2},
        heldout={"steps": 10, "seeds": 2},
        chunk=5,
    )
    out = tmp_path / "run"
    commands.run(settings, out)
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert {row["optimizer"] for row in rows} == {"hyper", "adam:lr=0.001", "adam@14"}
    assert json.loads((out / "summary.json").read_text())["heldout"]["runs"] == 2
    (out / "report.html").unlink()
    commands.run(settings, out, resume=True)
    assert (out / "report.html").exists()
    assert (out / "curves.png").exists()
    assert "below tuned Adam on" in capsys.readouterr().out

    file = tmp_path / "rows.json"
    again = commands.evaluate([str(out)], Settings("heldout_small", 10, 2), 14, tmp_path / "eval", cache, file)
    numbers = [[{**row, "optimizer": ""} for row in part] for part in (again["rows"], rows)]
    assert numbers[0] == numbers[1] and again["contenders"]["run"]["kind"] == "learned"
    assert json.loads((tmp_path / "eval" / "results.json").read_text()) == again
    assert (tmp_path / "eval" / "report.html").exists()
    short = json.loads(file.read_text())
    keys = ["task", "optimizer", "seed", "steps", "final_loss", "speedup_over_tuned_adam", "diverged"]
    assert all(list(row) == keys for row in short)
    assert [row["speedup_over_tuned_adam"] for row in short] == [row["speedup"] for row in again["rows"]]
    assert [row["final_loss"] for row in short] == [row["final_loss"] for row in again["rows"]]
    with pytest.raises(RunError, match="is no folder"):
        commands.evaluate([str(out)], Settings("heldout_small", 10, 2), 14, None, cache, tmp_path / "no" / "rows.json")
    assert config.resolved(config.load(out / "config.yaml")) == config.resolved(settings)


def test_a_report_of_nothing(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        commands.report(tmp_path)
