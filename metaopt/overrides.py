"""The text of configs: YAML as they are written in it, and overrides `a.b.c=value`."""

import re
from typing import Any

import yaml


def show(value: Any) -> str:
    """A value as it stands in a message."""
    return "nothing" if value is None else value if isinstance(value, str) else repr(value)


class BadOverride(Exception):
    """args: key, expected, given."""


def apply(raw: dict[str, Any], override: str) -> str:
    """Sets one value in place and returns its dotted key."""
    path, equals, text = override.partition("=")
    parts = path.split(".")
    if not equals or not all(parts):
        raise BadOverride("", "key=value or key.key=value", override)
    try:
        value = yaml.load(text, Loader)
    except yaml.YAMLError:
        raise BadOverride(path, "a YAML value", text) from None
    node: Any = raw
    for depth, part in enumerate(parts[:-1]):
        key = _key(node, part, parts[:depth])
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {"name": "adam"} if parts[: depth + 1] == ["outer", "optimizer"] else {}
        elif isinstance(node[key], str):
            node[key] = {"name": node[key]}  # the short form of an entry
        node = node[key]
    node[_key(node, parts[-1], parts[:-1])] = value
    return path


def _key(node: Any, part: str, path: list[str]) -> str | int:
    """`part` as a key of a dict or an index of a list."""
    if isinstance(node, dict):
        return part
    where = ".".join(path)
    if not isinstance(node, list):
        raise BadOverride(f"{where}.{part}", f"an existing key: {where} holds a value", show(node))
    if not part.isdecimal() or int(part) >= len(node):
        raise BadOverride(f"{where}.{part}", f"an index of {where}, 0 to {len(node) - 1}", part)
    return int(part)


class Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (key_node, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} given twice", key_node.start_mark)
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Quotes the strings that `Loader` would take for numbers."""


for _class in (Loader, Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
