"""Any data set of images, tables or text that TFDS has prepared on this machine, without TensorFlow.

Both file formats are read: array_record by TFDS itself, tfrecord (its default) by `_records`.
"""

import difflib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metaopt.data._common import LIMIT, Arrays, DataError, Splits, checked, splits_of
from metaopt.data._records import tfrecords

SIDE = 32  # pixels: images of different sizes are resized to SIDE x SIDE x 3


def data_dir() -> Path:
    """Where TFDS keeps its data: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def names() -> list[str]:
    """What is prepared there: `name`, or `name/config` (a quick look that imports nothing)."""
    found = {path.parent.relative_to(data_dir()) for path in data_dir().glob("*/*/features.json")}
    configs = {path.parent.relative_to(data_dir()) for path in data_dir().glob("*/*/*/features.json")}
    return sorted({path.parent.as_posix() for path in found | configs})


def is_prepared(name: str) -> bool:
    """Whether the TFDS folder has something called `name` (a quick look that imports nothing)."""
    return (data_dir() / name.split("/")[0].split(":")[0]).is_dir()


def prepared(name: str) -> Splits:
    """The splits of the TFDS data set `name[/config][:version]`; see `arrays`, which raises DataError."""
    return splits_of(arrays(name))


def arrays(name: str) -> Arrays:
    """{"x", "y"} of its supervised pair (input, label), or {"text"}; and the same of its official held-out split, with
    "test_" before the names: `test`, or `validation` where it has no test.

    - Images and other arrays: uint8 inputs stay uint8 (x / 255 is meant), others become float32. Images of different
      sizes are cut to their central square and resized to 32x32x3, each pixel the mean of those it covers.
    - Tables: the columns of the input side by side as float32 [n, columns]; a class is one-hot, text is left out.
    - Text: all texts as bytes, one after the other, with a newline after each; labels are left out.

    Raises DataError when it is not prepared, its files are damaged, or it is nothing of the above.
    """
    if not is_prepared(name):
        raise DataError(f"TFDS data set {name!r} is not in {data_dir()}{_nearest(name)}. {_ways(name)}")
    import tensorflow_datasets as tfds  # late: half a second

    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=str(data_dir()))
        return checked(_read(tfds, builder))
    except DataError as error:
        raise DataError(f"TFDS data set {name!r}: {error}") from error
    except Exception as error:  # whatever TFDS, protobuf and pillow make of files that are not what they should be
        text = " ".join(str(error).split())
        raise DataError(f"TFDS data set {name!r} in {data_dir()} cannot be read: {text} {_ways(name)}") from error


def _nearest(name: str) -> str:
    known = names()
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f" ({hint}There: {', '.join(known) or 'nothing'})"


def _ways(name: str) -> str:
    return (
        "Any of these brings it: set TFDS_DATA_DIR to a folder in which TFDS has prepared it; prepare it where "
        f"TensorFlow is installed, tfds.builder({name!r}).download_and_prepare(), and copy that folder; import a file "
        "of it, `metaopt data import FILE`."
    )


def _read(tfds: Any, builder: Any) -> Arrays:
    """The arrays of a builder: what kind of data it is, then its train split and its held-out one."""
    splits = builder.info.splits
    if "train" not in splits:
        raise DataError(f"it has no train split, only {', '.join(splits) or 'none'}")
    x, y = _keys(tfds, builder.info)
    held_out = next((name for name in ("test", "validation") if name in splits), None)
    parts = {"": "train"} | ({"test_": held_out} if held_out else {})
    found: Arrays = {}
    for prefix, split in parts.items():
        if y is None:
            found[prefix + "text"] = _text(builder, split, x[0])
        else:
            found[prefix + "x"], found[prefix + "y"] = _pairs(tfds, builder, split, x, y)
    return found


def _keys(tfds: Any, info: Any) -> tuple[list[str], str | None]:
    """The features that are the input, and the one that is the label; None means that the input is a text."""
    features, given = info.features, info.supervised_keys
    if given is None and isinstance(features, Mapping):
        texts = [key for key, feature in features.items() if isinstance(feature, tfds.features.Text)]
        images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
        labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
        if len(texts) == 1 and not images:
            return texts, None
        if len(images) == len(labels) == 1:
            return images, labels[0]
    if given is None or len(given) != 2 or not isinstance(given[1], str):
        raise DataError(f"it has no supervised pair (input, label) among its features: {', '.join(features)}")
    keys = [given[0]] if isinstance(given[0], str) else list(_leaves(given[0]))
    if len(keys) == 1:
        return keys, None if isinstance(features[keys[0]], tfds.features.Text) else given[1]
    return [key for key in keys if not isinstance(features[key], tfds.features.Text)], given[1]


def _leaves(structure: Any) -> Iterator[str]:
    for leaf in structure.values() if isinstance(structure, Mapping) else structure:
        yield from [leaf] if isinstance(leaf, str) else _leaves(leaf)


def _rows(builder: Any, split: str, decoders: Any = None) -> tuple[int, Iterator[Any]]:
    """How many examples a split has, and the examples one after the other."""
    info = builder.info
    if info.file_format.value != "tfrecord":
        source = builder.as_data_source(split=split, decoders=decoders)
        return len(source), iter(source)
    payloads = (payload for path in info.splits[split].filepaths for payload in tfrecords(Path(path)))
    rows = (info.features.deserialize_example_np(payload, decoders=decoders) for payload in payloads)
    return info.splits[split].num_examples, rows


def _text(builder: Any, split: str, key: str) -> np.ndarray:
    """uint8 [bytes]."""
    _, rows = _rows(builder, split)
    text = bytearray()
    for row in rows:
        value = row[key]
        text += (value.encode() if isinstance(value, str) else bytes(value)) + b"\n"
        if len(text) > LIMIT:
            raise DataError(f"its text is larger than {LIMIT >> 20} MiB")
    return np.frombuffer(bytes(text), np.uint8)


def _pairs(tfds: Any, builder: Any, split: str, keys: list[str], label: str) -> tuple[np.ndarray, np.ndarray]:
    """x [n, ...] and y [n] of a split, written into one array as they are read."""
    features = builder.info.features
    decoders = None
    shape: tuple[Any, ...] = (SIDE, SIDE, 3)
    dtype: np.dtype[Any] = np.dtype(np.float32)
    if len(keys) == 1 and isinstance(features[keys[0]], tfds.features.Image) and None in features[keys[0]].shape:
        dtype = np.dtype(np.uint8)
        decoders = {keys[0]: tfds.decode.SkipDecoding()}  # `_resized` decodes a JPEG at a fraction of its size
    elif len(keys) == 1:
        shape, dtype = tuple(features[keys[0]].shape), np.dtype(features[keys[0]].np_dtype)
    else:
        shape = (sum(_width(features[key]) for key in keys),)
    target = np.dtype(features[label].np_dtype)
    if None in shape or not shape or dtype.kind not in "biuf" or target.kind not in "biuf" or features[label].shape:
        raise DataError(
            f"its pair is neither a text nor numbers of one shape with one label: {', '.join(keys)} is {dtype} "
            f"{list(shape)}, {label} is {target} {list(features[label].shape)}"
        )
    n, rows = _rows(builder, split, decoders)
    kind = np.uint8 if dtype == np.uint8 else np.float32
    if n * int(np.prod(shape)) * np.dtype(kind).itemsize > LIMIT:
        raise DataError(f"its {split} split, {n} rows of {shape}, is larger than {LIMIT >> 20} MiB")
    x, y, i = np.empty((n, *shape), kind), np.empty(n, target), -1
    for i, row in enumerate(rows):
        if i == n:
            break
        if decoders:
            x[i] = _resized(row[keys[0]])
        else:
            x[i] = row[keys[0]] if len(keys) == 1 else np.concatenate([_column(features[k], row[k]) for k in keys])
        y[i] = row[label]
    if i != n - 1:
        raise DataError(f"its {split} split has {'more' if i >= n else 'fewer'} rows than the {n} it should have")
    return x, y


def _width(feature: Any) -> int:
    return getattr(feature, "num_classes", None) or int(np.prod(feature.shape))


def _column(feature: Any, value: Any) -> np.ndarray:
    """One feature of a table as numbers [width]: a class is one-hot."""
    classes = getattr(feature, "num_classes", None)
    return np.eye(classes)[value] if classes else np.ravel(value)


def _resized(encoded: bytes) -> np.ndarray:
    """The image's central square as uint8 [SIDE, SIDE, 3], each pixel the mean of those it covers."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        image.draft("RGB", (2 * SIDE, 2 * SIDE))  # JPEG only: decodes a fraction, at least twice the size wanted
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = (left, top, left + side, top + side)
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX, box=square))
