"""Fashion-MNIST: 70,000 images 28x28 of 10 kinds of clothes (Xiao et al. 2017, arXiv 1708.07747; MIT licence).

Read from the four `*-ubyte.gz` files in IDX format, or from what TFDS has prepared.
"""

import gzip
import os
from pathlib import Path

import numpy as np

from metaopt.data import tfds
from metaopt.data._common import DataError, Splits, split

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def fashion_mnist(folder: str | None = None) -> Splits:
    """x uint8 [n, 28, 28] that means x / 255, 10 classes; the official 10,000 test images are the test split.

    Looked up in `folder`, $METAOPT_DATA_DIR, $METAOPT_DATA_DIR/fashion-mnist, the TFDS data folder, and where the
    Debian package puts it. Raises DataError, with the ways to get it, when none has it.
    """
    data_dir = os.environ.get("METAOPT_DATA_DIR")
    named = [Path(folder)] if folder else [Path(data_dir), Path(data_dir, "fashion-mnist")] if data_dir else []
    for path in named:
        if _has_files(path):
            return _read_folder(path)
    if folder is None and tfds.is_prepared("fashion_mnist"):
        return tfds.prepared("fashion_mnist")
    if folder is None and _has_files(DEBIAN):
        return _read_folder(DEBIAN)
    raise DataError(
        f"Fashion-MNIST is not on this machine (looked in {', '.join(map(str, [*named, tfds.data_dir(), DEBIAN]))}). "
        "Any of these brings it: install the Debian package dataset-fashion-mnist (apt-get install "
        "dataset-fashion-mnist); put its four *-ubyte.gz files into a folder and set METAOPT_DATA_DIR to that folder; "
        "prepare it with TFDS in the array_record format."
    )


def read_idx(path: Path) -> np.ndarray:
    """The array in a gzipped IDX file of unsigned bytes: 00 00 08 ndim, the sizes as big-endian uint32, the values.

    Raises DataError when the file is not that.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
        if raw[:3] != b"\0\0\x08":
            raise ValueError("not an IDX file of unsigned bytes")
        shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}. Replace it with an intact copy.") from error


def _has_files(folder: Path) -> bool:
    return all((folder / f"{name}-ubyte.gz").exists() for name in FILES)


def _read_folder(folder: Path) -> Splits:
    x, y, test_x, test_y = (read_idx(folder / f"{name}-ubyte.gz") for name in FILES)
    return split(x, y, (test_x, test_y))
