"""What importing the package costs, and what it offers."""

import subprocess
import sys
from pathlib import Path

import pytest

import metaopt

ROOT = Path(__file__).parents[1]
SLOW = ("jax", "optax", "flax", "orbax", "matplotlib", "tensorflow_datasets", "scipy")


def imported(statement: str) -> set[str]:
    """The slow libraries that a fresh interpreter has after the statement."""
    code = f"{statement}\nimport sys; print(*[name for name in {SLOW} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split())


def test_the_command_line_does_not_wait_for_jax():
    assert imported("import metaopt, metaopt.cli, metaopt.config") == set()


def test_load_needs_jax_and_optax_alone():
    assert imported("from metaopt import load") - {"scipy"} == {"jax", "optax"}  # jax itself imports a part of scipy


@pytest.mark.parametrize("name", metaopt.__all__)
def test_public_names(name):
    assert getattr(metaopt, name) is not None
    assert name in dir(metaopt)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'metaopt' has no attribute 'lode'"):
        metaopt.lode  # noqa: B018
