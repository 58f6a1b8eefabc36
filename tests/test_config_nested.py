"""Entries in entries: `base: {name: ..., ...}` of an optimizer that wraps another."""

import json
from pathlib import Path
from typing import Any

import pytest

from metaopt import config
from tests import config_fakes
from tests.config_fakes import errors, parse

NET = {"name": "net", "hidden": 4, "exp_mult": 1e-3, "sizes": [8]}


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test reads the registries of a small package of its own, whose `wrap` has the base `net(hidden=6)`."""
    config_fakes.install(tmp_path, monkeypatch)


def optimizer(*overrides: str, **entry: Any) -> dict[str, Any]:
    """The resolved entry of the optimizer; a config made of it must be equal."""
    run = parse(*overrides, optimizer={"name": "wrap", **entry})
    resolved = config.resolved(run)
    assert config.parse(resolved, "again") == run
    assert json.loads(json.dumps(resolved)) == resolved
    return resolved["optimizer"]


def test_defaults_are_filled_in() -> None:
    assert optimizer() == {"name": "wrap", "base": {**NET, "hidden": 6}, "scale": 1.0}
    assert optimizer(base="net") == optimizer(base={"name": "net"}) == {"name": "wrap", "base": NET, "scale": 1.0}
    assert optimizer(base={"name": "bare", "width": 2}, scale=3)["base"] == {"name": "bare", "width": 2}


def test_an_entry_without_a_name_changes_the_default() -> None:
    assert optimizer(base={"sizes": [1]})["base"] == {**NET, "hidden": 6, "sizes": [1]}


def test_wrappers_wrap_wrappers() -> None:
    assert optimizer(base={"name": "wrap", "base": {"hidden": 2}})["base"]["base"] == {**NET, "hidden": 2}


def test_overrides() -> None:
    assert optimizer("optimizer.base.hidden=8")["base"]["hidden"] == 8
    assert optimizer("optimizer.base.hidden=8", base="net")["base"] == {**NET, "hidden": 8}
    assert optimizer("optimizer.base=bare", "optimizer.base.width=8")["base"] == {"name": "bare", "width": 8}
    run = parse("optimizer=wrap", "optimizer.base.base.hidden=1", "optimizer.base.name=wrap")
    assert config.resolved(run)["optimizer"]["base"]["base"]["hidden"] == 1


def test_every_error_has_its_dotted_key() -> None:
    base = {"name": "net", "hiden": 3, "exp_mult": "x"}
    assert errors("optimizer.base.sizes=3", optimizer={"name": "wrap", "base": base, "scal": 1}) == [
        "run.yaml: optimizer.scal: expected a keyword of wrap (base, scale), got scal; did you mean scale?",
        "run.yaml: optimizer.base.hiden: expected a keyword of net (hidden, exp_mult, sizes), got hiden; "
        "did you mean hidden?",
        "run.yaml: optimizer.base.exp_mult: expected float, got x",
        "override optimizer.base.sizes=3: optimizer.base.sizes: expected tuple[int, ...], got 3",
    ]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("nett", "base.name: expected one of net, bare, mixed, wrap, got nett; did you mean net?"),
        ("bare", "base.width: expected a value: bare needs width: int, got nothing"),
        (3, "base: expected a valid dictionary or instance of Entry, got 3"),
        ({"name": "wrap", "base": {"hidden": "x"}}, "base.base.hidden: expected int, got x"),
    ],
)
def test_wrong_bases(base: Any, expected: str) -> None:
    assert errors(optimizer={"name": "wrap", "base": base}) == [f"run.yaml: optimizer.{expected}"]


def test_json_schema() -> None:
    def wrap(options: list[dict[str, Any]]) -> dict[str, Any]:
        return next(entry for entry in options if entry.get("title") == "wrap")

    outer = wrap(config.json_schema()["properties"]["optimizer"]["anyOf"])
    assert outer["required"] == ["name"]
    base = outer["properties"]["base"]["anyOf"]
    assert base[0] == {"enum": ["net", "bare", "mixed", "wrap"]}
    assert {entry["title"]: entry["required"] for entry in base[1:]}["bare"] == ["width"]  # `name` may be left out
    assert wrap(base)["properties"]["base"] == {
        "description": "LearnedOptimizer"
    }  # anything: the schema ends somewhere
