"""A small package with registries of its own, for the tests of configs to read."""

from pathlib import Path
from typing import Any

import pytest

from metaopt import config, registry

FAKE = '''
def net(hidden: int = 4, exp_mult: float = 1e-3, sizes: tuple[int, ...] = (8,)): """A net.

    hidden: units of a layer"""
def bare(width: int): "Needs a width."
def mixed(base: str = "adam", learnable: dict[str, float] = {"learning_rate": 1e-3}, flag: bool = False, any=None):
    "Mixed."
def wrap(base: LearnedOptimizer, scale: float = 1.0): "Wraps a base."
def pes(task, optimizer, *, num_tasks: int = 8, truncation: int = 20, horizon: int | tuple[int, int] = 200,
        std: float = 0.01, clip: float | None = None): "PES."
def image(dataset: str = "digits", hidden: tuple[int, ...] = (32,)): "An image task."
def quad(dims: int = 10): "A quadratic."
def digits(): "Digits."
def wine(): "Wine."
def learned(learning_rate, num_steps, /, weights: str): "A learned optimizer."
def constant(peak: float, steps: int): "Constant."
def cosine(peak: float, steps: int, dips: int = 1): "Cosine."
OPTIMIZERS = {"net": net, "bare": bare, "mixed": mixed, "wrap": partial(wrap, base=net(hidden=6))}
ESTIMATORS = {"pes": pes}
TASKS = {"image": image, "quad": quad}
DATASETS = {"digits": digits, "wine": wine}
SCHEDULES = {"constant": constant, "cosine": cosine}
OUTER = {"learned": learned}
SUITES = {"valid_small": ({"name": "quad", "dims": 3},), "heldout_small": ({"name": "image", "dataset": "wine"},)}
'''
MINIMAL = {"optimizer": "net", "estimator": "pes", "tasks": [{"name": "image"}]}


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test ends, the registries are those of the small package."""
    name = f"fake_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    for kind in registry.REGISTRIES:
        monkeypatch.setitem(registry.REGISTRIES, kind, (name, kind.upper()))
    monkeypatch.setattr(registry, "SUITES", (name, "SUITES"))


def parse(*overrides: str, **changes: Any) -> config.RunConfig:
    return config.parse({**MINIMAL, **changes}, "run.yaml", overrides)


def errors(*overrides: str, **changes: Any) -> list[str]:
    with pytest.raises(config.ConfigError) as caught:
        parse(*overrides, **changes)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]
