"""The optimizers of a comparison, as they are written on the command line: NAME[:key=value,...][@TRIALS]

small, runs/wide, best.safetensors   learned: a name that ships with the package, a run folder, a file of weights
adamw:lr=1e-3                        hand-designed, with what optax calls its arguments; lr is the learning rate
adamw                                the same with its learning rate tuned on each task, over 14 rates
adamw:schedule=cosine,warmup=0.05    so are the others: with a schedule over the run, warm-up as a share of the run
sgd:schedule=step_drop,schedule.factor=0.5@5      the first 5 of the rates only
sgd:batch_size=1, sgd:batch_size=full  its own minibatches where a task has any; full: as many rows as there are
nadamw8p@100, adam8p@1000            the best of so many random draws from the space of that name, on each task
ordered@10                           the best of the first 10 of a list that is good on the tasks trained on
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from metaopt import build, config, weights
from metaopt.entry import Entry, nearest
from metaopt.evaluate import spaces
from metaopt.evaluate.baselines import REFERENCE, USUAL
from metaopt.evaluate.suite import FULL, Contender, digest
from metaopt.optimizers._values import theta_of
from metaopt.overrides import BadOverride, apply
from metaopt.train import RunError
from metaopt.types import LearnedOptimizer, PyTree

RULES = {"nadamw8p": "nadamw8p", "adam8p": "adam8p", "ordered": "nadamw8p"}  # the optimizers of the random spaces
RATE = "learning_rate"


class Spec(NamedTuple):
    """A contender as it was written."""

    text: str
    name: str
    options: dict[str, Any]
    trials: int | None


def contenders(texts: Sequence[str], trials: int) -> list[Contender]:
    """What the texts stand for, in their order, then the two that are always there; each once.

    trials: the budget of what is tuned and does not say how many itself
    """
    made = {contender.name: contender for text in (*texts, USUAL, REFERENCE) for contender in [_make(text, trials)]}
    return list(made.values())


def learned(name: str, optimizer: LearnedOptimizer, theta: PyTree, entry: dict[str, Any]) -> Contender:
    """A learned optimizer with its weights; `entry` is that of its architecture."""
    about = f"{entry['name']}, {sum(np.size(x) for x in jax.tree.leaves(theta)):,} learned numbers"
    identity = {"optimizer": entry, "theta": digest(theta)}
    return Contender(
        name, "learned", about, optimizer, jax.tree.map(lambda x: np.asarray(x)[None], theta), {}, identity
    )


def _make(text: str, trials: int) -> Contender:
    if text in weights.names() or text.endswith(".safetensors") or Path(text).exists():
        found = weights.read(text)
        name = found.path.parent.name if Path(text).is_dir() else found.path.stem
        return learned(name or text, found.optimizer, found.theta, found.meta["optimizer"])
    spec = parse(text)
    if spec.name in RULES:
        return _random(spec, trials)
    return _hand_designed(spec, trials)


def parse(text: str) -> Spec:
    """Raises ConfigError for what is not written as it should be."""
    body, at, count = text.partition("@")
    name, _, options = body.partition(":")
    if at and not (count.isdecimal() and int(count) > 0):
        raise _error(text, "a number of trials behind @", count)
    raw: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        try:
            apply(raw, option.strip())
        except BadOverride as error:
            raise _error(text, error.args[1], error.args[2]) from None
    if "lr" in raw:
        raw[RATE] = raw.pop("lr")
    return Spec(text, name, raw, int(count) if at else None)


def _random(spec: Spec, trials: int) -> Contender:
    """A space of its own."""
    if spec.options:
        raise _error(spec.text, f"no options: {spec.name} draws them all", ", ".join(spec.options))
    count = _count(spec, trials, spaces.size(spec.name), strict=True)
    entry = config.entry("optimizers", {"name": RULES[spec.name]}, spec.text)
    about = {"ordered": "the best of the first {} of an ordered list", "nadamw8p": "the best of {} random NAdamW"}
    words = about.get(spec.name, "the best of {} random Adam").format(count) + ", on each task"
    identity = {"optimizer": entry.model_dump(), "space": spec.name}
    if spec.name == "ordered":
        identity["list"] = hashlib.sha256(repr(spaces.ordered_list()).encode()).hexdigest()[:16]
    return _tuned(spec, f"{spec.name}@{count}", words, entry, spaces.values(spec.name, count), identity)


def _hand_designed(spec: Spec, trials: int) -> Contender:
    options = dict(spec.options)
    rate = options.pop(RATE, None)
    outside: dict[str, Any] = {key: options.pop(key) for key in ("schedule", "warmup") if key in options}
    batch = {key: options.pop(key) for key in ("batch_size",) if key in options}
    size = batch.get("batch_size")
    if batch and size != FULL and not (type(size) is int and size > 0):
        raise _error(spec.text, f"a positive batch_size, or {FULL}", size)
    raw: dict[str, Any] = {"name": "hyper", "base": spec.name, "learnable": {RATE: 1e-3}, "fixed": options, **outside}
    entry = config.entry("optimizers", raw, spec.text)
    written = ",".join(f"{key}={_shown(value)}" for key, value in (outside | batch | options).items())
    if rate is None:
        count = _count(spec, trials, spaces.size(RATE), strict=spec.trials is not None)
        name = f"{spec.name}:{written}@{count}" if written else f"{spec.name}@{count}"
        identity = {"optimizer": entry.model_dump(), "space": RATE, **batch}
        words = f"{spec.name}, the best of {count} learning rates on each task"
        return _tuned(spec, name, words, entry, spaces.values(RATE, count), identity)._replace(batch_size=size)
    if spec.trials is not None:
        raise _error(spec.text, "a learning rate, or a number of trials to tune it", "both")
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not rate > 0:
        raise _error(spec.text, "a positive learning rate", rate)
    name = f"{spec.name}:{','.join(filter(None, [f'lr={rate:g}', written]))}"
    values = {RATE: np.array([rate], float)}
    identity = {"optimizer": entry.model_dump(), "values": {RATE: rate}, **batch}
    rule = _rule(entry, spec)
    return Contender(name, "fixed", f"{spec.name} as it is", rule, theta_of(values), values, identity, size)


def _tuned(
    spec: Spec, name: str, about: str, entry: Entry, values: spaces.Values, identity: dict[str, Any]
) -> Contender:
    return Contender(name, "tuned", about, _rule(entry, spec), theta_of(values), values, identity)


def _rule(entry: Entry, spec: Spec) -> LearnedOptimizer:
    """An unknown name may be meant as one of optax or as weights; the error says what it is not."""
    try:
        return build.optimizer(entry)
    except RunError as error:
        close = nearest(spec.name, [*weights.names(), *RULES])
        hint = f"; did you mean {close}?" if close and "did you mean" not in str(error) else ""
        raise RunError(f"{spec.text}: neither weights nor a hand-designed optimizer: {error}{hint}") from error


def _count(spec: Spec, trials: int, most: int, strict: bool) -> int:
    if spec.trials is None and not strict:
        return min(trials, most)
    count = spec.trials or trials
    if count > most:
        raise _error(spec.text, f"at most {most} trials", count)
    return count


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        rest = "".join(f",schedule.{key}={_shown(x)}" for key, x in value.items() if key != "name")
        return f"{value.get('name')}{rest}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _error(text: str, expected: str, given: Any) -> config.ConfigError:
    return config.ConfigError([config.Problem("command line", text, expected, str(given))])
