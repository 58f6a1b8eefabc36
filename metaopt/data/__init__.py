"""Data sets by name. Loaders read what is on this machine into host arrays; nothing is ever downloaded.

A data set is {"train" | "inner_valid" | "outer_valid" | "test": arrays}, of one of three kinds:

    classes      {"x": [n, ...], "y": int32 [n]}, where x is float32 of about unit range, or uint8 that means x / 255
    regression   the same with y float32 [n], of about unit range
    text         {"tokens": uint8 [n, 128]}, consecutive bytes of a text; 256 tokens are possible

The splits are disjoint and the same in every process. Beside the names in DATASETS there are `user:NAME`, what
`metaopt data import` brought, and `tfds:NAME`, what TFDS has prepared on this machine.
"""

import difflib
import functools

from metaopt.data import cache
from metaopt.data._common import KINDS, DataError, Splits, kind_of, splits_of
from metaopt.data.bundled import breast_cancer, diabetes, digits, wine
from metaopt.data.images import cifar10, cifar100, fashion_mnist, food101, mnist, svhn
from metaopt.data.python_text import source, topics
from metaopt.data.synthetic import synthetic_images
from metaopt.data.tfds import prepared

__all__ = ["DATASETS", "KINDS", "SYNTHETIC", "DataError", "Splits", "available", "kind_of", "load"]

DATASETS = {
    "digits": digits,
    "breast_cancer": breast_cancer,
    "wine": wine,
    "diabetes": diabetes,
    "topics": topics,
    "source": source,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
    "food101": food101,
    "synthetic_images": synthetic_images,
}
SYNTHETIC = ("synthetic_images",)  # made up here, and not to be taken for real data


def load(name: str, kind: str | None = None) -> Splits:
    """The data set called `name`: one of DATASETS, `user:NAME` or `tfds:NAME`; read once a process.

    Raises DataError when the name is unknown, the machine does not have the data, or it is not of the `kind` asked for.
    """
    splits = _read(name)
    if kind is not None and kind_of(splits) != kind:
        raise DataError(f"data set {name!r} is of the kind {kind_of(splits)}, and {kind} is needed here")
    return splits


@functools.cache
def _read(name: str) -> Splits:
    if name.startswith("tfds:"):
        return prepared(name.removeprefix("tfds:"))
    if name.startswith("user:"):
        return splits_of(cache.load(name.removeprefix("user:")))
    if name not in DATASETS:
        known = [*DATASETS, *(f"user:{imported}" for imported in cache.names())]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"unknown data set {name!r}: {hint}Known: {', '.join(known)}, or tfds:NAME")
    return DATASETS[name]()


def available(name: str) -> str | None:
    """None when `load(name)` works here, else the reason why not."""
    try:
        load(name)
    except DataError as error:
        return str(error)
    return None
