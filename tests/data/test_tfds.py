"""Data sets prepared by TFDS, without TensorFlow: builders of our own write what the loader reads, in both formats."""

import io
import re
import shutil
import sys

import numpy as np
import pytest

from metaopt import data
from metaopt.data import DataError, available, images, load, tfds
from tests.data.test_records import frame

WORDS = ["alpha", "beta"]


def examples(name, split):
    """What the builder `name` was given."""
    numbers = range(40) if split == "train" else range(40, 52)
    rng = np.random.default_rng(len(split))
    for i in numbers:
        match name:
            case "tiny_squares":
                yield {"image": np.full((2, 2, 1), i, np.uint8), "label": i}
            case "tiny_photos":
                yield {"image": picture(i)[0], "label": i % 3}
            case "tiny_table":
                inputs = {
                    "size": np.float32(i),
                    "kind": i % 3,
                    "flag": i % 2 == 0,
                    "pair": np.float32([i, -i]),
                    "note": "x",
                }
                yield {**inputs, "price": np.float32(i) / 4}
            case "tiny_texts":
                yield {"text": " ".join(rng.choice(WORDS, 40)), "label": i % 2}


def picture(i):
    """A PNG, wide or tall, random but for black borders, and its central square [64, 64, 3]."""
    from PIL import Image

    square = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pixels = np.zeros((64, 96 + i, 3), np.uint8)
    left = (32 + i) // 2
    pixels[:, left : left + 64] = square
    file = io.BytesIO()
    if i % 2:
        pixels, square = pixels.transpose(1, 0, 2), square.transpose(1, 0, 2)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), square


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of four data sets in array_record, and one of the same in tfrecord."""
    import tensorflow_datasets as library

    f = library.features
    features = {
        "tiny_squares": ({"image": f.Tensor(shape=(2, 2, 1), dtype=np.uint8), "label": np.int64}, "image"),
        "tiny_photos": ({"image": f.Image(shape=(None, None, 3)), "label": f.ClassLabel(num_classes=3)}, "image"),
        "tiny_table": (
            {
                "size": np.float32, "kind": f.ClassLabel(num_classes=3), "flag": np.bool_,
                "pair": f.Tensor(shape=(2,), dtype=np.float32), "note": f.Text(), "price": np.float32,
            },
            {key: key for key in ("size", "kind", "flag", "pair", "note")},
        ),
        "tiny_texts": ({"text": f.Text(), "label": f.ClassLabel(num_classes=2)}, "text"),
    }  # fmt: skip

    class Tiny(library.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = library.core.Version("1.0.0")

        def _info(self):
            given, x = features[self.name]
            label = "price" if "price" in given else "label"
            return library.core.DatasetInfo(builder=self, features=f.FeaturesDict(given), supervised_keys=(x, label))

        def _split_generators(self, dl_manager):
            held_out = "validation" if self.name == "tiny_photos" else "test"
            return {"train": self._generate_examples("train"), held_out: self._generate_examples("test")}

        def _generate_examples(self, split):
            yield from enumerate(examples(self.name, split))

    path = tmp_path_factory.mktemp("tfds")
    for name in features:
        Tiny.name = name
        Tiny(data_dir=path / "array_record", file_format="array_record").download_and_prepare()
        rewrite(path / "array_record" / name / "1.0.0", path / "tfrecord" / name / "1.0.0")
    return path


def rewrite(old, new):
    """The same records in the other format. TFDS needs TensorFlow to write it, we do not."""
    from array_record.python.array_record_module import ArrayRecordReader

    shutil.copytree(old, new, ignore=shutil.ignore_patterns("*.array_record-*"))
    info = new / "dataset_info.json"
    info.write_text(re.sub('"fileFormat": "array_record"', '"fileFormat": "tfrecord"', info.read_text()))
    for file in old.glob("*.array_record-*"):
        reader = ArrayRecordReader(str(file))
        records = reader.read_all()
        reader.close()
        (new / file.name.replace("array_record", "tfrecord")).write_bytes(b"".join(map(frame, records)))


@pytest.fixture(params=["array_record", "tfrecord"])
def tfds_dir(request, prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared / request.param))
    data._read.cache_clear()
    yield prepared / request.param
    data._read.cache_clear()


def test_images(tfds_dir):
    splits = load("tfds:tiny_squares", "classes")
    assert sorted(splits["test"]["y"]) == list(range(40, 52))  # the official one
    rest = np.concatenate([splits[name]["y"] for name in ("train", "inner_valid", "outer_valid")])
    assert sorted(rest) == list(range(40))
    for part in splits.values():
        assert part["x"].dtype == np.uint8 and part["x"].shape[1:] == (2, 2, 1) and part["y"].dtype == np.int32
        assert (part["x"][:, 0, 0, 0] == part["y"]).all()
    assert "tensorflow" not in sys.modules


def test_images_of_different_sizes_are_cut_and_resized(tfds_dir):
    found = tfds.arrays("tiny_photos")
    assert found["x"].shape == (40, 32, 32, 3) and found["test_x"].shape == (12, 32, 32, 3)  # from `validation`
    means = np.stack([blocks(picture(i)[1]) for i in range(40)])
    for image in found["x"]:
        nearest = np.abs(means - image).sum(axis=(1, 2, 3)).argmin()
        np.testing.assert_allclose(image, means[nearest], atol=1)  # rounded to a half, by rows and by columns
    assert sorted(found["y"]) == sorted(i % 3 for i in range(40))


def blocks(pixels):
    """The mean of each of 32x32 blocks of a square image."""
    n = len(pixels) // 32
    return pixels.reshape(32, n, 32, n, 3).mean(axis=(1, 3))


def test_a_photograph_is_decoded_at_a_fraction():
    """A smooth JPEG of 512x768: within what JPEG loses and its own averaging rounds, a few grey levels."""
    from PIL import Image

    rows, columns = np.mgrid[:512, :768] / 512
    pixels = np.stack([255 * rows, 127 + 120 * np.sin(3 * columns), 255 * rows * columns / 1.5], axis=-1).astype(
        np.uint8
    )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    np.testing.assert_allclose(tfds._resized(file.getvalue()), blocks(pixels[:, 128:640]), atol=4)


def test_tables(tfds_dir):
    """Columns as TFDS gives them: flag, kind (one-hot), pair, size by name; the text is left out; y is price."""
    found = tfds.arrays("tiny_table")
    i = found["y"] * 4
    columns = {"flag": i % 2 == 0, "kind": np.eye(3)[(i % 3).astype(int)], "pair": np.stack([i, -i], 1), "size": i}
    want = np.concatenate([np.reshape(columns[name], (40, -1)) for name in sorted(columns)], axis=1)
    assert found["x"].dtype == np.float32 and sorted(map(tuple, found["x"])) == sorted(map(tuple, want))
    splits = load("tfds:tiny_table", "regression")
    # standardised: sums of 32 float32 numbers of about unit size
    np.testing.assert_allclose(splits["train"]["x"].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(splits["train"]["y"].std(), 1, atol=1e-5)


def test_texts(tfds_dir):
    found = tfds.arrays("tiny_texts")
    lines = found["text"].tobytes().decode().splitlines()
    assert sorted(lines) == sorted(row["text"] for row in examples("tiny_texts", "train"))
    assert len(found["test_text"].tobytes().splitlines()) == 12
    assert load("tfds:tiny_texts", "text")["train"]["tokens"].shape[1] == 128


def test_an_absent_one_says_how(tfds_dir):
    assert tfds.names() == ["tiny_photos", "tiny_squares", "tiny_table", "tiny_texts"]
    with pytest.raises(
        DataError, match="not in .*did you mean 'tiny_squares'.*download_and_prepare.*metaopt data import"
    ):
        tfds.prepared("tiny_square")
    assert "TFDS_DATA_DIR" in available("tfds:mnist") and "There: tiny_photos," in available("tfds:mnist")


@pytest.fixture
def copy(prepared, tmp_path, monkeypatch):
    """A tfrecord data set that may be damaged."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return shutil.copytree(prepared / "tfrecord/tiny_squares/1.0.0", tmp_path / "tiny_squares/1.0.0")


def test_an_unreadable_one_says_how(copy):
    (copy.parents[1] / "empty").mkdir()
    with pytest.raises(DataError, match="'empty' in .* cannot be read: .*download_and_prepare"):
        tfds.prepared("empty")
    with pytest.raises(DataError, match="'tiny_squares:9.9.9' in .* cannot be read"):
        tfds.prepared("tiny_squares:9.9.9")
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace('"tfrecord"', '"riegeli"'))
    with pytest.raises(DataError, match="'tiny_squares' in .* cannot be read"):
        tfds.prepared("tiny_squares")


def test_damaged_files_are_named(copy):
    file = next(copy.glob("*-train.tfrecord-*"))
    good = file.read_bytes()
    one = len(frame(b"")) + int.from_bytes(good[:8], "little")
    for bad, message in {
        good[:-1]: "it ends within a record",
        good[:40] + bytes([good[40] ^ 1]) + good[41:]: "the checksum of a record does not fit",
        good[one:]: "fewer rows than the 40",
        good + good[:one]: "more rows than the 40",
        frame(b"no example") * 40: "cannot be read",
    }.items():
        file.write_bytes(bad)
        with pytest.raises(DataError, match=f"'tiny_squares'.*{message}"):
            tfds.prepared("tiny_squares")
    file.unlink()
    with pytest.raises(DataError, match="cannot be read: .*No such file"):
        tfds.prepared("tiny_squares")


@pytest.mark.parametrize("limit", ["_pairs", "_text"])
def test_what_is_too_large_is_refused(limit, prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared / "tfrecord"))
    monkeypatch.setattr(tfds, "LIMIT", 100)
    with pytest.raises(DataError, match="is larger than 0 MiB"):
        tfds.prepared("tiny_squares" if limit == "_pairs" else "tiny_texts")


def test_a_real_data_set_of_the_library_with_made_up_rows(tmp_path, monkeypatch):
    """TFDS's own description of MNIST; its mock gives random images of that shape in place of the files."""
    import tensorflow_datasets as library

    folder = tmp_path / "mnist/3.0.1"
    builder = library.builder("mnist", data_dir=tmp_path, file_format="array_record")
    template = library.core.ShardedFileTemplate(folder, dataset_name="mnist", filetype_suffix="array_record")
    splits = [library.core.SplitInfo(name, [12], 1, filename_template=template) for name in ("train", "test")]
    builder.info.set_splits(library.core.splits.SplitDict(splits))
    folder.mkdir(parents=True)
    builder.info.write_to_directory(folder)

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("METAOPT_DATA_DIR", str(tmp_path / "own"))
    monkeypatch.setattr(images, "KNOWN", {"mnist": images.KNOWN["mnist"]._replace(train=12, test=12)})
    with library.testing.mock_data(num_examples=12, data_dir=str(tmp_path)):
        raw, splits = tfds.arrays("mnist"), images.mnist()
    assert raw["x"].shape == (12, 28, 28, 1) and raw["x"].dtype == np.uint8 and raw["x"].std() > 50
    assert splits["test"]["x"].shape == (12, 28, 28) and splits["train"]["y"].dtype == np.int32
    assert all(part["y"].min() >= 0 and part["y"].max() < 10 for part in splits.values())
