"""The curves that ship with the package are those that this code computes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from metaopt import contenders, evaluation
from metaopt.evaluate.suite import compare
from metaopt.evaluate.trials import SHIPPED, Cache

spec = importlib.util.spec_from_file_location(
    "baselines", Path(__file__).parents[1] / "experiments" / "baselines" / "run.py"
)
assert spec and spec.loader
baselines = importlib.util.module_from_spec(spec)
spec.loader.exec_module(baselines)


def unexpected(task, done, total):
    raise AssertionError(f"{total} searches do not ship: run experiments/baselines/run.py again")


def test_every_baseline_ships_with_all_its_curves(tmp_path):
    """A task, an optimizer, a space or data that changed would have to be run again."""
    entrants = contenders.contenders(baselines.NAMES, 14)
    problems = [p for p in evaluation.problems("heldout_small", 1000) if p.entry.get("dataset") != "fashion_mnist"]
    found = compare(problems, entrants, seeds=3, cache=Cache(tmp_path, SHIPPED), progress=unexpected)
    assert len(found.searches) == 9 and {len(searches) for searches in found.searches.values()} == {len(entrants)}
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("label", "name"), [("quadratic", "adam:lr=0.001"), ("image_mlp-wine-hidden=none", "ordered@1")]
)
def test_curves_that_ship_are_computed_again(tmp_path, label, name):
    """Whoever changes what a run computes raises VERSION. Of problems that do not amplify rounding."""
    entrants = contenders.contenders([name], 14)[:1]
    problems = [problem for problem in evaluation.problems("heldout_small", 1000) if problem.label == label]
    both = [
        compare(problems, entrants, seeds=3, cache=Cache(tmp_path, zip_file), progress=lambda *x: None)
        for zip_file in (SHIPPED, None)
    ]
    old, new = (found.searches[label][name] for found in both)
    # A thousand steps that each round by some 6e-8, of losses that fall by three decades at most
    np.testing.assert_allclose(new.runs.smooth[0], old.runs.smooth[0], rtol=1e-3)
    np.testing.assert_allclose(new.runs.valid[0], old.runs.valid[0], rtol=1e-3)
