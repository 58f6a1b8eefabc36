"""Arrays from the bytes of a file, by format. Nothing is ever unpickled; what does not parse is a ValueError."""

import csv
import gzip
import io
import math
import zipfile
from typing import Any

import numpy as np

from metaopt.data._common import LIMIT, Arrays

IDX = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
CATEGORIES = 256  # of a column of text at most
TABLE_LIMIT = 2**28  # bytes of a CSV file: as Python strings it takes ten times its size


def gunzip(raw: bytes, limit: int = LIMIT) -> bytes:
    """The content of a gzip file, or `raw` if it is none."""
    if raw[:2] != b"\x1f\x8b":
        return raw
    with gzip.open(io.BytesIO(raw)) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"its content is larger than {limit >> 20} MiB")
    return content


def idx(raw: bytes) -> np.ndarray:
    """The array in an IDX file, gzipped or not: 00 00 type ndim, the sizes as big-endian uint32, the values."""
    raw = gunzip(raw)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in IDX:
        raise ValueError("not an IDX file")
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4).tolist()
    values = np.frombuffer(raw, IDX[raw[2]], offset=4 + 4 * raw[3])
    if math.prod(shape) != values.size:
        raise ValueError(f"it says {shape} and holds {values.size} values")
    return values.reshape(shape)


def cifar(raw: bytes, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [n, 32, 32, 3], labels [n]) of a binary version: `labels` bytes (the last one is the finest), then
    1024 red, 1024 green and 1024 blue values, row by row (https://www.cs.toronto.edu/~kriz/cifar.html).
    """
    width = labels + 3072
    if not raw or len(raw) % width:
        raise ValueError(f"{len(raw)} bytes are no rows of {width}")
    rows = np.frombuffer(raw, np.uint8).reshape(-1, width)
    images = rows[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), rows[:, labels - 1]


def svhn(raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [n, 32, 32, 3], labels [n], 0 to 9) of a `*_32x32.mat`, where X is [32, 32, 3, n] and 0 is a 10."""
    from scipy.io import loadmat  # late: scipy is slow to import

    try:
        found = loadmat(io.BytesIO(raw), variable_names=("X", "y"))
        images, labels = found["X"], found["y"].ravel()
    except Exception as error:  # scipy has no common one for files that are not what they should be
        raise ValueError(f"not a MATLAB file with X and y: {error}") from error
    if images.ndim != 4 or images.dtype != np.uint8 or not np.issubdtype(labels.dtype, np.number):
        raise ValueError(f"X is {images.dtype} {list(images.shape)}; uint8 [32, 32, 3, n] is expected")
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels % 10


def npy(raw: bytes) -> np.ndarray:
    """The array of an .npy file."""
    return np.asarray(np.load(io.BytesIO(raw), allow_pickle=False))


def npz(raw: bytes) -> Arrays:
    """All arrays of an .npz file."""
    with zipfile.ZipFile(io.BytesIO(raw)) as members:
        if sum(member.file_size for member in members.infolist()) > 2 * LIMIT:
            raise ValueError(f"its content is larger than {2 * LIMIT >> 20} MiB")
    with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def table(raw: bytes, label: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(x float32 [n, columns], labels [n]: floats, or strings where one of them is no number) of a CSV file.

    Fields are separated by a tab, a semicolon or a comma: the first of them that the first line has. A first line
    without any number is the header. A column of text in x becomes one 0/1 column a category. `label` is a column's
    name in the header or its number from 0, the last one if None.
    """
    if len(raw) > TABLE_LIMIT:
        raise ValueError(f"a table of more than {TABLE_LIMIT >> 20} MiB: convert it to .npz (x, y)")
    text = raw.decode("utf-8-sig")
    separator = next((mark for mark in "\t;," if mark in text.split("\n", 1)[0]), ",")
    rows = [[field.strip() for field in row] for row in csv.reader(io.StringIO(text), delimiter=separator) if any(row)]
    header = rows.pop(0) if rows and not any(map(_is_number, rows[0])) else None
    width = len(header or (rows[0] if rows else []))
    if width < 2 or not rows:
        raise ValueError(f"{len(rows)} rows of {width} columns; features and a label are needed")
    start = 2 if header else 1
    for i, row in enumerate(rows):
        if len(row) != width:
            raise ValueError(f"row {i + start} has {len(row)} fields, the first one has {width}")
    named = header or [str(i) for i in range(width)]
    target = _column_of(label, named)
    columns: list[Any] = [list(column) for column in zip(*rows, strict=True)]
    features = [_feature(columns[i], named[i], start) for i in range(width) if i != target]
    x = np.concatenate(features, axis=1)
    numbers = all(map(_is_number, columns[target]))
    if "" in columns[target]:
        raise ValueError(f"the label {named[target]!r} is missing in row {columns[target].index('') + start}")
    return x, np.array(columns[target], np.float64 if numbers else np.str_)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _column_of(label: str | None, named: list[str]) -> int:
    if label is None:
        return len(named) - 1
    if label in named:
        return named.index(label)
    if label.isdecimal() and int(label) < len(named):
        return int(label)
    raise ValueError(f"no column {label!r}; there are {', '.join(named)}")


def _feature(column: list[str], name: str, start: int) -> np.ndarray:
    """A column as float32 [n, 1], or [n, categories] of zeros and ones."""
    wrong = [i for i, field in enumerate(column) if not _is_number(field)]
    if not wrong:
        return np.array(column, np.float32)[:, None]
    if len(wrong) < len(column):
        raise ValueError(f"column {name!r}: {column[wrong[0]]!r} in row {wrong[0] + start} is not a number")
    categories, codes = np.unique(column, return_inverse=True)
    if len(categories) > CATEGORIES:
        raise ValueError(f"column {name!r} has {len(categories)} different texts, more than {CATEGORIES}: leave it out")
    return np.eye(len(categories), dtype=np.float32)[codes]
