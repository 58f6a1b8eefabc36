"""`metaopt data import`: a user's file, in one of many formats, becomes a data set in the cache.

What is read: IDX files (a folder or archive of the usual four, or one with --labels), CIFAR-10 and CIFAR-100 in their
binary version, SVHN's *_32x32.mat, .npz, .npy, CSV, plain text, and what TFDS has prepared (tfds:NAME). No format that
can hold code is read: pickles are refused by name.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from metaopt.data import _archives, _formats, cache, images, tfds
from metaopt.data._common import LIMIT, WINDOW, Arrays, DataError, checked

CLASSES = 1000  # labels beyond this number of values are hardly classes
TABLES, TEXTS = (".csv", ".tsv", ".data"), (".txt", ".text", ".md", ".rst")
PAIRS = (("x", "y"), ("x_train", "y_train"), ("train_x", "train_y"), ("train_images", "train_labels"))


def import_(
    source: str, name: str | None = None, labels: str | None = None, regression: bool = False, force: bool = False
) -> tuple[str, dict[str, Any]]:
    """Reads `source` into the cache; returns the name it got and its origin (see `cache.save`).

    source: a file or folder, or tfds:NAME
    name: what to call it; from the name of the source if None
    labels: a CSV's label column, by name or number from 0; or an IDX or .npy file with the labels
    regression: labels that are whole numbers are targets of a regression, not classes
    force: replace another data set of that name

    Importing the same data again changes nothing. Raises DataError for what cannot be read or is already there.
    """
    name = name or default_name(source)
    cache.path(name)
    found = _tfds_or_file(source, labels)
    try:
        found, classes = _labelled(found, regression)
        checked(found)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    if name in images.KNOWN:
        try:
            found = images.fitting(name, found)
        except DataError as error:
            raise DataError(f"{source}: {error}. Call it something else with --name.") from error
    old = _existing(name)
    if old and old["sha256"] == cache.digest(found):
        return name, old
    if old and not force:
        raise DataError(
            f"there is another data set {name!r} (from {old.get('source')}): choose a --name, or --force replaces it"
        )
    about = {"source": source if source.startswith("tfds:") else str(Path(source).resolve()), "classes": classes}
    if Path(source).is_file():
        about["source_sha256"] = _sha256(Path(source))
    return name, cache.save(name, found, about)


def default_name(source: str) -> str:
    """The name of a known data set that the source's name contains, else the latter without its endings."""
    stem = source.removeprefix("tfds:") if source.startswith("tfds:") else Path(source).resolve().name
    stem = re.sub(r"[^a-z0-9_.-]+", "_", stem.lower())
    for pattern, known in images.SPELLINGS.items():
        if re.search(pattern, stem):
            return known
    return (
        re.sub(r"(\.(gz|tgz|tar|xz|bz2|zip|npz|npy|csv|tsv|data|txt|text|mat|deb))+$", "", stem).strip("._-") or "data"
    )


def _existing(name: str) -> dict[str, Any] | None:
    """The origin of a data set in the cache; a damaged one counts as none, so that an import repairs it."""
    if not cache.path(name).exists():
        return None
    try:
        cache.load(name)
        return cache.origin(name)
    except cache.Damaged:
        return None


def _tfds_or_file(source: str, labels: str | None) -> Arrays:
    if source.startswith("tfds:"):
        return tfds.arrays(source.removeprefix("tfds:"))
    path = Path(source)
    if not path.exists():
        raise DataError(f"{source}: no such file or folder")
    try:
        return _archives.arrays(path) if _archives.is_archive(path) else _from_file(path, labels)
    except _archives.BROKEN as error:
        raise DataError(f"{source} cannot be read: {error}") from error


def _from_file(path: Path, labels: str | None) -> Arrays:
    """What a single file is recognised as, by its first bytes and then by its ending."""
    if path.stat().st_size > LIMIT:
        raise ValueError(f"larger than {LIMIT >> 20} MiB")
    raw = _formats.gunzip(path.read_bytes())
    ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if raw[:2] == b"\x80\x02" or (raw[:1] == b"\x80" and raw[1:2] in b"\3\4\5") or ending in (".pkl", ".pickle"):
        raise ValueError("a Python pickle, which runs code when it is read: save the arrays as .npz")
    if labels is not None and (raw[:4] == b"PK\3\4" or ending in TEXTS):
        raise ValueError("--labels is for .csv, .npy and IDX files")
    if raw[:4] == b"PK\3\4":
        return _from_npz(_formats.npz(raw))
    if raw[:6] == b"\x93NUMPY":
        return _with_labels(_formats.npy(raw), labels)
    if raw[:2] == b"\0\0" and ending not in TEXTS + TABLES:
        return _with_labels(_formats.idx(raw), labels)
    if _archives.SVHN.fullmatch(path.name):
        x, y = _formats.svhn(raw)
        return {"x": x, "y": y}
    if ending in TABLES:
        x, y = _formats.table(raw, labels)
        return {"x": x, "y": y}
    if ending in TEXTS:
        if len(raw) < 10 * WINDOW:
            raise ValueError(f"a text needs at least {10 * WINDOW} bytes, it has {len(raw)}")
        return {"text": np.frombuffer(raw, np.uint8)}
    raise ValueError(f"neither its content nor its ending is known. What can be read: {_archives.FORMATS}")


def _from_npz(archive: Arrays) -> Arrays:
    for x, y in PAIRS:
        if x in archive and y in archive:
            test = [name.replace("train", "test") if "train" in name else f"{name}_test" for name in (x, y)]
            both = all(name in archive for name in test)
            return {"x": archive[x], "y": archive[y]} | (
                {"test_x": archive[test[0]], "test_y": archive[test[1]]} if both else {}
            )
    expected = " or ".join(f"{x} and {y}" for x, y in PAIRS)
    raise ValueError(f"its arrays are {', '.join(archive) or 'none'}; expected are {expected}")


def _with_labels(x: np.ndarray, labels: str | None) -> Arrays:
    if labels is None:
        raise ValueError(f"an array {list(x.shape)} without labels: give their file with --labels")
    raw = _formats.gunzip(Path(labels).read_bytes())
    return {"x": x, "y": _formats.npy(raw) if raw[:6] == b"\x93NUMPY" else _formats.idx(raw)}


def _labelled(arrays: Arrays, regression: bool) -> tuple[Arrays, list[str] | None]:
    """Inputs as uint8 or float32; labels as float32 targets, or as classes 0, 1, ... and what these stand for."""
    if "text" in arrays:
        return arrays, None
    arrays = dict(arrays)
    keys = [key for key in arrays if key.endswith("y")]
    for key in [key for key in arrays if key.endswith("x")]:
        if arrays[key].dtype.kind not in "biuf":
            raise DataError(f"the inputs are no numbers but {arrays[key].dtype}")
        if arrays[key].dtype != np.uint8:
            arrays[key] = arrays[key].astype(np.float32)
    for key in keys:
        y = arrays[key]
        arrays[key] = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    y = arrays["y"]
    if y.dtype.kind not in "biufUS":
        raise DataError(f"the labels are neither numbers nor text but {y.dtype}")
    if y.dtype.kind in "biuf" and (regression or not np.array_equal(y, np.floor(y), equal_nan=False)):
        return arrays | {key: arrays[key].astype(np.float32) for key in keys}, None
    values = np.unique(y)
    if len(values) > min(CLASSES, len(y) // 2):
        raise DataError(f"{len(values)} different labels in {len(y)} rows are hardly classes: give --regression")
    for key in keys:
        if not np.isin(arrays[key], values).all():
            raise DataError("the test part has labels that the train part has not")
        arrays[key] = np.searchsorted(values, arrays[key]).astype(np.int32)
    return arrays, [f"{value:g}" if y.dtype.kind == "f" else str(value) for value in values.tolist()]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
