"""`metaopt data`: which data sets this machine has, and bringing one's own."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

app = typer.Typer(help="Data sets: what is there, and importing your own.", no_args_is_help=True, rich_markup_mode=None)


def _use(folder: Path | None) -> Path | None:
    """Everything below reads the variable, and so do the processes that a run starts."""
    if folder is not None:
        os.environ["METAOPT_DATA_DIR"] = str(folder.expanduser().absolute())
    return folder


DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        callback=_use,
        help="Where imported data sets are.",
        show_default="$METAOPT_DATA_DIR, or ~/.cache/metaopt/data",
    ),
]


@app.command("list")
def list_(data_dir: DataDir = None) -> None:
    """Lists the data sets that a config can name: where they come from, shapes, and what is absent and why."""
    from metaopt.data import cache, listing, tfds

    console = Console()
    table = Table(
        Column("name", no_wrap=True),
        "kind",
        "a row",
        "rows: training + test",
        Column("from", overflow="fold"),
        title="data sets",
        title_justify="left",
    )
    rows = listing.rows()
    for row in rows:
        absent = row.reason is not None
        table.add_row(*(escape(cell) for cell in row[:5]), style="dim" if absent else None)
    console.print(table)
    for row in rows:
        if row.reason is not None:
            console.print(f"[bold]{escape(row.name)}[/]: {escape(row.reason)}", soft_wrap=True, highlight=False)
    where = f"Looked in {cache.data_dir()} (METAOPT_DATA_DIR) and {tfds.data_dir()} (TFDS_DATA_DIR)."
    console.print(escape(where), soft_wrap=True, highlight=False)


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A file, folder or archive, or tfds:NAME.")],
    name: Annotated[str | None, typer.Option("--name", help="What to call it.", show_default="from FILE")] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", help="A CSV's label column (name or number from 0; the last), or an IDX or .npy file."
        ),
    ] = None,
    regression: Annotated[
        bool, typer.Option("--regression", help="Whole numbers as labels are targets, not classes.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace another data set of that name.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Brings a file of yours into the folder of data sets; nothing in it is ever run.

    IDX, .npz, .npy, CSV, text, the archives of MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, SVHN, or tfds:NAME.
    """
    from metaopt.data import cache, images, imports

    name, origin = imports.import_(source, name, labels, regression, force)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{escape(str(cache.path(name)))}  sha256 {origin['sha256']}")
    for key, (dtype, *shape) in origin["arrays"].items():
        console.print(f"  {key}: {dtype} {escape(str(shape))}")
    if origin["classes"]:
        console.print(
            f"  classes: {escape(', '.join(origin['classes'][:20]))}" + (", ..." * (len(origin["classes"]) > 20))
        )
    console.print(f"Use it as [bold]dataset: {name if name in images.KNOWN else f'user:{name}'}[/]")
