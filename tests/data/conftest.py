"""A machine without data sets."""

import pytest

from metaopt import data
from metaopt.data import images


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache of its own, and data sets that are read anew."""
    monkeypatch.setenv("METAOPT_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no_tfds"))
    monkeypatch.setattr(images, "DEBIAN", {})
    data._read.cache_clear()
    yield tmp_path
    data._read.cache_clear()
