"""The shape of the code base, read from its source: which module may import which and when, and how long files are."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "metaopt"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")

# A module or package imports only from rows above its own. The names in a row are independent of each other.
ROWS = (
    ("types", "files", "registry", "runtime", "progress", "overrides"),
    ("tree", "linalg", "schedules", "rules"),
    ("entry",),
    ("optimizers", "data", "unroll", "checkpoint", "sharding", "config"),
    ("tasks", "estimators", "evaluate", "train", "record", "weights", "freeze", "measure"),
    ("analysis", "runner", "outer", "begin"),
    ("build", "data_cli"),
    ("contenders", "evaluation"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
ROW = {name: i for i, row in enumerate(ROWS) for name in row}
BY_VALUE = ("tasks", "estimators", "evaluate", "train")  # optimizers come to these as arguments
REGISTRIES = ("optimizers", "tasks", "estimators")
LATE = {"array_record", "matplotlib", "orbax", "scipy", "tensorboardX", "tensorflow_datasets"}


def imports(path: Path) -> set[str]:
    """Every module of ours that the file imports, anywhere in it, as `package.module` below metaopt."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            is_package = (ROOT / node.module.replace(".", "/")).is_dir()
            found |= {f"{node.module}.{alias.name}" if is_package else node.module for alias in node.names}
    return {name.removeprefix("metaopt.") for name in found if name.startswith("metaopt.")}


def part(path: Path) -> str:
    """The module or subpackage directly below metaopt that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_from_rows_above(path):
    own = part(path)
    assert own in ROW, f"{own} has no place in ROWS yet: give it one"
    for name in imports(path):
        other = name.split(".")[0]
        assert other == own or ROW[other] < ROW[own], f"{own} must not import {name}"
        assert not (own in BY_VALUE and other == "optimizers"), f"{own} takes optimizers as values, not by import"


@pytest.mark.parametrize("package", REGISTRIES)
def test_concrete_entries_never_import_each_other(package):
    for path in (PACKAGE / package).glob("*.py"):
        if path.name != "__init__.py":
            siblings = {name.split(".")[1] for name in imports(path) if name.startswith(f"{package}.")}
            assert all(name.startswith("_") for name in siblings), f"{path} imports {siblings}"


def test_slow_libraries_are_imported_late():
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not LATE & {name.split(".")[0] for name in names}, f"{path}:{node.lineno}"


def test_files_are_short():
    for path in [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 300, f"{path} has over 300 lines"
