"""Small real data sets that ship inside the package; origin and licence in files/ORIGIN.txt."""

from pathlib import Path

import numpy as np

from metaopt.data._common import Splits, split, standardise

FILES = Path(__file__).parent / "files"


def digits() -> Splits:
    """1797 handwritten digits: x float32 [n, 8, 8] in [0, 1], 10 classes."""
    x, y = _read("digits")
    return split(x.astype(np.float32) / 16, y)


def breast_cancer() -> Splits:
    """569 tumours described by 30 features (zero mean and unit variance on the train split), 2 classes."""
    return standardise(split(*_read("breast_cancer")))


def wine() -> Splits:
    """178 wines described by 13 measurements (zero mean and unit variance on the train split), 3 classes."""
    return standardise(split(*_read("wine")))


def diabetes() -> Splits:
    """Regression: 442 patients described by 10 measurements, and how far the disease was a year later.

    Both have zero mean and unit variance on the train split; y is float32.
    """
    return standardise(split(*_read("diabetes")))


def _read(name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(FILES / f"{name}.npz", allow_pickle=False) as archive:
        return archive["x"], archive["y"]
