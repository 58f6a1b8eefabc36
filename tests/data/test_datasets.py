"""What holds for every data set, and what is particular to the bundled ones."""

import numpy as np
import pytest

from metaopt.data import DATASETS, DataError, available, load
from metaopt.data._common import split

SPLITS = {"train", "inner_valid", "outer_valid", "test"}
CLASSES = {"digits": 10, "breast_cancer": 2, "wine": 3, "fashion_mnist": 10}
SIZES = {"digits": 1797, "breast_cancer": 569, "wine": 178, "fashion_mnist": 70_000}


@pytest.fixture(params=DATASETS)
def name(request):
    if reason := available(request.param):
        pytest.skip(reason)
    return request.param


def test_contract(name):
    splits = load(name)
    assert set(splits) == SPLITS and sum(len(part["y"]) for part in splits.values()) == SIZES[name]
    for part in splits.values():
        x, y = part["x"], part["y"]
        assert set(part) == {"x", "y"} and isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
        assert x.dtype in (np.float32, np.uint8) and x.shape[1:] == splits["train"]["x"].shape[1:]
        assert y.dtype == np.int32 and y.shape == (len(x),)
        assert set(np.unique(y)) == set(range(CLASSES[name]))  # every class in every split
        assert x.dtype == np.uint8 or (np.isfinite(x).all() and 0.2 < x.std() < 2)
    assert load(name) is splits  # read once a process


def test_every_data_set_is_known_here():
    assert set(DATASETS) == set(CLASSES) == set(SIZES)


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


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(DataError, match="did you mean 'digits'"):
        load("digit")
    assert "unknown data set" in available("no_such_thing_at_all")
