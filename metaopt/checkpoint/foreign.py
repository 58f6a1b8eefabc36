"""Arrays from files that other programs wrote: msgpack as Flax writes trees, and npz.

Neither is run: of msgpack's extensions only Flax's arrays are decoded, npz is read without pickle. A file is untrusted
until it is read: its sizes are bounded, and whatever a parser trips over is a CheckpointError.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from metaopt.checkpoint.files import CheckpointError

LIMIT = 2**30  # bytes, packed or unpacked; the largest published learned optimizers have some 10 MB
ENTRIES = 100_000  # of a map or list; msgpack reserves memory for as many as a header announces
EXTENSIONS = (1, 3)  # Flax's for arrays and for numpy scalars; its third, 2, is for complex numbers
DTYPES = {"bool", "bfloat16", *(f"{kind}{bits}" for kind in ("float", "int", "uint") for bits in (8, 16, 32, 64))}
WRAPPERS = ("theta", "params", "0")  # entries that hold theta, beside step counters and names; 0: first of a tuple


def read_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], str]:
    """(theta's arrays by '/'-joined name, sha256 of the file). The content tells the format, not the name.

    theta is the whole tree, or its entry `theta`, `params` or first of a tuple where there is one. Raises
    CheckpointError for a file that is missing, damaged, too large, without arrays, or has numbers that are not finite.
    """
    path = Path(path)
    content = _content(path)
    kind, parse = ("npz", _npz) if content.startswith(b"PK") else ("msgpack", _msgpack)
    try:
        arrays = parse(content)
    except Exception as error:  # what zipfile, zlib, numpy and msgpack raise for damaged content is no closed list
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{path}: not a readable {kind} file of arrays ({reason})") from error
    arrays = _theta(arrays)
    if not arrays:
        raise CheckpointError(f"{path}: no arrays in it")
    for name, x in arrays.items():
        if not np.isfinite(x).all():
            raise CheckpointError(f"{path}: leaf {name!r} has numbers that are not finite")
    return arrays, hashlib.sha256(content).hexdigest()


def _content(path: Path) -> bytes:
    try:
        if not path.exists():
            raise CheckpointError(f"{path}: no such file")
        if not path.is_file():  # a folder, a pipe that would block, a device without end
            raise CheckpointError(f"{path}: not a file")
        if path.stat().st_size > LIMIT:
            raise CheckpointError(f"{path}: has {path.stat().st_size:,} bytes; weights have at most {LIMIT:,}")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def _theta(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for wrapper in WRAPPERS:
        inner = {name.removeprefix(f"{wrapper}/"): x for name, x in arrays.items() if name.startswith(f"{wrapper}/")}
        if inner:
            return inner
    return arrays


def _npz(content: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(member.file_size for member in archive.infolist()) > LIMIT:
            raise ValueError(f"more than {LIMIT:,} bytes unpacked")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    numbers = {name: x for name, x in arrays.items() if isinstance(x, np.ndarray) and x.dtype.kind in "biuf"}
    return {name: x.astype(x.dtype.newbyteorder("="), copy=False) for name, x in numbers.items()}


def _msgpack(content: bytes) -> dict[str, np.ndarray]:
    import msgpack

    tree = msgpack.unpackb(content, ext_hook=_array, max_array_len=ENTRIES, max_map_len=ENTRIES)
    pairs = list(_leaves(tree, ""))
    if len(dict(pairs)) < len(pairs):
        raise ValueError("two leaves have one name")
    return dict(pairs)


def _array(code: int, data: bytes) -> np.ndarray:
    """An extension: (shape, name of the dtype, bytes), packed."""
    import msgpack

    if code not in EXTENSIONS:
        raise ValueError(f"extension {code}, which is not an array")
    shape, dtype, buffer = msgpack.unpackb(data, raw=True)
    if dtype.decode() not in DTYPES:
        raise ValueError(f"an array of dtype {dtype.decode()!r}")
    return np.frombuffer(buffer, dtype.decode()).reshape(shape)


def _leaves(tree: Any, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays below `prefix`; what else is there (counters, names) is no part of theta."""
    if isinstance(tree, np.ndarray):
        yield prefix, tree
    elif isinstance(tree, dict | list):
        for key, child in tree.items() if isinstance(tree, dict) else enumerate(tree):
            if isinstance(key, bytes):
                raise ValueError("a key that is not text")
            yield from _leaves(child, f"{prefix}/{key}" if prefix else str(key))
