"""The benchmarks run, and their figures are consistent. How fast anything is, is not for a test to say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "benchmarks"


def run(script: str, *arguments: str) -> dict:
    """What the script prints, as a fresh process: one line of JSON."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(FOLDER / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)


@pytest.mark.slow  # two cold compilations
def test_meta_train(tmp_path):
    arguments = ["--task", "quadratic", "--num-tasks", "2", "--truncation", "5", "--chunk", "3", "--repeats", "2"]
    result = run("meta_train.py", *arguments, "--cache", str(tmp_path), "tasks.0.dim=3", "estimator.std=0.1")
    assert (result["task"], result["optimizer"], result["estimator"]) == ("quadratic", "adafac_mlp", "pes")
    assert result["arguments"] == ["tasks.0.dim=3", "estimator.std=0.1"]
    assert result["inner_steps"] == result["num_tasks"] * result["truncation"] * 2 == 20
    assert result["recompiles"] == 0
    assert result["cache"] == str(tmp_path) and any(tmp_path.iterdir())
    per_second = 1e3 * result["inner_steps"] / result["outer_step_ms"]
    assert result["inner_steps_per_s"] == pytest.approx(per_second, rel=1e-3)
    ratio = result["inner_steps_per_s"] / result["sgd_inner_steps_per_s"]
    assert result["ratio_to_sgd"] == pytest.approx(ratio, rel=1e-3)
    assert result["best_inner_steps_per_s"] >= result["inner_steps_per_s"]
    assert result["first_step_s"] > 1e-3 * result["chunk"] * result["outer_step_ms"]
    assert result["peak_rss_mb"] > 50  # an interpreter with jax in it
    assert result["threads"] >= 1 and result["devices"] >= 1 and "jax" in result["versions"]


def test_a_wrong_name_is_a_usage_error():
    command = [sys.executable, str(FOLDER / "meta_train.py"), "--task", "quadratik"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2 and "quadratic" in done.stderr and "Traceback" not in done.stderr


def test_opt_update():
    result = run("opt_update.py", "--optimizer", "hyper", "--params", "5000", "--repeats", "3")
    assert result["optimizer"] == "hyper"
    assert result["params"] == pytest.approx(5000, rel=0.1)
    assert result["state_floats_per_param"] == 2.0  # Adam's two moments
    assert result["ratio"] == pytest.approx(result["update_ms"] / result["adamw_ms"], rel=1e-3)
    assert result["threads"] >= 1 and result["devices"] >= 1


def test_search():
    result = run("search.py", "--contender", "nadamw8p@6", "--task", "quadratic", "--steps", "10", "--seeds", "2")
    assert (result["contender"], result["task"]) == ("nadamw8p@6", "quadratic")
    assert result["inner_steps_per_s"] == pytest.approx(6 * 2 * 10 / result["run_s"], rel=1e-3)
    ratio = result["inner_steps_per_s"] / result["sgd_inner_steps_per_s"]
    assert result["ratio_to_sgd"] == pytest.approx(ratio, rel=1e-3)
    assert result["compile_s"] > 0 and result["peak_rss_mb"] > 50


def test_compiles_are_counted():
    """Once a new program, never an old one."""
    code = """
import jax, jax.numpy as jnp, _measure
counts, double = _measure.count_compiles(), jax.jit(lambda x: 2 * x)
x, y = jnp.ones(3), jnp.ones(4)
seen = [counts["compiled"]]
for argument in (x, x, y):
    double(argument)
    seen.append(counts["compiled"])
print(*[bool(b - a) for a, b in zip(seen, seen[1:])])
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{FOLDER}"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["True", "False", "True"]
