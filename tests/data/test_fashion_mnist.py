"""Fashion-MNIST from IDX files: a tiny stand-in in the same format; nothing is downloaded."""

import gzip
import importlib
import struct

import numpy as np
import pytest

from metaopt.data import DataError
from metaopt.data.fashion_mnist import FILES, read_idx
from metaopt.data.fashion_mnist import fashion_mnist as fashion

MODULE = importlib.import_module("metaopt.data.fashion_mnist")  # metaopt.data.fashion_mnist itself is the function


def write_idx(path, array):
    head = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in FILES:
        n = 50 if name.startswith("train") else 10
        shape = (n, 28, 28) if "images" in name else (n,)
        write_idx(tmp_path / f"{name}-ubyte.gz", rng.integers(0, 10, shape, dtype=np.uint8))
    return tmp_path


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch, tmp_path):
    """No data set in any of the usual places."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no_tfds"))
    monkeypatch.delenv("METAOPT_DATA_DIR", raising=False)
    monkeypatch.setattr(MODULE, "DEBIAN", tmp_path / "no_debian")


def test_reads_idx_files_as_bytes(folder):
    splits = fashion(str(folder))
    assert {name: part["x"].shape for name, part in splits.items()} == {
        "train": (40, 28, 28), "inner_valid": (5, 28, 28), "outer_valid": (5, 28, 28), "test": (10, 28, 28),
    }  # fmt: skip
    assert splits["train"]["x"].dtype == np.uint8 and splits["train"]["y"].dtype == np.int32
    assert (splits["test"]["x"] == read_idx(folder / "t10k-images-idx3-ubyte.gz")).all()


def test_order_of_the_places(folder, monkeypatch, tmp_path):
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        fashion()
    monkeypatch.setattr(MODULE, "DEBIAN", folder)
    assert len(fashion()["train"]["y"]) == 40
    with pytest.raises(DataError):
        fashion(str(tmp_path / "elsewhere"))  # an explicit folder is meant
    own = tmp_path / "own" / "fashion-mnist"
    own.mkdir(parents=True)
    for name in FILES:
        write_idx(own / f"{name}-ubyte.gz", np.zeros((20, 28, 28) if "images" in name else 20, np.uint8))
    monkeypatch.setenv("METAOPT_DATA_DIR", str(own.parent))
    assert len(fashion()["test"]["y"]) == 20


@pytest.mark.parametrize("damage", [lambda raw: raw[:30], lambda raw: b"not gzip", lambda raw: gzip.compress(b"other")])
def test_a_damaged_file_is_named(folder, damage):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="train-labels.* is damaged"):
        fashion(str(folder))
