"""Data sets inside a folder or an archive (tar, zip, Debian package), read into memory.

Nothing is ever unpacked to disk, so that no name in an archive can lead anywhere, and links are not followed.
"""

import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from metaopt.data import _formats
from metaopt.data._common import LIMIT, Arrays

BROKEN = (OSError, EOFError, ValueError, RuntimeError, MemoryError, tarfile.TarError, zipfile.BadZipFile, zlib.error,
          lzma.LZMAError)  # fmt: skip
QUAD = re.compile(r"(?:.*-)?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
CIFAR = re.compile(r"(data_batch_\d+|test_batch|train|test)\.bin")
SVHN = re.compile(r"(train|test)_32x32\.mat")
PICKLES = re.compile(r"(?:.*/)?cifar-100?-(?:batches-py|python)/.*|.*\.(?:pkl|pickle)")
FORMATS = (
    "IDX (a folder or archive with train-images-idx3-ubyte, train-labels-idx1-ubyte and the two t10k-*; or one file "
    "with --labels), the binary version of CIFAR-10 or CIFAR-100, a folder with SVHN's train_32x32.mat and "
    "test_32x32.mat, .npz (x and y, or x_train, y_train, x_test, y_test), .npy with --labels, .csv or "
    ".tsv, .txt, or tfds:NAME"
)
Read = Callable[[], bytes]


def is_archive(path: Path) -> bool:
    """Whether `members` can read it; an .npz file, which is a zip as well, is not meant."""
    if path.is_dir():
        return True
    with open(path, "rb") as file:
        start = file.read(8)
    zipped = start[:4] == b"PK\3\4" and path.suffix != ".npz"
    return zipped or start == b"!<arch>\n" or tarfile.is_tarfile(path)


def arrays(path: Path) -> Arrays:
    """The data set that a folder or an archive has, recognised by the names of its files. Raises one of BROKEN."""
    found, seen = members(path, lambda name: any(p.fullmatch(name) for p in (QUAD, CIFAR, SVHN)))
    for pattern, read in ((QUAD, _quad), (CIFAR, _cifar), (SVHN, _svhn)):
        if files := {name: raw for name, raw in found.items() if pattern.fullmatch(name)}:
            return read(files)
    if any(PICKLES.fullmatch(name) for name in [f"{path.name}/{name}" for name in seen] + seen):
        raise ValueError(
            "it holds Python pickles, which run code when they are read: take the binary version "
            "(of CIFAR: cifar-10-binary.tar.gz, cifar-100-binary.tar.gz)"
        )
    some = ", ".join(seen[:5]) + (", ..." if len(seen) > 5 else "")
    raise ValueError(f"it has no files of a known data set ({some or 'no files at all'}). What can be read: {FORMATS}")


def _quad(files: dict[str, bytes]) -> Arrays:
    prefix = {"train": "", "t10k": "test_", "test": "test_"}
    found: Arrays = {}
    for name, raw in files.items():
        ((part, what),) = QUAD.findall(name)
        key = prefix[part] + {"images": "x", "labels": "y"}[what]
        if key in found:
            raise ValueError(
                f"it has more than one set of {part} {what}: put the one that is meant into its own folder"
            )
        found[key] = _formats.idx(raw)
    return _complete(found)


def _cifar(files: dict[str, bytes]) -> Arrays:
    labels = 2 if "train.bin" in files else 1  # CIFAR-100 has a coarse one as well
    parts = {name: _formats.cifar(files[name], labels) for name in sorted(files)}
    found: Arrays = {}
    for prefix, names in {
        "": [n for n in parts if "test" not in n],
        "test_": [n for n in parts if "test" in n],
    }.items():
        if names:
            found[prefix + "x"] = np.concatenate([parts[name][0] for name in names])
            found[prefix + "y"] = np.concatenate([parts[name][1] for name in names])
    return _complete(found)


def _svhn(files: dict[str, bytes]) -> Arrays:
    found: Arrays = {}
    for name, raw in files.items():
        prefix = "" if name.startswith("train") else "test_"
        found[prefix + "x"], found[prefix + "y"] = _formats.svhn(raw)
    return _complete(found)


def _complete(found: Arrays) -> Arrays:
    """The arrays if there is a train part, and every part has inputs and labels."""
    for prefix in {"", *("test_" for key in found if key.startswith("test_"))}:
        for key, what in {"x": "inputs", "y": "labels"}.items():
            if prefix + key not in found:
                raise ValueError(f"the {what} of the {'test' if prefix else 'train'} part are missing")
    return found


def members(path: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, bytes], list[str]]:
    """The contents of the wanted files by their last name, and the whole names of all files.

    Raises ValueError (or an error of tarfile, zipfile, ...) for what cannot be read, is too large or has a name twice.
    """
    found: dict[str, bytes] = {}
    seen: list[str] = []
    total = 0
    for name, size, read in _files(path):
        total += size
        if size < 0 or total > 4 * LIMIT:
            raise ValueError(f"its files are larger than {4 * LIMIT >> 20} MiB")
        seen.append(name)
        last = PurePosixPath(name).name
        if not wanted(last):
            continue
        if last in found:
            raise ValueError(f"it has more than one {last}: put those that are meant into a folder of their own")
        found[last] = read()
        if len(found[last]) != size:
            raise ValueError(f"{name} is cut off")
    return found, seen


def _files(path: Path) -> Iterator[tuple[str, int, Read]]:
    """(name, size, read) of the plain files."""
    if path.is_dir():
        for file in sorted(file for file in path.iterdir() if file.is_file()):
            yield file.name, file.stat().st_size, file.read_bytes
        return
    with open(path, "rb") as opened:
        start = opened.read(8)
        opened.seek(0)
        if start == b"!<arch>\n":
            yield from _tar(_data_of_deb(opened))
        elif start[:2] == b"PK":
            yield from _zip(opened)
        else:
            yield from _tar(opened)


def _tar(file: IO[bytes]) -> Iterator[tuple[str, int, Read]]:
    with tarfile.open(fileobj=file) as archive:
        for member in archive:
            if member.isreg():
                yield member.name, member.size, partial(_extracted, archive, member)


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = archive.extractfile(member)
    assert opened is not None  # as it would be for a folder
    return opened.read()


def _zip(file: IO[bytes]) -> Iterator[tuple[str, int, Read]]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield member.filename, member.file_size, partial(archive.read, member)


def _data_of_deb(file: IO[bytes]) -> IO[bytes]:
    """data.tar.* of a Debian package, an ar archive: headers of 60 bytes have a name [16] and, at 48, a size [10]."""
    file.seek(8)
    while len(header := file.read(60)) == 60:
        size = int(header[48:58])
        if not 0 <= size <= LIMIT:
            raise ValueError(f"it says that a part has {size} bytes")
        if header.startswith(b"data.tar"):
            return io.BytesIO(file.read(size))
        file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError("a Debian package without data.tar")
