"""How a run shows itself: a live display on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

EVERY = 10.0  # seconds between lines where there is no terminal


class Chunk(NamedTuple):
    """A chunk of outer steps in numbers."""

    step: int  # outer steps taken
    families: dict[str, tuple[float, float]]  # name -> (mean meta-loss, diverged inner runs)
    rate: float | None  # inner steps per second; None when compiling was part of it
    score: float | None  # of the last validation
    alone: dict[str, float | None] = {}  # inner steps/s without the other families, where there are any


@contextmanager
def display(console: Console, start: int, steps: int) -> Iterator[Callable[[Chunk], None]]:
    """Yields show(chunk); `start` is the outer step the run begins at. What is printed meanwhile goes above it."""
    with (_live if console.is_terminal else _lines)(console, start, steps) as show:
        yield show


@contextmanager
def _live(console: Console, start: int, steps: int) -> Iterator[Callable[[Chunk], None]]:
    bar = Progress(
        TextColumn("[bold]outer step"),
        BarColumn(None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        expand=True,
    )
    task = bar.add_task("", total=steps, completed=start)
    with Live(Group(bar, "compiling ..."), console=console, refresh_per_second=4) as live:

        def show(chunk: Chunk) -> None:
            bar.update(task, completed=chunk.step)
            live.update(Group(bar, _table(chunk)))

        yield show


def _table(chunk: Chunk) -> Table:
    table = Table("family", "meta-loss", "diverged", box=None, caption=_tail(chunk), caption_justify="left")
    if chunk.alone:
        table.add_column("inner steps/s, alone", justify="right")
    for name, (loss, diverged) in chunk.families.items():
        alone = [_rate(chunk.alone[name])] if chunk.alone else []
        table.add_row(name, f"{loss:.4f}", f"{diverged:.0f}", *alone)
    return table


def _rate(rate: float | None) -> str:
    return "too many to time" if rate is None else f"{rate:,.0f}"


@contextmanager
def _lines(console: Console, start: int, steps: int) -> Iterator[Callable[[Chunk], None]]:
    began, first = time.monotonic(), start
    printed, told = began - EVERY, False

    def show(chunk: Chunk) -> None:
        nonlocal began, first, printed, told
        if chunk.alone and not told:
            rates = ", ".join(f"{name} {_rate(rate)}" for name, rate in chunk.alone.items())
            console.print(f"inner steps/s of each family alone: {rates}", soft_wrap=True)
            told = True
        now = time.monotonic()
        if chunk.rate is None:  # what it takes to compile says nothing of what is left
            began, first = now, chunk.step
        if now - printed < EVERY and chunk.step < steps:
            return
        printed = now
        taken = chunk.step - first
        left = f", {(now - began) / taken * (steps - chunk.step):.0f} s left" if taken else ""
        losses = ", ".join(f"{name} {loss:.4f}" for name, (loss, _) in chunk.families.items())
        diverged = sum(count for _, count in chunk.families.values())
        text = f"outer step {chunk.step}/{steps}{left}, meta-loss {losses}, {diverged:.0f} diverged"
        console.print(f"{text}, {_tail(chunk)}", soft_wrap=True)

    yield show


def _tail(chunk: Chunk) -> str:
    rate = "compiled" if chunk.rate is None else f"{chunk.rate:,.0f} inner steps/s"
    return rate if chunk.score is None else f"{rate}, validation {chunk.score:.4f}"
