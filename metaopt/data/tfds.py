"""Any supervised data set that TFDS has prepared on this machine as array_record, without TensorFlow."""

import os
from pathlib import Path

import numpy as np

from metaopt.data._common import DataError, Splits, split


def data_dir() -> Path:
    """Where TFDS keeps its data: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def is_prepared(name: str) -> bool:
    """Whether the TFDS folder has something called `name` (a quick look that imports nothing)."""
    return (data_dir() / name.split("/")[0].split(":")[0]).is_dir()


def prepared(name: str) -> Splits:
    """The supervised pair (x, y) of the TFDS data set `name[/config][:version]`, and its official test split if any.

    uint8 inputs stay uint8 (x / 255 is meant); other inputs become float32 as they are. Raises DataError when it is
    not prepared, has another file format, or has no supervised pair.
    """
    how = f"Prepare it with TFDS: tfds.builder({name!r}, file_format='array_record').download_and_prepare()"
    if not is_prepared(name):
        raise DataError(f"TFDS data set {name!r} is not in {data_dir()}. {how}, or set TFDS_DATA_DIR.")
    import tensorflow_datasets as tfds  # late: half a second

    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=str(data_dir()))
        sources = builder.as_data_source()
        keys = builder.info.supervised_keys
    except (tfds.core.DatasetNotFoundError, NotImplementedError, FileNotFoundError, ValueError) as error:
        raise DataError(f"TFDS data set {name!r} in {data_dir()} cannot be read: {error} {how}") from error
    if keys is None or len(keys) != 2 or "train" not in sources:
        raise DataError(f"TFDS data set {name!r} has no train split of supervised pairs (input, label).")
    test = _arrays(sources["test"], *keys) if "test" in sources else None
    return split(*_arrays(sources["train"], *keys), test)


def _arrays(source, x_key: str, y_key: str) -> tuple[np.ndarray, np.ndarray]:
    rows = source.__getitems__(range(len(source)))
    x = np.stack([row[x_key] for row in rows])
    return x if x.dtype == np.uint8 else x.astype(np.float32), np.array([row[y_key] for row in rows])
