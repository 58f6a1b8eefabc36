"""What README.md says is so: its Python runs, its commands exist, its paths are there."""

import re
import shlex
from pathlib import Path

import jax
import pytest
import typer

from metaopt import cli, config, tasks

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line, comments=True) for line in TEXT.splitlines() if line.startswith("metaopt ")]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_two_commands():
    """Each on one line, at the top: the rest of the README comes after them."""
    lines = [line for line in blocks("sh")[0].splitlines() if line and not line.startswith("#")]
    start = "python3.11 -m venv .venv && . .venv/bin/activate && pip install "
    assert lines == [start + ". && metaopt train configs/quickstart.yaml", start + '".[test]" && pytest']
    assert TEXT.startswith("# metaopt\n\n```sh\n")


def test_the_task_of_ones_own(tmp_path, monkeypatch):
    """The file of the second block, named as the text below it names it."""
    name = re.search(r'tasks: \[\{name: "(\w+):(\w+)", noise: 0.2\}\]', TEXT)
    (tmp_path / f"{name[1]}.py").write_text(blocks("python")[1])
    monkeypatch.chdir(tmp_path)
    task = tasks.make({"name": f"{name[1]}:{name[2]}", "noise": 0.2})
    loss, _ = task.loss({}, {"w": jax.numpy.array([1.0, -2.0, 3.0])}, task.data()["train"], jax.random.key(0))
    assert loss == pytest.approx(0.2**2 / 2, rel=0.2)  # a mean of 400 (0.2 sin)^2: 3.5 % off at 1 sigma


def test_the_example(tmp_path, monkeypatch, capsys):
    """It fits 1,400 digits in 200 full-batch steps."""
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    step, loss = capsys.readouterr().out.split()[-2:]
    assert int(step) == 199 and 0 <= float(loss) < 0.2


def test_commands_exist():
    """Every line of the form `metaopt COMMAND ...` is understood by the command line."""
    known = typer.main.get_command(cli.app).commands
    assert {command for _, command, *_ in COMMANDS} == set(known)
    for _, command, *arguments in COMMANDS:
        arguments = arguments[: arguments.index(">")] if ">" in arguments else arguments
        known[command].make_context(command, arguments)  # raises where it does not


@pytest.mark.parametrize("command", [c for c in COMMANDS if "configs/" in " ".join(c)], ids=" ".join)
def test_overrides_fit_the_config(command):
    file, overrides = command[2], [argument for argument in command[3:] if re.match(r"[a-z_.\d]+=", argument)]
    config.load(ROOT / file, overrides)


def test_paths_exist():
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    (table,) = re.findall(r"^\| path \| what \|\n(.*?)\n\n", TEXT, re.MULTILINE | re.DOTALL)
    listed = [path for row in table.splitlines()[1:] for path in re.findall(r"`([^`]+)`", row.split("|")[1])]
    for path in [*linked, *listed]:
        assert (ROOT / path).exists(), path
