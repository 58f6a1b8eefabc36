"""Text that every Python brings: its reference manual in prose, and the sources of its standard library.

Both change a little from one version of Python to the next.
"""

import os
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from metaopt.data._common import DataError, Splits, split_text

# Folders of the library that are tests, tables, other people's packages, or not there on every machine.
LEFT_OUT = {
    "__pycache__", "dist-packages", "encodings", "ensurepip", "idle_test", "idlelib", "lib2to3", "pydoc_data",
    "site-packages", "test", "tests", "tkinter", "turtledemo", "venv",
}  # fmt: skip


def topics() -> Splits:
    """English prose about Python, 0.4 MB: what `help("topics")` shows. {"tokens": uint8 [n, 128]}, see split_text."""
    try:
        from pydoc_data.topics import topics as texts
    except ImportError as error:
        raise DataError(f"this Python lacks pydoc_data, a part of the standard library: {error}") from error
    return split_text(_once(texts[name].encode() for name in sorted(texts)))


def source() -> Splits:
    """Python code, 8 MB: the standard library's .py files by path. {"tokens": uint8 [n, 128]}, see split_text."""
    library = sysconfig.get_path("stdlib")
    files = []
    for folder, below, names in os.walk(library):
        below[:] = set(below) - LEFT_OUT
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    if not files:
        raise DataError(f"this Python has no sources in {library}")
    return split_text(_once(path.read_bytes() for path in sorted(files)))


def _once(documents: Iterable[bytes]) -> bytes:
    """The documents as one text in which no paragraph appears twice.

    A tenth of the manual is there under two headings, and would be in the train split and in a held-out one.
    """
    first: dict[bytes, bytes] = {}
    for paragraph in b"\n\n".join(documents).split(b"\n\n"):
        first.setdefault(b" ".join(paragraph.split()), paragraph)
    return b"\n\n".join(first.values())
