"""Real runs in their own processes, ended by signals: the resumed run is the uninterrupted one, byte for byte."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metaopt import record

CONFIG = """
seed: 3
steps: 91
optimizer: {name: hyper, learnable: {learning_rate: 1e-3, b1: 0.9}}
freeze: b1
estimator: {name: pes, num_tasks: 2, truncation: 4, horizon: 20}
tasks:
  - {name: quadratic, weight: 2.0}
  - {name: quadratic, dim: 3}
outer: {learning_rate: 1e-2, schedule: cosine, warmup: 5, clip: 1.0, accumulate: 7}
chunk: 3
checkpoint_every: 5
valid: null
heldout: null
"""
ROOT = Path(__file__).parents[2]


class Runs:
    """A folder of runs of one config that share a compilation cache."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "config.yaml").write_text(CONFIG)
        cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
        self.env = {**os.environ, **cache}

    def start(self, name: str, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "metaopt", "train", "config.yaml", "--out", name, *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.env, **pipes)

    def lines(self, name: str) -> int:
        path = self.folder / name / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def wait_for_lines(self, name: str, count: int, process: subprocess.Popen) -> None:
        while self.lines(name) < count and process.poll() is None:
            time.sleep(0.01)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    """`whole` is a run that nobody disturbed."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    process = runs.start("whole")
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return runs


def assert_same(folder: Path, whole: Path) -> None:
    for name in ("start.safetensors", "theta.safetensors", "last.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    rows, expected = (record.read_rows(path / "metrics.jsonl") for path in (folder, whole))
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in expected]


def test_killed_ten_times(runs):
    """Five kills at random times from the start of the process, five a random while after some outer steps."""
    draw = random.Random(0)
    for kill in range(10):
        process = runs.start("killed", "--resume")
        if kill % 2:
            runs.wait_for_lines("killed", runs.lines("killed") + draw.randint(1, 15), process)
            time.sleep(draw.uniform(0.0, 0.3))
        else:
            time.sleep(draw.uniform(0.1, 4.0))
        process.kill()
        assert "damaged" not in process.communicate()[0]
    process = runs.start("killed", "--resume")
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert_same(runs.folder / "killed", runs.folder / "whole")


def test_sigterm_then_resume_past_a_damaged_checkpoint(runs):
    process = runs.start("stopped")
    runs.wait_for_lines("stopped", 20, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0]
    assert process.returncode == 143, output
    assert "go on with: metaopt train stopped/config.yaml --out stopped --resume" in output
    done = runs.lines("stopped")
    newest = runs.folder / "stopped" / "checkpoints" / str(done)
    path = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])
    process = runs.start("stopped", "--resume")
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert f"damaged checkpoint left out: {path} has" in output
    assert_same(runs.folder / "stopped", runs.folder / "whole")


def test_a_folder_with_a_run_is_refused(runs):
    process = runs.start("whole")
    output = process.communicate()[0]
    assert process.returncode == 2
    assert "already holds a run: go on with it by --resume" in output
    assert "Traceback" not in output
