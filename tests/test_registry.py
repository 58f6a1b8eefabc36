"""The static reader tells exactly what importing and inspecting would."""

import inspect
import sys
from pathlib import Path

import optax
import pytest

from metaopt import registry

FAKE = {
    "__init__.py": """
        from functools import partial
        from FAKE.plain import plain as renamed
        from FAKE.plain import SIZES
        from . import plain as module
        from .deeper import other
        from .dynamic import made
        from FAKE.decorated import wrapped
        TOOLS = {"plain": renamed, "other": other, "part": partial(other, b=5), "by_module": module.plain, "made": made,
                 "wrapped": wrapped}
        LIST = {"small": ({"name": "plain", "hidden": (3, 4)},), "none": ()}
        SIZE = len("abc")
    """,
    "plain.py": '''
        """Plain things. A. Author, "On plainness", 2019."""
        import math
        SIZES = (1, 2)
        def plain(task, /, hidden: tuple[int, ...] = SIZES, *rest, std: float = -1e-3, scale: float = math.pi,
                  need: int, **more) -> int:
            """A plain thing.

            hidden: widths of the layers
            """
    ''',
    "deeper/__init__.py": "from ..plain import plain\nfrom .leaf import other",
    "deeper/leaf.py": "def other(a: int, b: 'str | None' = None, c: dict[str, float] = {'lr': 1e-3}): pass",
    "dynamic.py": "made = (lambda: lambda x=3: x)()",
    "decorated.py": "import functools\n@functools.cache\ndef wrapped(x: int = 3): pass",
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = "fake_" + "".join(c for c in request.node.name if c.isalnum())
    for path, text in FAKE.items():
        file = tmp_path / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(inspect.cleandoc(text).replace("FAKE", name))
    monkeypatch.syspath_prepend(tmp_path)
    return name


def assert_same(static: registry.Factory, function: object) -> None:
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    assert [(p.name, p.kind) for p in static.parameters] == [(p.name, p.kind) for p in parameters]
    for read, real in zip(static.parameters, parameters, strict=True):
        assert isinstance(read.default, registry.Source) or read.default == real.default
        assert (read.annotation is None) == (real.annotation is inspect.Parameter.empty)


def test_reads_without_importing(fake: str) -> None:
    module = f"{fake}.plain"
    plain = registry.factory(fake, "renamed")
    assert plain.headline == 'Plain things. A. Author, "On plainness", 2019.'
    assert plain._replace(module="other").headline == "A plain thing."
    assert plain.describe("hidden") == "widths of the layers"
    assert plain.describe("std") == ""
    assert [p.default for p in plain.parameters if p.name in ("std", "scale", "need")] == [
        -1e-3,
        registry.Source("math.pi"),
        registry.REQUIRED,
    ]
    assert plain.parameters[1] == registry.Parameter("hidden", "tuple[int, ...]", (1, 2), registry.POSITIONAL)
    assert registry.literal(fake, "LIST") == {"small": ({"name": "plain", "hidden": (3, 4)},), "none": ()}
    assert registry.reexports(fake, module) == ["renamed"]
    assert fake not in sys.modules


def test_static_equals_inspect(fake: str) -> None:
    factories = registry.registry(fake, "TOOLS")
    tools = __import__(fake).TOOLS
    assert list(factories) == list(tools)
    for name, function in tools.items():
        assert factories[name].name == name
        assert_same(factories[name], function)


def test_imports_what_it_cannot_follow(fake: str) -> None:
    assert registry.factory(fake, "made").parameters[0].default == 3
    assert registry.literal(fake, "SIZE") == 3
    with pytest.raises(AttributeError):
        registry.factory(fake, "nothing")
    with pytest.raises(ModuleNotFoundError):
        registry.registry("no_such_package.sub", "TOOLS")


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "nadamw", "lion", "rmsprop", "lamb"])
def test_optax(name: str) -> None:
    assert_same(registry.factory("optax", name), getattr(optax, name))


@pytest.mark.parametrize("kind", registry.REGISTRIES)
def test_own_registries(kind: str) -> None:
    module, variable = registry.REGISTRIES[kind]
    factories = registry.registry(module, variable)
    real = getattr(__import__(module, fromlist=[variable]), variable)
    assert list(factories) == list(real)
    for name, function in real.items():
        assert_same(factories[name], function)
        assert factories[name].headline, f"{name} has no docstring"


def test_suites_are_literals() -> None:
    module, variable = registry.SUITES
    assert registry.literal(module, variable) == getattr(__import__(module, fromlist=[variable]), variable)


def test_a_call_as_a_default_is_an_entry() -> None:
    assert registry.entry_of(registry.Source("net(hidden=8, sizes=(1, 2))")) == {
        "name": "net",
        "hidden": 8,
        "sizes": (1, 2),
    }
    for source in ("net", "net(8)", "net(size=len)"):
        with pytest.raises(ValueError):
            registry.entry_of(registry.Source(source))
