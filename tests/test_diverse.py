"""configs/diverse.yaml: ten families in one run, none of them held out."""

from pathlib import Path

import jax
import pytest

from metaopt import build, config, train
from metaopt.tasks.suites import SUITES

FILE = Path(__file__).parent.parent / "configs/diverse.yaml"


def problems(entries) -> set[tuple[str, str | None]]:
    return {(entry["name"], entry.get("dataset")) for entry in entries}


def test_ten_families_of_the_diverse_suite():
    settings = config.load(FILE)
    trained = problems(entry.model_dump() for entry in settings.tasks)
    assert len({name for name, _ in trained}) >= 10
    assert trained <= problems(SUITES["train_diverse"])
    heldout = problems(SUITES[settings.heldout.suite])
    for i in range(2):  # no family, no data set
        assert not {entry[i] for entry in trained} & {entry[i] for entry in heldout} - {None}


@pytest.mark.slow
def test_an_outer_step():
    """Of fewer and shorter runs; then each family alone."""
    small = ["estimator.num_tasks=2", "estimator.truncation=2", "estimator.horizon=4"]
    settings = config.load(FILE, small)
    learned = build.optimizer(settings.optimizer)
    families = build.families(settings, learned)
    init, step = train.make_train(learned, families, build.outer(settings.outer, settings.steps))
    data = build.place(families)
    state, metrics = step(init(jax.random.key(0)), data, 1)
    assert all(0 < metrics[f"{family.name}/meta_loss"][0] < 10 for family in families)
    assert metrics["grad_norm"][0] > 0 and metrics["skipped"][0] == 0
    rates = train.throughput(step, state, data, 1, [family.estimator.inner_steps for family in families])
    assert len(rates) == len(families) and all(rate is None or rate > 0 for rate in rates)
