"""What holds for every data set, and what is particular to the bundled ones."""

import numpy as np
import pytest

from metaopt.data import DATASETS, KINDS, DataError, available, images, kind_of, load
from metaopt.data._common import split, split_text, standardise
from metaopt.data.python_text import _once

SPLITS = {"train", "inner_valid", "outer_valid", "test"}
CLASSES = {"digits": 10, "breast_cancer": 2, "wine": 3, "synthetic_images": 10}
CLASSES |= {name: known.classes for name, known in images.KNOWN.items()}
SIZES = {"digits": 1797, "breast_cancer": 569, "wine": 178, "diabetes": 442, "synthetic_images": 2000}
SIZES |= {name: known.train + known.test for name, known in images.KNOWN.items()}
TEXTS = {"topics": (300_000, 600_000), "source": (5e6, 2e7)}  # bytes; they differ from one Python to the next


@pytest.fixture(params=DATASETS)
def name(request):
    if reason := available(request.param):
        pytest.skip(reason)
    return request.param


def test_contract(name):
    splits = load(name)
    assert set(splits) == SPLITS and load(name) is splits  # read once a process
    kind = kind_of(splits)
    assert load(name, kind) is splits
    for part in splits.values():
        assert set(part) == ({"tokens"} if kind == "text" else {"x", "y"})
        assert all(isinstance(array, np.ndarray) and len(array) for array in part.values())
    if kind != "text":
        assert sum(len(part["y"]) for part in splits.values()) == SIZES[name]
    for other in set(KINDS) - {kind}:
        with pytest.raises(DataError, match=f"{name}' is of the kind {kind}, and {other} is needed"):
            load(name, other)


@pytest.mark.parametrize("name", [*CLASSES, "diabetes"])
def test_inputs_and_labels(name):
    if reason := available(name):
        pytest.skip(reason)
    splits = load(name)
    for part in splits.values():
        x, y = part["x"], part["y"]
        assert x.dtype in (np.float32, np.uint8) and x.shape[1:] == splits["train"]["x"].shape[1:]
        assert x.dtype == np.uint8 or (np.isfinite(x).all() and 0.2 < x.std() < 2)
        assert y.dtype == (np.float32 if name == "diabetes" else np.int32) and y.shape == (len(x),)
        if name in CLASSES:
            assert set(np.unique(y)) == set(range(CLASSES[name]))  # every class in every split


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_windows_that_share_nothing(name):
    splits = load(name)
    low, high = TEXTS[name]
    assert low < sum(part["tokens"].size for part in splits.values()) < high
    assert all(part["tokens"].dtype == np.uint8 and part["tokens"].shape[1] == 128 for part in splits.values())
    seen = {row.tobytes() for row in splits["train"]["tokens"]}
    for held_out in SPLITS - {"train"}:
        rows = splits[held_out]["tokens"]
        assert sum(row.tobytes() in seen for row in rows) <= 0.001 * len(rows)
    assert b"the" in splits["train"]["tokens"].tobytes() and b"the" in splits["test"]["tokens"].tobytes()


def test_every_data_set_is_known_here():
    assert set(DATASETS) == set(SIZES) | set(TEXTS) and set(CLASSES) < set(SIZES)


def test_digits_are_the_published_ones():
    """Class counts of the test part of the UCI set (178, 182, ...), grey levels k / 16."""
    parts = load("digits").values()
    counts = sum(np.bincount(part["y"], minlength=10) for part in parts)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert {part["x"].shape[1:] for part in parts} == {(8, 8)}
    assert set(np.unique(load("digits")["train"]["x"])) == {np.float32(k / 16) for k in range(17)}


def test_tables_are_standardised_by_their_train_split():
    for name, counts in {"breast_cancer": [212, 357], "wine": [59, 71, 48]}.items():
        splits = load(name)
        assert sum(np.bincount(part["y"]) for part in splits.values()).tolist() == counts
        # a float32 mean of n unit-size numbers is good to about n times the rounding error of one, 401 * 6e-8
        np.testing.assert_allclose(splits["train"]["x"].mean(axis=0), 0.0, atol=3e-5)
        np.testing.assert_allclose(splits["train"]["x"].std(axis=0), 1.0, atol=3e-5)
        assert abs(splits["test"]["x"].mean()) > 1e-3  # and not by their own


def test_split_is_a_fixed_partition():
    rows = np.arange(105)
    splits = split(rows, 2 * rows)
    assert {name: len(part["x"]) for name, part in splits.items()} == {
        "train": 75, "inner_valid": 10, "outer_valid": 10, "test": 10,
    }  # fmt: skip
    assert sorted(np.concatenate([part["x"] for part in splits.values()])) == rows.tolist()
    assert all((part["y"] == 2 * part["x"]).all() for part in splits.values())
    assert (split(rows, rows)["test"]["x"] == splits["test"]["x"]).all()


def test_split_keeps_an_official_test_set():
    rows = np.arange(100)
    splits = split(rows, rows, (np.array([7, 8]), np.array([1, 0])))
    assert splits["test"]["x"].tolist() == [7, 8] and splits["test"]["y"].tolist() == [1, 0]
    assert [len(splits[name]["x"]) for name in ("train", "inner_valid", "outer_valid")] == [80, 10, 10]
    assert sorted(np.concatenate([splits[name]["x"] for name in SPLITS - {"test"}])) == rows.tolist()


def test_diabetes_is_the_published_one():
    """Targets are 25..346 with mean 152.13 and deviation 77.0 (of 442, dividing by n) before they are standardised."""
    parts = load("diabetes").values()
    y = np.concatenate([part["y"] for part in parts]).astype(np.float64)
    np.testing.assert_allclose((y.max() - y.min()) / y.std(), (346 - 25) / 77.00574586945044, rtol=1e-6)
    np.testing.assert_allclose((y.mean() - y.min()) / y.std(), (152.13348416289594 - 25) / 77.00574586945044, rtol=1e-6)
    assert len(np.unique(np.concatenate([part["x"][:, 1] for part in parts]))) == 2  # sex
    np.testing.assert_allclose(
        [load("diabetes")["train"]["y"].mean(), load("diabetes")["train"]["y"].std()], [0, 1], atol=3e-5
    )


def test_made_up_images_can_be_learned_but_not_by_single_pixels():
    """Least squares of the labels on all pixels is right on most images left out, on one pixel's colours rarely."""
    splits = load("synthetic_images")
    assert splits["train"]["x"].shape[1:] == (32, 32, 3) and splits["train"]["x"].dtype == np.uint8

    def accuracy(pixels):
        x, test = (splits[name]["x"].reshape(-1, 3072)[:, pixels] / 255 - 0.5 for name in ("train", "test"))
        weights, *_ = np.linalg.lstsq(x.T @ x + np.eye(x.shape[1]), x.T @ np.eye(10)[splits["train"]["y"]])
        return (np.argmax(test @ weights, axis=1) == splits["test"]["y"]).mean()

    assert accuracy(slice(0, 3072, 8)) > 0.9 and accuracy(slice(1536, 1539)) < 0.5


def test_standardising_leaves_a_constant_column_at_zero():
    x = np.array([[1, 5], [3, 5]], np.float32)
    splits = standardise({"train": {"x": x}, "test": {"x": x + 1}})
    assert splits["train"]["x"].tolist() == [[-1, 0], [1, 0]] and splits["test"]["x"].tolist() == [[0, 1], [2, 1]]


def test_targets_with_decimals_stay_floats():
    rows = np.arange(20)
    assert {part["y"].dtype.name for part in split(rows, rows / 2).values()} == {"float32"}
    assert {part["y"].dtype.name for part in split(rows, rows).values()} == {"int32"}


def test_split_text_is_consecutive():
    text = np.random.default_rng(0).integers(0, 256, 23 * 128 + 7, dtype=np.uint8).tobytes()
    splits = split_text(text)
    assert {name: len(part["tokens"]) for name, part in splits.items()} == {
        "train": 17, "inner_valid": 2, "outer_valid": 2, "test": 2,
    }  # fmt: skip
    order = ("train", "inner_valid", "outer_valid", "test")
    assert b"".join(splits[name]["tokens"].tobytes() for name in order) == text[: 23 * 128]
    official = split_text(text, bytes(300))
    assert {name: len(part["tokens"]) for name, part in official.items()} == {
        "train": 19, "inner_valid": 2, "outer_valid": 2, "test": 2,
    }  # fmt: skip
    assert not official["test"]["tokens"].any()
    for short in ((bytes(1279), None), (bytes(9999), bytes(100))):
        with pytest.raises(DataError, match="at least 1280 bytes"):
            split_text(*short)


def test_paragraphs_appear_once():
    assert _once([b"a\n\nb  c\n\nd", b"b\nc\n\ne"]) == b"a\n\nb  c\n\nd\n\ne"


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(DataError, match="did you mean 'digits'"):
        load("digit")
    assert "unknown data set" in available("no_such_thing_at_all")
