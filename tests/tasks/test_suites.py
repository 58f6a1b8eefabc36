"""Suites: readable without importing, buildable, and held out for real."""

import ast
import inspect

import jax
import pytest

from metaopt import data
from metaopt.data import DATASETS
from metaopt.tasks import TASKS, suites

ENTRIES = [(name, entry) for name, suite in suites.SUITES.items() for entry in suite]


def pairs(suite: str) -> set[tuple]:
    """The (family, data set) pairs of a suite."""
    return {(entry["name"], entry.get("dataset")) for entry in suites.SUITES[suite]}


@pytest.mark.parametrize("heldout", [name for name in suites.SUITES if name.startswith("heldout")])
@pytest.mark.parametrize("seen", [name for name in suites.SUITES if name.startswith(("train", "valid"))])
def test_held_out_is_held_out(heldout, seen):
    assert not pairs(heldout) & pairs(seen)


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
    arguments = {key: value for key, value in entry.items() if key != "name"}
    task = TASKS[entry["name"]](**arguments)
    assert arguments.get("dataset", "digits") in DATASETS
    if reason := data.available(arguments.get("dataset", "digits")):
        pytest.skip(reason)

    def fresh(arrays, key):
        cfg = task.sample(key)
        batch = task.batch(cfg, arrays, key, "outer_valid")
        return task.normalize(cfg, task.loss(cfg, task.init(cfg, key), batch, key)[0])

    shape = jax.eval_shape(fresh, task.data(), jax.random.key(0))
    assert shape.shape == () and shape.dtype == jax.numpy.float32
