"""The command line answers quickly (jax is not imported) and in plain words (no traceback)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from metaopt import cli, config, registry, runtime
from metaopt.config import ConfigError, Problem
from metaopt.evaluate.trials import Cache
from metaopt.evaluation import Settings

# Runs the command line and then tells, on the last line of stderr, which of the slow modules came along.
SCRIPT = """
import sys
from metaopt.cli import main
try:
    main()
finally:
    print("imported:", sorted({"jax", "numpy", "optax"} & set(sys.modules)), file=sys.stderr)
"""
GOOD = "optimizer: adafac_mlp\nestimator: pes\ntasks: [{name: image_mlp, dataset: digits}]\n"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def quick(*arguments: str, code: int = 0) -> str:
    """Standard output, or standard error of a failure, of a command that must not need jax."""
    done = run(*arguments)
    *lines, imported = done.stderr.splitlines()
    assert imported == "imported: []"
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return "\n".join(lines) if code else done.stdout


def test_help() -> None:
    text = quick("--help")
    for command in ("train", "eval", "import", "list", "config", "report"):
        assert f"\n  {command}" in text
    assert "KEY=VALUE" in quick("train", "--help")


def test_list_has_every_entry() -> None:
    text = quick("list")
    for kind in registry.REGISTRIES:
        for name in registry.registry(*registry.REGISTRIES[kind]):
            assert name in text
    for name in registry.literal(*registry.SUITES):
        assert name in text
    assert set(cli.Registry) == {*registry.REGISTRIES, "suites"}
    facts = registry.literal(*registry.FACTS)["adafac_mlp"]
    assert facts == (197, 4.0, ())
    row = next(line for line in text.splitlines() if "│ adafac_mlp" in line)
    assert [cell.strip() for cell in row.split("│")[2:5]] == ["197", "4", "-"]
    assert "truncation=" in quick("list", "estimators") and "image_mlp" not in quick("list", "estimators")


@pytest.mark.parametrize("command", ["train", "config"])
def test_config_errors(command: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(GOOD + "stepss: 3\n")
    text = quick(command, str(file), "estimator.stdd=[red]", code=2)
    assert f"{file}: stepss" in text and "did you mean steps?" in text
    assert "override estimator.stdd=[red]: estimator.stdd" in text and "did you mean std?" in text
    assert not (tmp_path / "runs").exists()
    assert "No such file" in quick(command, str(tmp_path / "none.yaml"), code=2)


def test_wrong_usage() -> None:
    assert "did you mean heldout_small?" in quick("eval", "weights.safetensors", "--suite", "heldout_smal", code=2)
    assert "FILE" in quick("config", code=2)
    assert "weights" in quick("list", "weights", code=2)


def test_import_checks_the_architecture_first() -> None:
    arguments = ("import", "none.state", "-o", "none.safetensors")
    text = quick(*arguments, "--as", "adafac", code=2)
    assert "--as adafac: name" in text and "did you mean adafac_mlp?" in text
    assert "did you mean hidden?" in quick(*arguments, "--as", "mlp", "hiden=3", code=2)
    assert "one of mlp, rnn_mlp, adafac_mlp, " in quick(*arguments, "--as", "hyper", code=2)
    assert "--out" in quick(*arguments[:2], "--as", "mlp", code=2)


def test_config_prints_a_file_to_launch(tmp_path: Path) -> None:
    file, again = tmp_path / "run.yaml", tmp_path / "again.yaml"
    file.write_text(GOOD)
    again.write_text(quick("config", str(file), "estimator.std=2e-2"))
    assert yaml.safe_load(again.read_text())["estimator"]["std"] == 0.02
    assert config.load(again) == config.load(file, ["estimator.std=2e-2"])


def test_schema() -> None:
    schema = json.loads(quick("config", "--schema"))
    titles = [entry.get("title") for entry in schema["properties"]["optimizer"]["anyOf"]]
    assert titles[1:] == list(registry.registry(*registry.REGISTRIES["optimizers"]))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The calls that reach `metaopt.commands`, which is replaced; JAX is left as it is."""
    made: list[tuple[Any, ...]] = []
    commands: Any = ModuleType("metaopt.commands")
    commands.run = lambda settings, out, *, resume: made.append(("run", settings, out, resume))
    commands.evaluate = lambda *arguments: made.append(("evaluate", *arguments))
    commands.report = lambda folder: made.append(("report", folder))
    commands.import_weights = lambda file, entry, out, force: made.append(("import", file, entry.kwargs, out, force))
    monkeypatch.setitem(sys.modules, "metaopt.commands", commands)
    monkeypatch.setattr("metaopt.commands", commands, raising=False)
    monkeypatch.setattr(runtime, "setup", lambda: made.append(("setup",)))
    return made


def invoke(*arguments: str) -> None:
    cli.app([*arguments], standalone_mode=False)


def test_commands_call_build(calls: list[tuple[Any, ...]], tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(GOOD)
    invoke("train", str(file), "steps=3")
    invoke("train", str(file), "--out", "x", "--resume")
    assert calls == [
        ("setup",),
        ("run", config.load(file, ["steps=3"]), Path("runs/small"), False),
        ("setup",),
        ("run", config.load(file), Path("x"), True),
    ]
    calls.clear()
    options = ["--suite", "valid_small", "--steps", "5", "--seeds", "2", "--sweep", "width", "--cache", "c"]
    invoke("eval", "w.safetensors", "sgd", *options, "--json", "r")
    invoke("report", "runs/small")
    compared = Settings("valid_small", 5, 2, ("width",))
    assert calls == [
        ("setup",),
        ("evaluate", ["w.safetensors", "sgd"], compared, 14, None, Cache(Path("c")), Path("r")),
        ("report", Path("runs/small")),
    ]
    calls.clear()
    invoke("import", "params", "--as", "velo", "-o", "velo.safetensors", "bank=32", "--force")
    _, (_, file, arguments, out, force) = calls
    assert (file, out, force) == (Path("params"), Path("velo.safetensors"), True)
    assert (arguments["lstm_hidden"], arguments["bank"], arguments["bank_mult"]) == (512, 32, 100.0)  # as published


def test_expected_errors_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from metaopt.checkpoint import CheckpointError
    from metaopt.data import DataError
    from metaopt.train import RunError

    problem = ConfigError([Problem("f.yaml", "a.b", "[int]", "x", "y")])
    for error in (problem, CheckpointError("no [bold]weights"), DataError("no data"), RunError("no run")):
        monkeypatch.setattr(cli, "app", lambda error=error: (_ for _ in ()).throw(error))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 2
    text = capsys.readouterr().err
    assert "f.yaml: a.b\n  expected [int], got x; did you mean y?" in text
    assert "no [bold]weights" in text and "no data" in text and "no run" in text
    monkeypatch.setattr(cli, "app", lambda: (_ for _ in ()).throw(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        cli.main()


@pytest.mark.parametrize(
    ("quota", "count"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8), ("", 8)]
)
def test_cores(quota: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(runtime, "Path", lambda path: SimpleNamespace(read_text=lambda: quota))
    assert runtime.cores() == count


@pytest.mark.parametrize(
    ("variables", "devices", "cache"),
    [
        ({}, None, "{home}/.cache/metaopt/jax"),
        ({"JAX_NUM_CPU_DEVICES": "3"}, 3, "{home}/.cache/metaopt/jax"),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5, "{home}/.cache/metaopt/jax"),
        ({"JAX_COMPILATION_CACHE_DIR": "/nowhere/cache"}, None, "/nowhere/cache"),
    ],
)
def test_setup_keeps_what_the_user_chose(
    variables: dict[str, str], devices: int | None, cache: str, tmp_path: Path
) -> None:
    script = (
        "from metaopt import runtime; runtime.setup(); import jax; "
        "print(jax.device_count(), runtime.cores(), jax.config.jax_compilation_cache_dir)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), "HOME": str(tmp_path)}
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"):
        environment.pop(name, None)
    environment |= {"JAX_PLATFORMS": "cpu", **variables}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    count, cores, folder = done.stdout.split()
    assert int(count) == (devices or int(cores))
    assert folder == cache.format(home=tmp_path)
