"""A user's files become data sets: what is recognised, what is refused, what is left after something went wrong."""

import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from metaopt import data
from metaopt.data import DataError, _archives, cache, imports
from tests.data.test_formats import as_idx

RNG = np.random.default_rng(0)
pytestmark = pytest.mark.usefixtures("home")
X, Y = RNG.integers(0, 256, (40, 28, 28), dtype=np.uint8), np.arange(40, dtype=np.uint8) % 10


def quad(ending="-ubyte.gz"):
    """The four IDX files by name."""
    pack = gzip.compress if ending.endswith(".gz") else bytes
    arrays = {
        "train-images-idx3": X[:30],
        "train-labels-idx1": Y[:30],
        "t10k-images-idx3": X[30:],
        "t10k-labels-idx1": Y[30:],
    }
    return {name + ending: pack(as_idx(array)) for name, array in arrays.items()}


def as_tar(files, path, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, raw in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return path


def as_zip(files, path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    return path


def as_deb(files, path):
    """An ar archive of two small parts and data.tar.xz, each padded to an even length."""
    inner = as_tar({f"./usr/share/{name}": raw for name, raw in files.items()}, path.with_suffix(".xz"), "w:xz")
    parts = {"debian-binary": b"2.0", "control.tar.xz": b"..", "data.tar.xz": inner.read_bytes()}
    raw = b"!<arch>\n"
    for name, part in parts.items():
        raw += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode() + part + b"\n" * (len(part) % 2)
    path.write_bytes(raw)
    return path


def as_folder(files, path):
    path.mkdir()
    for name, raw in files.items():
        (path / name).write_bytes(raw)
    return path


@pytest.mark.parametrize(
    "pack",
    [
        lambda at: as_folder(quad(), at / "set"),
        lambda at: as_tar({f"package/data/{name}": raw for name, raw in quad("-ubyte").items()}, at / "set.tgz"),
        lambda at: as_zip(quad("-ubyte"), at / "set.zip"),
        lambda at: as_deb(quad(), at / "set.deb"),
    ],
    ids=["folder", "tgz", "zip", "deb"],
)
def test_idx_files_in_any_wrapping(pack, home):
    name, origin = imports.import_(str(pack(home)))
    assert name == "set" and origin["arrays"] == {
        "x": ["uint8", 30, 28, 28], "y": ["int32", 30], "test_x": ["uint8", 10, 28, 28], "test_y": ["int32", 10],
    }  # fmt: skip
    splits = data.load("user:set", "classes")
    assert (splits["test"]["x"] == X[30:]).all() and (splits["test"]["y"] == Y[30:]).all()
    assert sorted(
        map(bytes, np.concatenate([splits[s]["x"] for s in ("train", "inner_valid", "outer_valid")]))
    ) == sorted(map(bytes, X[:30]))


def test_cifar_archives(home):
    batch = np.concatenate([Y[:24, None], RNG.integers(0, 256, (24, 3072), dtype=np.uint8)], axis=1)
    files = {f"cifar-10-batches-bin/data_batch_{i}.bin": batch[5 * i - 5 : 5 * i].tobytes() for i in (1, 2, 3, 4)}
    files["cifar-10-batches-bin/test_batch.bin"] = batch[20:].tobytes()
    as_tar(files, home / "binary.tar.gz")
    _, origin = imports.import_(str(home / "binary.tar.gz"), "mine")
    assert origin["arrays"]["x"] == ["uint8", 20, 32, 32, 3] and origin["classes"] == [str(i) for i in range(10)]
    found = cache.load("mine")
    assert (found["x"][5, 0, 0] == batch[5, [1, 1025, 2049]]).all() and found["test_y"].tolist() == [0, 1, 2, 3]


def test_cifar_in_its_pickled_version_is_refused(home):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code of the file was run",))

    path = as_tar({"cifar-10-batches-py/data_batch_1": pickle.dumps(Bomb())}, home / "cifar-10-python.tar.gz")
    with pytest.raises(DataError, match="pickles, which run code.*cifar-10-binary.tar.gz"):
        imports.import_(str(path))
    (home / "x.pkl").write_bytes(pickle.dumps(Bomb()))
    (home / "x.csv").write_bytes(pickle.dumps(Bomb()))
    for name in ("x.pkl", "x.csv"):
        with pytest.raises(DataError, match="pickle, which runs code"):
            imports.import_(str(home / name))


def test_names_in_an_archive_lead_nowhere(home):
    """Absolute names, `..` and links: read by their last part or not at all; nothing is written but the cache."""
    files = {("../../" if "images" in name else "/tmp/evil/") + name: raw for name, raw in quad().items()}
    as_tar(files, home / "evil.tar.gz")
    with tarfile.open(home / "link.tar", "w") as archive:
        link = tarfile.TarInfo("train-images-idx3-ubyte")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    before = sorted(home.parent.rglob("*"))
    imports.import_(str(home / "evil.tar.gz"))
    assert set(home.parent.rglob("*")) - set(before) == {home / "cache", home / "cache/evil.npz"}
    assert not Path("/tmp/evil").exists()
    with pytest.raises(DataError, match="no files of a known data set"):
        imports.import_(str(home / "link.tar"))
    for name in ("../out", "/abs", "a/b", "", ".hidden", "A"):
        with pytest.raises(DataError, match="is no name of a data set"):
            imports.import_(str(home / "evil.tar.gz"), name or " ")
        with pytest.raises(DataError, match="is no name of a data set"):
            data.load(f"user:{name}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[: len(raw) // 2], ""),
        (lambda raw: b"", "neither its content"),
        (lambda raw: raw[:-600] + bytes(600), ""),
        (lambda raw: b"\x1f\x8b" + raw[2:20], ""),
    ],
)
def test_damaged_archives_are_named(damage, message, home):
    path = as_tar(quad(), home / "set.tgz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"set.tgz cannot be read: .*{message}"):
        imports.import_(str(path))
    assert cache.names() == [] and not (home / "cache").exists()


def test_what_an_archive_lacks_or_has_twice(home):
    files = quad()
    del files["t10k-labels-idx1-ubyte.gz"]
    with pytest.raises(DataError, match="the labels of the test part are missing"):
        imports.import_(str(as_folder(files, home / "a")))
    del files["train-images-idx3-ubyte.gz"], files["t10k-images-idx3-ubyte.gz"]
    with pytest.raises(DataError, match="the inputs of the train part are missing"):
        imports.import_(str(as_folder(files, home / "b")))
    with pytest.raises(DataError, match="more than one train-images"):
        imports.import_(str(as_tar({f"{d}/{k}": v for d in "ab" for k, v in quad().items()}, home / "c.tar.gz")))
    with pytest.raises(DataError, match="more than one set of t10k images"):
        imports.import_(str(as_folder({p + k: v for p in ("x-", "y-") for k, v in quad().items()}, home / "d")))
    with pytest.raises(DataError, match=r"no files of a known data set \(no files at all\). What can be read: IDX"):
        imports.import_(str(as_folder({}, home / "e")))


def test_what_is_too_large_is_refused(home, monkeypatch):
    path = as_tar(quad("-ubyte"), home / "set.tgz")
    monkeypatch.setattr(_archives, "LIMIT", 2000)
    with pytest.raises(DataError, match="its files are larger than 0 MiB"):
        imports.import_(str(path))
    monkeypatch.setattr(imports, "LIMIT", 2000)
    np.save(home / "x.npy", X)
    with pytest.raises(DataError, match="x.npy cannot be read: larger than 0 MiB"):
        imports.import_(str(home / "x.npy"), labels="y")


def test_arrays(home):
    np.savez(home / "a.npz", x=X, y=Y)
    np.savez(home / "b.npz", x_train=X[:30] / 255, y_train=Y[:30, None], x_test=X[30:] / 255, y_test=Y[30:, None])
    np.save(home / "c.npy", X.reshape(40, -1))
    np.save(home / "labels.npy", Y + 0.5)
    (home / "d-idx3-ubyte").write_bytes(as_idx(X))
    assert imports.import_(str(home / "a.npz"))[1]["arrays"] == {"x": ["uint8", 40, 28, 28], "y": ["int32", 40]}
    assert imports.import_(str(home / "b.npz"))[1]["arrays"]["test_x"] == ["float32", 10, 28, 28]
    assert imports.import_(str(home / "c.npy"), labels=str(home / "labels.npy"))[1]["arrays"]["y"] == ["float32", 40]
    assert imports.import_(str(home / "d-idx3-ubyte"), labels=str(home / "labels.npy"))[1]["classes"] is None
    splits = data.load("user:c", "regression")
    np.testing.assert_allclose([splits["train"]["y"].mean(), splits["train"]["y"].std()], [0, 1], atol=1e-5)
    standardised = data.load("user:b")["train"]["x"]  # images with decimals: as a whole; 24 * 784 float32 numbers
    np.testing.assert_allclose([standardised.mean(), standardised.std()], [0, 1], atol=1e-4)
    with pytest.raises(DataError, match="without labels: give their file with --labels"):
        imports.import_(str(home / "c.npy"), "e")
    np.savez(home / "f.npz", inputs=X)
    with pytest.raises(DataError, match="its arrays are inputs; expected are x and y or x_train and y_train"):
        imports.import_(str(home / "f.npz"))
    with pytest.raises(DataError, match="--labels is for"):
        imports.import_(str(home / "a.npz"), "e", labels="y")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y[:39], r"x \[40, 28, 28\] and y \[39\]"),
        (X[:9], Y[:9] % 2, "9 rows are too few"),
        (X + np.inf, Y, "not finite"),
        (X.astype(str), Y, "no numbers but <U"),
        (X, Y + 1j, "neither numbers nor text"),
        (X, np.arange(40) % 35, "35 different labels in 40 rows are hardly classes: give --regression"),
        (X, np.where(Y > 0, Y, np.nan), "not finite"),
    ],
)
def test_arrays_with_mistakes(x, y, message, home):
    np.savez(home / "a.npz", x=x, y=y)
    with pytest.raises(DataError, match=f"a.npz: .*{message}"):
        imports.import_(str(home / "a.npz"))


def test_labels_become_classes_or_targets(home):
    (home / "t.csv").write_text("".join(f"{i},{['red', 'blue'][i % 2]}\n" for i in range(20)))
    assert imports.import_(str(home / "t.csv"))[1]["classes"] == ["blue", "red"]
    assert cache.load("t")["y"].tolist() == [1, 0] * 10
    (home / "t.csv").write_text("".join(f"{i},{3 + 4 * (i % 3)}\n" for i in range(20)))
    assert imports.import_(str(home / "t.csv"), "u")[1]["classes"] == ["3", "7", "11"]
    assert imports.import_(str(home / "t.csv"), "v", regression=True)[1]["classes"] is None
    assert (
        cache.load("v")["y"].tolist() == [3 + 4 * (i % 3) for i in range(20)]
        and cache.load("v")["y"].dtype == np.float32
    )
    np.savez(home / "w.npz", x_train=X[:30], y_train=Y[:30], x_test=X[30:], y_test=Y[30:] + 1)
    with pytest.raises(DataError, match="the test part has labels that the train part has not"):
        imports.import_(str(home / "w.npz"))


def test_text(home):
    text = RNG.bytes(5000)
    (home / "My Text.txt.gz").write_bytes(gzip.compress(text))
    name, origin = imports.import_(str(home / "My Text.txt.gz"))
    assert (
        name == "my_text"
        and origin["source_sha256"] == hashlib.sha256((home / "My Text.txt.gz").read_bytes()).hexdigest()
    )
    splits = data.load("user:my_text", "text")
    assert splits["train"]["tokens"].tobytes() == text[: 30 * 128] and len(splits["test"]["tokens"]) == 3
    (home / "short.txt").write_bytes(text[:1279])
    with pytest.raises(DataError, match="at least 1280 bytes, it has 1279"):
        imports.import_(str(home / "short.txt"))
    (home / "x.docx").write_bytes(b"?")
    with pytest.raises(DataError, match="neither its content nor its ending is known. What can be read: IDX"):
        imports.import_(str(home / "x.docx"))
    with pytest.raises(DataError, match="no such file or folder"):
        imports.import_(str(home / "none.txt"))
