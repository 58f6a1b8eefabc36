"""What a run says of itself where there is no terminal."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from metaopt import progress


def test_the_time_left_does_not_count_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """50 steps in 60 seconds, compiling among them, then 50 every 10 seconds: 900 steps take 180."""
    clock, text = [0.0], io.StringIO()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with progress.display(Console(file=text, width=200), 0, 1000) as show:
        for now, step, rate in ((60.0, 50, None), (61.0, 60, 5.0), (70.0, 100, 5.0)):
            clock[0] = now
            show(progress.Chunk(step, {"quadratic": (0.25, 1.0)}, rate, None))
    assert text.getvalue().splitlines() == [
        "outer step 50/1000, meta-loss quadratic 0.2500, 1 diverged, compiled",
        "outer step 100/1000, 180 s left, meta-loss quadratic 0.2500, 1 diverged, 5 inner steps/s",
    ]
