"""`metaopt data`: what a newcomer sees."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metaopt import cli


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """No data sets but the shipped ones, and an image data set in a file."""
    monkeypatch.setenv("METAOPT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("COLUMNS", "200")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "blobs.npz", x=rng.integers(0, 256, (60, 5, 4), np.uint8), y=np.arange(60) % 3)
    return tmp_path


def run(capsys, *arguments):
    """What `metaopt data ...` prints; expected errors end with code 2."""
    try:
        cli.app(["data", *map(str, arguments)], standalone_mode=False)
    except Exception as error:
        assert cli._is_expected(error), error
        return str(error)
    return capsys.readouterr().out


def test_import_then_list(machine, capsys):
    text = run(capsys, "import", machine / "blobs.npz")
    assert f"{machine}/data/blobs.npz  sha256 " in text
    assert "  x: uint8 [60, 5, 4]\n  y: int32 [60]\n  classes: 0, 1, 2\nUse it as dataset: user:blobs" in text
    (machine / "data/broken.npz").write_bytes(b"junk")
    (machine / "tfds/tiny/1.0.0").mkdir(parents=True)
    (machine / "tfds/tiny/1.0.0/features.json").write_text("{}")
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in run(capsys, "list").splitlines() if "│" in line
    ]
    rows = {name: rest for name, *rest in rows}
    assert rows["digits"] == ["classes", "float32 8x8", "1618 + 179", "shipped"]
    assert rows["topics"][:2] == ["text", "uint8 128"] and rows["topics"][-1] == "this Python"
    assert rows["cifar100"] == ["classes", "uint8 32x32x3", "50000 + 10000", "absent"]
    assert rows["user:blobs"] == ["classes", "uint8 5x4", "54 + 6", str(machine / "blobs.npz")]
    assert rows["user:broken"][-1] == "damaged" and rows["tfds:tiny"][-1] == str(machine / "tfds")
    text = run(capsys, "list")
    assert "user:broken: " in text and "cifar10: `metaopt data import cifar-10-binary.tar.gz`" in text
    assert f"Looked in {machine}/data (METAOPT_DATA_DIR) and {machine}/tfds (TFDS_DATA_DIR)." in text


def test_data_dir_is_an_option_everywhere(machine, capsys):
    run(capsys, "import", machine / "blobs.npz", "--data-dir", machine / "other", "--name", "b")
    assert (machine / "other/b.npz").exists() and os.environ["METAOPT_DATA_DIR"] == str(machine / "other")
    assert "user:b " in run(capsys, "list", "--data-dir", machine / "other")
    for command in ("train", "eval"):
        with pytest.raises(BaseException, match="0|Exit"):
            cli.app([command, "--help"], standalone_mode=True)
        assert "--data-dir" in capsys.readouterr().out


def test_mistakes_are_one_clear_line(machine, capsys):
    assert "no such file" in run(capsys, "import", machine / "none.npz")
    assert "TFDS data set 'mnist' is not in" in run(capsys, "import", "tfds:mnist")
    (machine / "t.csv").write_text("a,b\n1,2\n3\n")
    assert "t.csv cannot be read: row 3 has 1 fields, the first one has 2" in run(capsys, "import", machine / "t.csv")


def test_the_slow_modules_stay_out(machine):
    script = (
        "import sys; from metaopt.cli import main\ntry: main()\n"
        "finally: print(sorted({'jax', 'optax', 'scipy', 'tensorflow_datasets', 'PIL'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    for arguments in (["list"], ["import", str(machine / "blobs.npz")]):
        command = [sys.executable, "-c", script, "data", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
        assert done.stdout.splitlines()[-1] == "[]"
