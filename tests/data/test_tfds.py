"""A data set prepared by TFDS, without TensorFlow: a builder of our own writes what the loader reads."""

import sys

import numpy as np
import pytest

from metaopt.data import DataError, available, load, tfds


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    import tensorflow_datasets

    class TinySquares(tensorflow_datasets.core.GeneratorBasedBuilder):
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            features = tensorflow_datasets.features
            return tensorflow_datasets.core.DatasetInfo(
                builder=self,
                features=features.FeaturesDict(
                    {"image": features.Tensor(shape=(2, 2, 1), dtype=np.uint8), "label": np.int64}
                ),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(range(40)), "test": self._generate_examples(range(40, 48))}

        def _generate_examples(self, numbers):
            for i in numbers:
                yield i, {"image": np.full((2, 2, 1), i, np.uint8), "label": i}

    path = tmp_path_factory.mktemp("tfds")
    TinySquares(data_dir=path, file_format="array_record").download_and_prepare()
    return path


@pytest.fixture
def tfds_dir(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))


def test_reads_a_prepared_data_set(tfds_dir):
    splits = load("tfds:tiny_squares")
    assert sorted(splits["test"]["y"]) == list(range(40, 48))  # the official one
    rest = np.concatenate([splits[name]["y"] for name in ("train", "inner_valid", "outer_valid")])
    assert sorted(rest) == list(range(40))
    for part in splits.values():
        assert part["x"].dtype == np.uint8 and part["x"].shape[1:] == (2, 2, 1) and part["y"].dtype == np.int32
        assert (part["x"][:, 0, 0, 0] == part["y"]).all()
    assert "tensorflow" not in sys.modules


def test_an_unprepared_one_says_how(tfds_dir):
    with pytest.raises(DataError, match="download_and_prepare"):
        tfds.prepared("mnist")
    assert "TFDS_DATA_DIR" in available("tfds:mnist")


def test_an_unreadable_one_says_how(tfds_dir, data_dir):
    (data_dir / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        tfds.prepared("empty")
