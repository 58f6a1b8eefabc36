"""Data sets that `metaopt data import` has brought: one file NAME.npz each, with what is known of where it came from.

A file holds the arrays before they are split and `origin`, a JSON text with their sha256. It appears in one step, so
that half of one is never there, and every read checks the sum.
"""

import hashlib
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from metaopt.data._common import LIMIT, Arrays, DataError
from metaopt.files import write_atomic

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


class Damaged(DataError):
    """A file of the cache is not what was written; importing again repairs it."""


def data_dir() -> Path:
    """Where imported data sets are: $METAOPT_DATA_DIR, else ~/.cache/metaopt/data."""
    return Path(os.environ.get("METAOPT_DATA_DIR") or "~/.cache/metaopt/data").expanduser()


def path(name: str) -> Path:
    """The file of a data set. Raises DataError for what is no name (it could leave the folder)."""
    if not NAME.fullmatch(name):
        raise DataError(f"{name!r} is no name of a data set: use a-z, 0-9, _, - and . (first a letter or digit)")
    return data_dir() / f"{name}.npz"


def names() -> list[str]:
    """The data sets that were imported, intact or not."""
    return sorted(file.stem for file in data_dir().glob("*.npz") if NAME.fullmatch(file.stem))


def digest(arrays: Arrays) -> str:
    """sha256 over the names, dtypes, shapes and values of the arrays."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def save(name: str, arrays: Arrays, origin: dict[str, Any]) -> dict[str, Any]:
    """Writes a data set and returns its origin, to which "sha256" and "arrays" (dtypes and shapes) were added."""
    arrays = dict(sorted(arrays.items(), key=lambda item: (item[0].startswith("test_"), item[0])))
    shapes = {key: [array.dtype.name, *array.shape] for key, array in arrays.items()}
    origin = {**origin, "sha256": digest(arrays), "arrays": shapes}

    def write(file: BinaryIO) -> None:
        np.savez(file, **{**arrays, "origin": np.array(json.dumps(origin))})  # type: ignore[arg-type]

    file = path(name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, write)
    except OSError as error:
        raise DataError(f"{file} cannot be written: {error}") from error
    return origin


def load(name: str) -> Arrays:
    """The arrays of a data set. Raises DataError when it is not there or not what was written."""
    arrays, origin = _read(name, everything=True)
    if digest(arrays) != origin["sha256"]:
        raise _damaged(path(name), "its sha256 is not the one it was written with")
    return arrays


def origin(name: str) -> dict[str, Any]:
    """What is known of a data set (see `save`), without reading its arrays."""
    return _read(name, everything=False)[1]


def _read(name: str, everything: bool) -> tuple[Arrays, dict[str, Any]]:
    file = path(name)
    if not file.is_file():
        raise DataError(
            f"there is no {file}. Known: {', '.join(names()) or 'none'}. Bring it: metaopt data import FILE"
        )
    try:
        with zipfile.ZipFile(file) as members:  # before numpy allocates what the headers claim
            if sum(member.file_size for member in members.infolist()) > 4 * LIMIT:
                raise ValueError(f"larger than {4 * LIMIT >> 20} MiB")
        with np.load(file, allow_pickle=False) as archive:
            if "origin" not in archive.files:
                raise DataError(f"{file} was not written by `metaopt data import`: move it elsewhere, then import it")
            about = json.loads(str(archive["origin"]))
            arrays = {key: archive[key] for key in archive.files if key != "origin"} if everything else {}
            return arrays, {"sha256": about["sha256"], "arrays": about["arrays"], **about}
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise _damaged(file, str(error)) from error


def _damaged(file: Path, why: str) -> Damaged:
    return Damaged(f"{file} is damaged: {why}. Import it again: metaopt data import FILE --name {file.stem}")
