"""The command line. Whatever is slow to import is imported inside the command that needs it."""

import json
import sys
from enum import StrEnum, auto
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metaopt import data_cli, registry
from metaopt.data_cli import DataDir
from metaopt.registry import REQUIRED, Factory

app = typer.Typer(
    help="Meta-train, evaluate and use learned optimizers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich help costs as much time as everything else together
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_cli.app, name="data")
EXPECTED = {  # errors that are answers, not bugs; a module that was not imported cannot have raised one
    "metaopt.config": "ConfigError",
    "metaopt.checkpoint": "CheckpointError",
    "metaopt.data": "DataError",
    "metaopt.train": "RunError",
}
ConfigFile = Annotated[Path, typer.Argument(metavar="FILE", help="A YAML config.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="e.g. estimator.std=0.02 steps=500")]


class Registry(StrEnum):
    optimizers = auto()
    estimators = auto()
    horizons = auto()
    outer_losses = auto()
    tasks = auto()
    suites = auto()
    datasets = auto()
    schedules = auto()
    outer = auto()


@app.command()
def train(
    file: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The run folder.", show_default="runs/<name of FILE>")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in the folder stopped.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Meta-trains a learned optimizer, then compares it with tuned baselines on held-out tasks."""
    from metaopt import config, runtime

    settings = config.load(file, overrides or ())
    runtime.setup()
    from metaopt import commands

    commands.run(settings, out or Path("runs", file.stem), resume=resume)


@app.command("eval")
def evaluate(
    contenders: Annotated[
        list[str],
        typer.Argument(metavar="A B ...", help="Weights, run folders, or optax names: adamw:lr=1e-3,schedule=cosine"),
    ],
    suite: Annotated[str, typer.Option(help="The tasks: see `metaopt list suites`.")] = "heldout_small",
    steps: Annotated[int, typer.Option(min=1, help="Inner steps.")] = 1000,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials per task of what is tuned and has no @TRIALS of its own.")
    ] = 14,
    seeds: Annotated[int, typer.Option(min=1, help="Inner runs per task.")] = 3,
    sweep: Annotated[
        list[str] | None, typer.Option(help="Vary as well: horizon, num_steps, width, depth, batch_size, data_size.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write.", show_default="runs/eval-...")] = None,
    json: Annotated[
        Path | None, typer.Option(help="A file for the rows alone: task, optimizer, seed, final_loss, ...")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Curves of before.", show_default="~/.cache/metaopt/curves")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what the cache has; it is replaced.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Compares optimizers with each other, with Adam and with tuned Adam, on a suite of tasks.

    What is written as NAME:lr=RATE is one trial, NAME@K the best of K trials on each task; NAME is one of optax's
    optimizers, or nadamw8p, adam8p, ordered: K draws from a larger space. An interrupted evaluation continues where it
    stopped when it is called again.
    """
    from metaopt import config, runtime
    from metaopt.entry import names
    from metaopt.evaluate.sweeps import AXES

    config.one_of("--suite", suite, names("suites"))
    for axis in sweep or ():
        config.one_of("--sweep", axis, AXES)
    runtime.setup()
    from metaopt import commands
    from metaopt.evaluate.trials import Cache
    from metaopt.evaluation import Settings, cache_folder

    store = Cache(cache or cache_folder(), fresh=fresh)
    commands.evaluate(contenders, Settings(suite, steps, seeds, tuple(sweep or ())), trials, out, store, json)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="theta.state or params (msgpack), or .npz.")],
    architecture: Annotated[str, typer.Option("--as", help="The optimizer that the weights are of, e.g. celo.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Its arguments if not as published, e.g. lstm_hidden=64"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file to write if it exists.")] = False,
) -> None:
    """Turns weights of google/learned_optimization, and of code built on it, into a file for metaopt.load."""
    from metaopt import config, runtime

    raw = {"name": architecture} | registry.literal(*registry.PUBLISHED).get(architecture, {})
    entry = config.entry("optimizers", raw, f"--as {architecture}", overrides or ())
    config.one_of("--as", entry.name, registry.registry(*registry.REFERENCE), "of these weights can be imported")
    runtime.setup()
    from metaopt import commands

    commands.import_weights(file, entry, out, force)


@app.command("list")
def list_(
    which: Annotated[Registry | None, typer.Argument(help="One registry; all of them if left out.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Of `tasks`: what a step costs and how far Adam gets; takes minutes.")
    ] = False,
) -> None:
    """Lists what a config can name, with arguments and defaults."""
    console = Console()
    if measure:
        if which is not Registry.tasks:
            raise typer.BadParameter("--measure is for `metaopt list tasks`")
        return _measured(console)
    for kind in [which] if which else Registry:
        console.print(_suites() if kind is Registry.suites else _factories(kind))


@app.command("config")
def config_(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A YAML config.", show_default=False)] = None,
    overrides: Overrides = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of config files, for editors.")
    ] = False,
) -> None:
    """Checks a config and prints it with every default filled in."""
    from metaopt import config

    if schema:
        print(json.dumps(config.json_schema(), indent=2))
    elif file is None:
        raise typer.BadParameter("give a config FILE, or --schema")
    else:
        print(config.to_yaml(config.load(file, overrides or ())), end="")


@app.command()
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]) -> None:
    """Writes report.html of a run folder anew."""
    from metaopt import commands

    commands.report(run)


def main() -> None:
    """Runs the command line; expected errors are printed without a traceback and end with exit code 2."""
    try:
        app()
    except Exception as error:
        if not _is_expected(error):
            raise
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error[/] {_text(error)}")
        sys.exit(2)


def _is_expected(error: Exception) -> bool:
    kinds = [getattr(sys.modules.get(module), name, None) for module, name in EXPECTED.items()]
    return isinstance(error, tuple(kind for kind in kinds if kind is not None))


def _text(error: Exception) -> str:
    problems = getattr(error, "problems", None)
    if problems is None:
        return escape(str(error))
    lines = []
    for origin, key, expected, given, close in problems:
        hint = f"; did you mean [bold green]{escape(close)}[/]?" if close else ""
        lines.append(
            f"{escape(origin)}: [bold]{escape(key)}[/]\n  expected {escape(expected)}, got {escape(given)}{hint}"
        )
    return "\n".join(lines)


def _factories(kind: Registry) -> Table:
    table = Table("name", title=kind.value, title_justify="left", caption_justify="left", show_lines=True)
    facts: dict[str, tuple[int, float, tuple[str, ...]]] = {}
    if kind is Registry.optimizers:
        facts = registry.literal(*registry.FACTS)
        table.add_column("learned", justify="right")
        table.add_column("state", justify="right")
        table.add_column("inputs")
        table.caption = "learned: numbers; state: floats per parameter; inputs: beside gradients and parameters"
    table.add_column("about and arguments")
    for name, factory in registry.registry(*registry.REGISTRIES[kind.value]).items():
        arguments = escape(_arguments(kind, factory))
        about = escape(factory.headline) + (f"\n[dim]{arguments}[/]" if arguments else "")
        table.add_row(f"[bold]{name}[/]", *(_facts(facts.get(name)) if facts else ()), about)
    if kind is Registry.outer:
        table.caption = f"and optax's: {', '.join(registry.reexports(*registry.OPTAX))}"
    return table


def _facts(row: tuple[int, float, tuple[str, ...]] | None) -> tuple[str, str, str]:
    if row is None:
        return "?", "?", "?"
    learned, state, inputs = row
    return f"{learned:,}", f"{state:g}", "\n".join(inputs) or "-"


def _arguments(kind: Registry, factory: Factory) -> str:
    given = registry.keywords(kind.value, factory).values()
    return ", ".join(p.name if p.default is REQUIRED else f"{p.name}={_literal(p.default)}" for p in given)


def _suites() -> Table:
    purposes = registry.literal(*registry.PURPOSES)
    table = Table("name", "tasks", "about", title="suites", title_justify="left", show_lines=True)
    for name, entries in registry.literal(*registry.SUITES).items():
        table.add_row(f"[bold]{name}[/]", escape("\n".join(map(_entry, entries))), escape(purposes.get(name, "")))
    return table


def _measured(console: Console) -> None:
    """The table of every family that this machine has the data of, and why of the others not."""
    from metaopt import measure

    measure.one_core()
    from metaopt.tasks import TASKS

    with console.status("") as status:
        rows, absent = measure.measure_all(TASKS, status.update)
    wide = console if console.is_terminal else Console(width=140)
    wide.print(measure.table(rows))
    for name, reason in absent.items():
        console.print(f"left out {name}: {escape(reason)}", soft_wrap=True, highlight=False)


def _entry(entry: dict[str, Any]) -> str:
    return f"{entry['name']} " + " ".join(f"{key}={_literal(value)}" for key, value in entry.items() if key != "name")


def _literal(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    main()
