"""What a run writes down while it runs: metrics.jsonl, TensorBoard events, environment.json."""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metaopt.checkpoint import write_atomic

PACKAGES = ("metaopt-jax", "jax", "jaxlib", "optax", "numpy", "flax", "orbax-checkpoint", "safetensors")
VARIABLES = ("NPROC", "OMP_NUM_THREADS", "XLA_FLAGS", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES")

Row = dict[str, Any]


def rows_of(metrics: dict[str, np.ndarray], first: int) -> list[Row]:
    """One row per outer step: `outer_step` (steps taken, from `first` on) and the metrics; null where not finite."""
    columns = {name: [_number(x) for x in np.asarray(values)] for name, values in metrics.items()}
    length = len(next(iter(columns.values())))
    return [{"outer_step": first + i} | {name: column[i] for name, column in columns.items()} for i in range(length)]


def append_rows(path: Path, rows: list[Row]) -> None:
    """Adds lines to metrics.jsonl; they are with the operating system when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def truncate_rows(path: Path, step: int) -> None:
    """Drops the lines after outer step `step`, and a last line cut short: the resumed run writes them again."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["outer_step"] <= step]
    write_atomic(path, "".join(kept).encode())


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tensorboard(folder: Path, step: int) -> Callable[[list[Row]], None]:
    """Returns write(rows). Events after outer step `step` that an earlier start left are hidden.

    Raises ImportError without the package tensorboardX.
    """
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(rows: list[Row]) -> None:
        for row in rows:
            for name, value in row.items():
                if name != "outer_step" and value is not None:
                    writer.add_scalar(name, value, row["outer_step"])
        writer.flush()

    return write


def write_environment(path: Path, data: dict[str, Any]) -> None:
    """Adds this start of the run to environment.json: a list, as a run may go on with other versions, devices or data.

    data: what each family was given, see `build.origins`
    """
    starts = json.loads(path.read_text()) if path.exists() else []
    write_atomic(path, json.dumps([*starts, {**environment(), "data": data}], indent=1).encode())


def environment() -> dict[str, Any]:
    """Versions, devices, threads, git commit and command of this process."""
    devices = jax.local_devices()
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "platform": platform.platform(),
        "device": {"kind": devices[0].device_kind, "platform": devices[0].platform, "count": len(devices)},
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "git": _git(),
    }


def _number(x: Any) -> float | None:
    """Shortest decimal of a float32."""
    return float(str(np.float32(x))) if math.isfinite(x) else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of the checkout that this package is run from, and whether tracked files differ from it."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit, status = (
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "modified": bool(status)}
