"""Data sets by name. Loaders read what is on this machine into host arrays; nothing is ever downloaded.

A data set is {"train" | "inner_valid" | "outer_valid" | "test": {"x": [n, ...], "y": int32 [n]}}, where x is float32 of
about unit range, or uint8 that means x / 255. The splits are disjoint and the same in every process.
"""

import difflib
import functools

from metaopt.data._common import DataError, Splits
from metaopt.data.bundled import breast_cancer, digits, wine
from metaopt.data.fashion_mnist import fashion_mnist
from metaopt.data.tfds import prepared

__all__ = ["DATASETS", "DataError", "Splits", "available", "load"]

DATASETS = {
    "digits": digits,
    "breast_cancer": breast_cancer,
    "wine": wine,
    "fashion_mnist": fashion_mnist,
}


@functools.cache
def load(name: str) -> Splits:
    """The data set called `name`, or `tfds:NAME` for one that TFDS has prepared on this machine; read once a process.

    Raises DataError when the name is unknown or the machine does not have the data.
    """
    if name.startswith("tfds:"):
        return prepared(name.removeprefix("tfds:"))
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"unknown data set {name!r}: {hint}Known: {', '.join(DATASETS)}, or tfds:NAME")
    return DATASETS[name]()


def available(name: str) -> str | None:
    """None when `load(name)` works here, else the reason why not."""
    try:
        load(name)
    except DataError as error:
        return str(error)
    return None
