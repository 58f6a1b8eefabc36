"""What the commands of the command line do, from the values that `build` makes."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.markup import escape

from metaopt import build, contenders, evaluation, runner, train
from metaopt import config as configs
from metaopt.begin import beginning, with_copies
from metaopt.checkpoint import CheckpointError, read_reference, save_weights, write_atomic
from metaopt.data import DataError
from metaopt.entry import Entry
from metaopt.evaluate.report import write_report
from metaopt.evaluate.results import short_rows
from metaopt.evaluate.suite import Contender, validate
from metaopt.evaluate.summary import summarize
from metaopt.evaluate.table import table
from metaopt.evaluate.trials import Cache
from metaopt.evaluation import Settings, cache_folder
from metaopt.train import RunError
from metaopt.types import LearnedOptimizer, PyTree

RESULTS = "results.json"


def run(config: configs.RunConfig, out: str | Path, resume: bool = False) -> None:
    """Meta-trains in the folder `out`, evaluates on held-out tasks, writes the report.

    Raises RunError, DataError or CheckpointError for all that the user must see, runner.Interrupted after a signal.
    """
    out, console = Path(out), _console()
    if runner.wanted(out, configs.resolved(config), lambda path: configs.resolved(configs.load(path)), resume):
        runner.run(_plan(config, out, console), out, console)
        report(out)
    elif not (out / "report.html").exists():
        report(out)
    console.print(f"done: {out / 'report.html'}", soft_wrap=True)


def evaluate(
    texts: Sequence[str],
    settings: Settings,
    trials: int,
    out: str | Path | None,
    cache: Cache,
    rows: str | Path | None = None,
) -> dict[str, Any]:
    """Compares what the texts stand for (see `contenders`), prints the table, writes results.json and the report.

    trials: the budget of what is tuned and does not say how many itself. out: the folder; None: one named after the
    suite and the contenders. rows: a file for the rows alone (`short_rows`). Returns what results.json holds.
    Raises RunError, before anything runs, when there is no folder to put `rows` into.
    """
    console = _console()
    if rows and not Path(rows).parent.is_dir():
        raise RunError(f"{rows}: {Path(rows).parent} is no folder")
    entrants = contenders.contenders(texts, trials)
    folder = Path(out) if out else Path("runs", _slug("eval", settings.suite, *texts))
    found = _compare(entrants, settings, cache, console)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / RESULTS, json.dumps(found).encode())
    if rows:
        write_atomic(rows, json.dumps(short_rows(found), indent=1).encode())
    report(folder)
    console.print(f"done: {folder / 'report.html'}", soft_wrap=True)
    return found


def import_weights(file: str | Path, entry: Entry, out: str | Path, force: bool = False) -> None:
    """Writes the weights that another implementation left in `file` as ours of the architecture `entry`.

    Raises CheckpointError when the file is not readable or does not fit, or when `out` exists and `force` is not set.
    """
    file, out = Path(file), Path(out)
    if out.exists() and not force:
        raise CheckpointError(f"{out}: exists already; --force replaces it")
    if out.exists() and out.samefile(file):
        raise CheckpointError(f"{out}: is the file to import, which stays as it is: give another --out")
    template = jax.eval_shape(build.optimizer(entry).init, jax.random.key(0))
    architecture = f"{entry.name}({', '.join(f'{key}={value}' for key, value in entry.kwargs.items())})"
    theta, digest, unused = read_reference(file, entry.name, template, architecture)
    origin = {"file": file.name, "sha256": digest}
    try:
        save_weights(out, theta, {"optimizer": entry.model_dump(), "imported_from": origin})
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written ({error.strerror})") from error
    size, console = sum(x.size for x in jax.tree.leaves(theta)), _console()
    console.print(f"{out}: {architecture}, {size:,} learned numbers", soft_wrap=True, markup=False)
    if unused:
        text = f"{entry.name} has no use for {', '.join(unused)} in {file.name}"
        console.print(text, soft_wrap=True, markup=False)


def report(folder: str | Path) -> None:
    """Writes the report of the folder of a run or an evaluation. Raises RunError when there is neither in it."""
    try:
        write_report(folder)
    except FileNotFoundError as error:
        raise RunError(str(error)) from None


def _plan(config: configs.RunConfig, out: Path, console: Console) -> runner.Plan:
    text, resolved = configs.to_yaml(config), configs.resolved(config)
    meta = {"optimizer": resolved["optimizer"], "config": resolved}
    if runner.begun(out):
        config = with_copies(config, out)
    learned, whole, copies = beginning(config, build.optimizer(config.optimizer), meta)
    members = build.families(config, learned)
    init, step = train.make_train(learned, members, _outer_for(learned, config))
    return runner.Plan(
        config=text,
        copies=copies,
        init=init,
        step=step,
        data=build.place(members),
        families={family.name: family.estimator.inner_steps for family in members},
        origins=build.origins(config.tasks, members),
        steps=config.steps,
        chunk=config.chunk,
        checkpoint_every=config.checkpoint_every,
        seed=config.seed,
        meta=meta,
        whole=whole,
        validate=_validation(config, learned, console),
        valid_every=config.valid.every if config.valid else config.steps,
        finish=_heldout(config, learned, console),
        tensorboard=config.tensorboard,
    )


def _outer_for(learned: LearnedOptimizer, config: configs.RunConfig) -> optax.GradientTransformationExtraArgs:
    """The outer optimizer, traced once on the shapes of theta: an error before the run if it cannot update that."""
    tx = build.outer(config.outer, config.steps)

    def update(key: jax.Array) -> PyTree:
        theta = learned.init(key)
        return tx.update(theta, tx.init(theta), theta, value=jnp.zeros(()))

    try:
        jax.eval_shape(update, jax.random.key(0))
    except Exception as error:  # whatever goes wrong in code that is not ours
        message = f"outer.optimizer ({config.outer.optimizer.name}): cannot update this theta: {error}"
        raise RunError(message) from error
    return tx


def _validation(
    config: configs.RunConfig, learned: LearnedOptimizer, console: Console
) -> Callable[[PyTree], float] | None:
    """The score of theta on the validation suite, on the tasks that this machine has the data for."""
    if config.valid is None:
        return None
    members = []
    for problem in evaluation.problems(config.valid.suite, config.valid.steps):
        try:
            problem.task.data()
        except DataError as error:
            console.print(f"validation leaves out {problem.label}: {error}", soft_wrap=True)
        else:
            members.append(problem.task)
    if not members:
        raise RunError(f"valid.suite: this machine has the data of no task in {config.valid.suite}")
    return validate(members, learned, steps=config.valid.steps, seeds=config.valid.seeds)


def _heldout(
    config: configs.RunConfig, learned: LearnedOptimizer, console: Console
) -> Callable[[Path, PyTree, dict[str, Any]], dict[str, Any]]:
    """What ends a run: the comparison with Adam on held-out tasks, in results.json, its verdict in the summary."""

    def finish(folder: Path, theta: PyTree, summary: dict[str, Any]) -> dict[str, Any]:
        if config.heldout is None:
            return {**summary, "heldout": None}
        entry, wanted = config.optimizer, config.heldout
        entrants = [contenders.learned(entry.name, learned, theta, entry.model_dump()), *contenders.contenders((), 1)]
        settings = Settings(wanted.suite, wanted.steps, wanted.seeds)
        found = _compare(entrants, settings, Cache(cache_folder()), console)
        write_atomic(folder / RESULTS, json.dumps(found).encode())
        return {**summary, "heldout": summarize(found["rows"], entry.name)}

    return finish


def _compare(entrants: Sequence[Contender], settings: Settings, cache: Cache, console: Console) -> dict[str, Any]:
    """Evaluates and prints the table; on a terminal one line says how far it is, elsewhere every search is a line."""
    with console.status(f"evaluating on {settings.suite}") as status:

        def progress(task: str, done: int, total: int) -> None:
            text = f"{settings.suite}: {done} of {total} searches done, {task}"
            status.update(escape(text)) if console.is_terminal else console.print(text, markup=False)

        found = evaluation.evaluate(entrants, settings, cache, progress)
    console.print(table(found))
    return found


def _slug(*parts: str) -> str:
    """A file name of the parts."""
    return "-".join(re.sub(r"[^A-Za-z0-9.=]+", "-", Path(part).stem if "/" in part else part) for part in parts)[:120]


def _console() -> Console:
    """On a terminal as wide as that, elsewhere wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=140)
