"""Suites: readable without importing, buildable, and held out for real."""

import ast
import inspect
from pathlib import Path

import jax
import pytest
import yaml

from metaopt import data
from metaopt.data import DATASETS
from metaopt.tasks import TASKS, make, suites

ENTRIES = [(name, entry) for name, suite in suites.SUITES.items() for entry in suite]


HELD_OUT = [name for name in suites.SUITES if name.startswith("heldout")]
QUICKSTART = "valid_small"  # goes with configs/quickstart.yaml, whose families are held out elsewhere, on other data
SEEN = [name for name in suites.SUITES if name.startswith(("train", "valid")) and name != QUICKSTART]
# The same problem under two names: softmax regression is an image_mlp without hidden layers, one family is a quadratic
# by another's definition.
SAME = {"softmax_regression": "image_mlp", "taskset_quadratic": "quadratic", "bowl": "quadratic", "valley": "quadratic"}


def innermost(entry: dict) -> dict:
    """The entry that wrappers are around, with the default of a data set that is not named."""
    while "base" in entry:
        entry = entry["base"]
    default = inspect.signature(TASKS[entry["name"]]).parameters.get("dataset")
    return {"dataset": default and default.default, **entry}


def entries_of(suite: str) -> list[dict]:
    """Of a suite, or of what a config trains on."""
    if suite in suites.SUITES:
        return [innermost(entry) for entry in suites.SUITES[suite]]
    config = yaml.safe_load((Path(__file__).parents[2] / "configs" / suite).read_text(encoding="utf-8"))
    return [innermost(entry) for entry in config["tasks"]]


def families(suite: str) -> set[str]:
    return {SAME.get(entry["name"], entry["name"]) for entry in entries_of(suite)}


def datasets(suite: str) -> set[str]:
    return {entry["dataset"] for entry in entries_of(suite)} - {None}


@pytest.mark.parametrize("heldout", HELD_OUT)
@pytest.mark.parametrize("seen", [*SEEN, "flagship.yaml", "diverse.yaml"])
def test_held_out_shares_no_family_and_no_data_set(heldout, seen):
    """So no split of a data set either."""
    assert not families(heldout) & families(seen)
    assert not datasets(heldout) & datasets(seen)


@pytest.mark.parametrize("heldout", HELD_OUT)
def test_the_quickstart_shares_no_data_set_with_what_is_held_out(heldout):
    assert not datasets(heldout) & datasets(QUICKSTART)


def test_suites_of_a_kind():
    """Larger ones hold the smaller; weights are chosen on families that are trained on, but other members."""
    entries = suites.SUITES
    assert all(entry in entries["heldout_full"] for entry in entries["heldout_small"])
    assert families("train_small") <= families("train_diverse") and len(families("train_diverse")) >= 10
    for chooses in ("valid", "valid_tiny"):
        assert families(chooses) <= families("train_diverse")
        assert not any(entry in entries["train_diverse"] + entries["train_small"] for entry in entries[chooses])


def test_every_suite_has_a_purpose_and_is_named_by_its_role():
    assert set(suites.PURPOSES) == set(suites.SUITES)
    assert all(name.split("_")[0] in ("train", "valid", "heldout") for name in suites.SUITES)


def test_entries_are_distinct_and_literal():
    literals = {}
    for node in ast.parse(inspect.getsource(suites)).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            literals[target.id] = ast.literal_eval(node.value)
    assert literals == {"SUITES": suites.SUITES, "PURPOSES": suites.PURPOSES}
    for suite in suites.SUITES.values():
        assert all(a != b for i, a in enumerate(suite) for b in suite[:i])


@pytest.mark.parametrize(("suite", "entry"), ENTRIES)
def test_every_entry_builds(suite, entry):
    """Shapes alone are computed: nothing is compiled."""
    task, dataset = make(entry), innermost(entry)["dataset"]
    assert dataset is None or dataset in DATASETS
    if dataset and (reason := data.available(dataset)):
        pytest.skip(reason)

    def fresh(arrays, key):
        cfg = task.sample(key)
        batch = task.batch(cfg, arrays, key, "outer_valid")
        return task.normalize(cfg, task.loss(cfg, task.init(cfg, key), batch, key)[0])

    shape = jax.eval_shape(fresh, task.data(), jax.random.key(0))
    assert shape.shape == () and shape.dtype == jax.numpy.float32
