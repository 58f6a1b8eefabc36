"""Reads the registries and the signatures of their factories from source text, without importing anything.

`metaopt list`, `--help` and a config error must answer at once, and importing jax alone takes longer than that. So the
dict literals (`OPTIMIZERS`, `TASKS`, ...) are parsed, and each name is followed through `from X import name`, aliases
and `functools.partial` to the `def` it stands for. A name that cannot be followed is imported after all and inspected.
"""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from functools import cache
from inspect import _ParameterKind as Kind
from pathlib import Path
from typing import Any, NamedTuple

REGISTRIES = {
    "optimizers": ("metaopt.optimizers", "OPTIMIZERS"),
    "estimators": ("metaopt.estimators", "ESTIMATORS"),
    "horizons": ("metaopt.estimators", "HORIZONS"),
    "outer_losses": ("metaopt.estimators", "OUTER_LOSSES"),
    "tasks": ("metaopt.tasks", "TASKS"),
    "datasets": ("metaopt.data", "DATASETS"),
    "schedules": ("metaopt.schedules", "SCHEDULES"),
    "outer": ("metaopt.outer", "OUTER"),
}
SUITES = ("metaopt.tasks.suites", "SUITES")
PURPOSES = ("metaopt.tasks.suites", "PURPOSES")  # what each suite is for
FACTS = ("metaopt.optimizers", "FACTS")  # what each optimizer costs and uses
REFERENCE = ("metaopt.checkpoint.reference", "REFERENCE")  # architectures whose weights can be imported
PUBLISHED = ("metaopt.checkpoint.reference", "PUBLISHED")  # arguments of such weights
OPTAX = ("optax", "optax._src.alias")  # its optimizers, for `reexports`
OUTER = "outer"  # the kind of an optimizer of theta: one of that registry, or of optax's
SUPPLIED = {"estimators": 2, "schedules": 2, OUTER: 1}  # leading arguments that the program gives, not the config
POSITIONAL, KEYWORD = Kind.POSITIONAL_OR_KEYWORD, Kind.KEYWORD_ONLY
REQUIRED = inspect.Parameter.empty
# Annotation of a parameter that is an entry itself -> its registry
NESTED = {
    "LearnedOptimizer": "optimizers",
    "Task": "tasks",
    "Horizon": "horizons",
    "OuterLoss": "outer_losses",
    "Schedule": "schedules",
}
WHOLE_RUNS = ("metaopt.estimators", "WHOLE_RUNS")  # the estimators of whole runs


class Source(str):
    """A default that is not a literal, as its source text."""


class Parameter(NamedTuple):
    """One parameter of a factory. `default` is REQUIRED where there is none, a `Source` where it is not a literal."""

    name: str
    annotation: str | None
    default: Any
    kind: Kind

    @property
    def is_keyword(self) -> bool:
        return self.kind in (POSITIONAL, KEYWORD)

    @property
    def nested(self) -> str | None:
        """The registry that the value is an entry of, if it is one."""
        return NESTED.get(self.annotation or "")


class Factory(NamedTuple):
    """What a call to a factory looks like, and what its author says about it."""

    name: str
    module: str
    doc: str
    module_doc: str
    parameters: tuple[Parameter, ...]

    @property
    def headline(self) -> str:
        """The first paragraph of the file that is named after the factory (it cites the paper); else its own."""
        doc = self.module_doc if self.module.endswith(f".{self.name}") else self.doc
        return " ".join(doc.split("\n\n")[0].split())

    def describe(self, parameter: str) -> str:
        """The docstring's line `parameter: text`, or ''."""
        found = re.search(rf"^\s*`*{re.escape(parameter)}`*(?: \([^)]*\))?:\s+(.+)$", self.doc, re.MULTILINE)
        return found[1].strip() if found else ""


class Dynamic(Exception):
    """The source text does not tell: import it."""


@cache
def registry(module: str, variable: str) -> dict[str, Factory]:
    """The factories of the dict literal `variable` of `module`, in its order."""
    node = _assigned(_parse(module), variable)
    if not isinstance(node, ast.Dict) or None in node.keys:
        entries = getattr(importlib.import_module(module), variable)
        return {name: _inspected(name, entry) for name, entry in entries.items()}
    factories = {}
    for name, value in zip(map(ast.literal_eval, filter(None, node.keys)), node.values, strict=True):
        try:
            factories[name] = _follow(module, value)._replace(name=name)
        except Dynamic:
            factories[name] = _inspected(name, getattr(importlib.import_module(module), variable)[name])
    return factories


@cache
def factory(module: str, name: str) -> Factory:
    """The factory that `module.name` stands for. Raises AttributeError where the module has no such name."""
    try:
        return _resolve(module, name)
    except Dynamic:
        return _inspected(name, getattr(importlib.import_module(module), name))


@cache
def literal(module: str, variable: str) -> Any:
    """The value of a variable that is written as a literal."""
    node = _assigned(_parse(module), variable)
    try:
        return ast.literal_eval(node)  # type: ignore[arg-type]  # None is a ValueError as well
    except ValueError:
        return getattr(importlib.import_module(module), variable)


def reexports(module: str, origin: str) -> list[str]:
    """The public lower-case names that `module` imports from `origin`."""
    imports = [node for node in _parse(module).body if isinstance(node, ast.ImportFrom) and node.module == origin]
    names = [alias.asname or alias.name for node in imports for alias in node.names]
    return [name for name in names if name.islower() and not name.startswith("_")]


def keywords(kind: str, factory: Factory) -> dict[str, Parameter]:
    """The parameters that a config may give, by name."""
    return {p.name: p for p in factory.parameters[SUPPLIED.get(kind, 0) :] if p.is_keyword}


def entry_of(call: Source) -> dict[str, Any]:
    """The entry of a config that a call of a factory with literals stands for: `net(size=3)` is name net, size 3."""
    match ast.parse(call, mode="eval").body:
        case ast.Call(ast.Name(name), [], arguments):
            return {"name": name} | {str(given.arg): ast.literal_eval(given.value) for given in arguments}
    raise ValueError(f"{call}: a default of this kind is written NAME(keyword=literal, ...)")


@cache
def _parse(module: str) -> ast.Module:
    path = _file(module)
    if path is None:
        raise ModuleNotFoundError(f"no source file for module {module!r}", name=module)
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _file(module: str) -> Path | None:
    """The source of a module. `find_spec` of a dotted name would run its parents: it gets the top one only."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest and spec.origin and spec.origin.endswith(".py"):
        return Path(spec.origin)
    bases = [Path(location, *rest) for location in spec.submodule_search_locations or ()]
    files = [file for base in bases for file in (base / "__init__.py", base.with_suffix(".py"))]
    return next((file for file in files if file.is_file()), None)


def _assigned(tree: ast.Module, name: str) -> ast.expr | None:
    """The last value that the module gives to a variable."""
    value = None
    for node in tree.body:
        match node:
            case ast.Assign([ast.Name(target)], assigned) | ast.AnnAssign(ast.Name(target), _, assigned) if (
                target == name
            ):
                value = assigned
    return value


def _imported(module: str, name: str) -> tuple[str, str] | None:
    """(module, name there) of a name bound by `from X import name`."""
    for node in reversed(_parse(module).body):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _absolute(module, node), alias.name
    return None


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    file = _file(module)
    parts = module.split(".") if file and file.name == "__init__.py" else module.split(".")[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _resolve(module: str, name: str) -> Factory:
    if _file(module) is None:
        raise Dynamic
    definitions = [node for node in _parse(module).body if isinstance(node, ast.FunctionDef) and node.name == name]
    if definitions:
        return _read(module, definitions[-1])
    value = _assigned(_parse(module), name)
    if value is not None:
        return _follow(module, value)._replace(name=name)
    origin = _imported(module, name)
    if origin is None:
        raise Dynamic
    return _resolve(*origin)


def _follow(module: str, node: ast.expr) -> Factory:
    """The factory an expression stands for: `name`, `module.name` or `functools.partial(one of these, key=literal)`."""
    match node:
        case ast.Name(name):
            return _resolve(module, name)
        case ast.Attribute(ast.Name(owner), name):
            origin = _imported(module, owner)
            if origin is None:
                raise Dynamic
            return _resolve(".".join(origin), name)
        case ast.Call(ast.Name("partial") | ast.Attribute(ast.Name("functools"), "partial"), [target], keywords):
            fixed = {keyword.arg: _value(module, keyword.value) for keyword in keywords}
            return _partial(_follow(module, target), fixed)
    raise Dynamic


def _partial(target: Factory, fixed: dict[str | None, Any]) -> Factory:
    """As `inspect.signature` has it: the first parameter given by keyword and all after it become keyword-only."""
    parameters, kind = [], POSITIONAL
    for parameter in target.parameters:
        if parameter.name in fixed:
            kind = KEYWORD
            parameter = parameter._replace(default=fixed[parameter.name])
        parameters.append(parameter._replace(kind=kind) if kind is KEYWORD and parameter.is_keyword else parameter)
    return target._replace(parameters=tuple(parameters))


def _read(module: str, node: ast.FunctionDef) -> Factory:
    spec = node.args
    positional = spec.posonlyargs + spec.args
    missing: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults))
    kinds = [Kind.POSITIONAL_ONLY] * len(spec.posonlyargs) + [POSITIONAL] * len(spec.args)
    rows: list[tuple[ast.arg, ast.expr | None, Kind]] = list(
        zip(positional, [*missing, *spec.defaults], kinds, strict=True)
    )
    if spec.vararg:
        rows.append((spec.vararg, None, Kind.VAR_POSITIONAL))
    rows += [(arg, default, KEYWORD) for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]
    if spec.kwarg:
        rows.append((spec.kwarg, None, Kind.VAR_KEYWORD))
    parameters = tuple(
        Parameter(
            arg.arg,
            ast.unparse(arg.annotation) if arg.annotation else None,
            REQUIRED if default is None else _value(module, default),
            kind,
        )
        for arg, default, kind in rows
    )
    doc, module_doc = (ast.get_docstring(documented) or "" for documented in (node, _parse(module)))
    return Factory(node.name, module, doc, module_doc, parameters)


def _value(module: str, node: ast.expr) -> Any:
    """A literal, or a name that its own module binds to one; else the source text."""
    constant = _assigned(_parse(module), node.id) if isinstance(node, ast.Name) else node
    try:
        return ast.literal_eval(constant)  # type: ignore[arg-type]
    except ValueError:
        return Source(ast.unparse(node))


def _inspected(name: str, function: Any) -> Factory:
    parameters = tuple(
        Parameter(
            parameter.name,
            None if parameter.annotation is REQUIRED else inspect.formatannotation(parameter.annotation),
            parameter.default,
            parameter.kind,
        )
        for parameter in inspect.signature(function).parameters.values()
    )
    module = getattr(function, "__module__", "")
    module_doc = inspect.getdoc(sys.modules.get(module)) or ""
    return Factory(name, module, inspect.getdoc(function) or "", module_doc, parameters)
