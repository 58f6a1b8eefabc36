"""The folder of imported data sets: nothing half-written counts, and what is damaged is seen."""

import json
import os

import numpy as np
import pytest

from metaopt import data
from metaopt.data import DataError, cache, imports

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (40, 28, 28), dtype=np.uint8), np.arange(40, dtype=np.uint8) % 10


def test_importing_again(home):
    np.savez(home / "a.npz", x=X, y=Y)
    first = imports.import_(str(home / "a.npz"))
    written = (home / "cache/a.npz").stat().st_mtime_ns
    assert imports.import_(str(home / "a.npz")) == first and (home / "cache/a.npz").stat().st_mtime_ns == written
    np.savez(home / "a.npz", x=X[::-1], y=Y)
    with pytest.raises(DataError, match="another data set 'a' .*a.npz.*--name, or --force"):
        imports.import_(str(home / "a.npz"))
    assert imports.import_(str(home / "a.npz"), force=True)[1]["sha256"] != first[1]["sha256"]


def test_a_killed_import_leaves_nothing_that_counts(home, monkeypatch):
    np.savez(home / "a.npz", x=X, y=Y)

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="a.npz cannot be written: No space left"):
            imports.import_(str(home / "a.npz"))
    assert os.listdir(home / "cache") == []
    (home / "cache/.a.npz.abc.tmp").write_bytes(b"PK half of it")  # of a process that was killed
    assert cache.names() == []
    imports.import_(str(home / "a.npz"))
    assert cache.names() == ["a"]


def test_a_damaged_cache_is_seen_and_repaired(home):
    np.savez(home / "a.npz", x=X, y=Y)
    _, origin = imports.import_(str(home / "a.npz"))
    file = home / "cache/a.npz"
    good = file.read_bytes()
    at = good.index(X[:1].tobytes())
    for bad in (good[: len(good) // 2], b"", b"junk", good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]):
        file.write_bytes(bad)
        with pytest.raises(DataError, match="a.npz is damaged: .*Import it again"):
            cache.load("a")
        assert imports.import_(str(home / "a.npz"))[1] == origin  # without --force
        assert (cache.load("a")["x"] == X).all()
    arrays = {**cache.load("a"), "y": np.zeros(40, np.int32)}
    np.savez(file, origin=np.array(json.dumps(origin)), **arrays)  # an intact file of other numbers
    with pytest.raises(DataError, match="sha256 is not the one"):
        data.load("user:a")


def test_a_file_of_somebody_else_in_the_cache_is_left_alone(home):
    (home / "cache").mkdir()
    np.savez(home / "cache/a.npz", x=X, y=Y)
    np.savez(home / "a.npz", x=X, y=Y)
    for act in (lambda: cache.load("a"), lambda: imports.import_(str(home / "a.npz"), force=True)):
        with pytest.raises(DataError, match="was not written by `metaopt data import`"):
            act()


def test_unknown_names_suggest_imported_ones(home):
    np.savez(home / "blobs.npz", x=X, y=Y)
    imports.import_(str(home / "blobs.npz"))
    with pytest.raises(DataError, match="did you mean 'user:blobs'"):
        data.load("blobs")
    with pytest.raises(DataError, match="there is no .*blob.npz. Known: blobs. Bring it: metaopt data import FILE"):
        data.load("user:blob")
