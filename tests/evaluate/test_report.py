"""The table, and reports of synthetic run folders: complete, interrupted, empty."""

import io
import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from metaopt.evaluate._svg import Axis, Line, chart, ticks
from metaopt.evaluate.artefacts import binned
from metaopt.evaluate.report import write_report
from metaopt.evaluate.summary import cells, summarize
from metaopt.evaluate.table import table

VOID = {"meta", "line", "rect", "path", "polygon"}  # HTML's own and the SVG elements we close as <x/>
NAMES = ("learned", "adam:lr=1e-3", "adam:tuned")
# task: final losses of two seeds for each optimizer; learned: speed-ups
LOSSES = {
    "won <&>": ([1.0, 3.0], [4.0, 4.0], [3.0, 3.0], [2.0, 4.0]),
    "tied": ([2.0, 2.0], [2.0, 2.0], [2.0, 2.0], [1.0, 1.0]),
    "lost": ([3.0, 5.0], [5.0, 5.0], [1.0, 1.0], [0.5, 0.25]),
    "failed": ([None, 1.0], [9.0, 9.0], [1.0, 1.0], [0.0, 1.0]),
}
ROWS = [
    {
        "task": task,
        "optimizer": name,
        "seed": seed,
        "steps": 100,
        "final_loss": loss,
        "speedup_over_tuned_adam": speedups[seed] if name == "learned" else 1.0,
        "diverged": loss is None,
    }
    for task, (*losses, speedups) in LOSSES.items()
    for name, pair in zip(NAMES, losses, strict=True)
    for seed, loss in enumerate(pair)
]
CURVE = {"steps": [1, 50, 100], "mean": [9.0, 2.0, None], "low": [8.0, 1.0, 0.0], "high": [10.0, 3.0, None]}
EVALUATION = {
    "rows": ROWS,
    "curves": {task: dict.fromkeys(NAMES, CURVE) for task in LOSSES},
    "tuned": dict.fromkeys(LOSSES, 0.1),
    "skipped": {"absent": "no such data <here>"},
    "suite": "small",
    "steps": 100,
    "seeds": 2,
}


class Checker(HTMLParser):
    """Fails on tags that do not nest; collects links and the rows of the table."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.rows = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.rows += tag == "tr"
        self.links += [v for k, v in attrs if k in ("src", "href", "action", "data", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "my <run>"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 0\n")
    return run


def fill(run):
    rows = [
        {"outer_step": i, "a/meta_loss": 1 / i, "meta_loss": 1 / i, "grad_norm": 1.0, "diverged": 1.0, "skipped": 0.0}
        for i in range(1, 401)
    ]
    rows[-1] |= {"valid/score": 0.5, "seconds": 75.0, "a/meta_loss": None}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    device = {"kind": "cpu", "platform": "cpu", "count": 2}
    starts = [{"command": ["metaopt", "train", "x y.yaml"], "versions": {"jax": "0.10.2"}, "device": device}]
    (run / "environment.json").write_text(json.dumps(starts))
    summary = {"inner_steps": 9000, "seconds": 75.0, "best": {"outer_step": 400, "score": 0.5}}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "evaluation.json").write_text(json.dumps(EVALUATION))


def check(path):
    html = path.read_text()
    checker = Checker()
    checker.feed(html)
    assert checker.open == [] and checker.links == []
    assert "<script" not in html and "@import" not in html and "http" not in re.sub(r"<pre>.*?</pre>", "", html)
    return html, checker


def test_complete_report_is_whole_and_self_contained(folder):
    fill(folder)
    html, checker = check(write_report(folder))
    assert checker.rows == 1 + len(LOSSES)
    for text in (
        "won &lt;&amp;&gt;",
        "my &lt;run&gt;",
        "no such data &lt;here&gt;",
        "1 min 15 s",
        "&#x27;x y.yaml&#x27;",
    ):
        assert text in html
    assert html.index("learned diverged on failed: 1 of 2 runs") < html.index("<h2>")
    assert "400 inner runs diverged" in html and "metaopt.load(" in html
    assert html.count("<figure>") == len(LOSSES) + 3
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_report_is_reproducible(folder):
    fill(folder)
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


@pytest.mark.parametrize("missing", ["metrics.jsonl", "evaluation.json", "summary.json", "environment.json"])
def test_report_does_with_what_there_is(folder, missing):
    fill(folder)
    (folder / missing).unlink()
    html, _ = check(write_report(folder))
    assert ("Not evaluated" in html) == (missing == "evaluation.json")


def test_report_of_a_run_that_has_just_begun(folder):
    html, _ = check(write_report(folder))
    assert "no outer step taken yet" in html


def test_report_of_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        write_report(tmp_path)


def test_cells_and_summary_by_hand():
    won, failed = cells(ROWS)["won <&>"]["learned"], cells(ROWS)["failed"]["learned"]
    assert won == (2.0, pytest.approx(2**0.5), 3.0, 0, 2)
    assert failed == (float("inf"), 0.0, 0.5, 1, 2)
    assert summarize(ROWS) == {
        "tasks": 4,
        "below_adam": 2,  # won, lost: a tie and a failure are not below
        "below_tuned": 1,
        "speedup_median": 1.0,  # of 0 .25 .5 1 1 1 2 4
        "speedup_iqm": 3.5 / 4,  # of .5 1 1 1
        "diverged": 1,
        "runs": 8,
    }


def test_table_shows_losers_failures_and_skipped_tasks():
    console = Console(width=200, file=io.StringIO())
    console.print(table(ROWS, EVALUATION["tuned"], EVALUATION["skipped"]))
    text = console.file.getvalue()
    line = next(row for row in text.splitlines() if "failed" in row)
    assert "inf" in line and "1/2 learned" in line and "0.50x" in line
    assert "skipped absent: no such data <here>" in text
    assert "learned: final loss below Adam at 1e-3 on 2 of 4 tasks, below tuned Adam on 1 of 4" in text


def test_binned_keeps_means_and_extremes():
    assert binned([1, 2, 3, 4, 5], [1.0, 3.0, None, None, 7.0], bins=3) == {
        "x": [2, 4, 5],
        "y": [2.0, None, 7.0],
        "low": [1.0, None, 7.0],
        "high": [3.0, None, 7.0],
    }


@pytest.mark.parametrize(
    ("start", "stop", "log", "expected"),
    [
        (0.0, 1.0, False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (1.0, 1000.0, False, [200, 400, 600, 800, 1000]),
        (-3.0, 4.0, False, [-2, 0, 2, 4]),
        (0.01, 1.0, True, [0.01, 0.03, 0.1, 0.3, 1]),
        (0.3, 4.0, True, [0.5, 1, 2]),
        (1e-6, 1.0, True, [1e-6, 1e-4, 1e-2, 1]),
    ],
)
def test_ticks(start, stop, log, expected):
    assert ticks(Axis(start, stop, (0, 100), log)) == pytest.approx(expected)


def test_chart_has_gaps_and_stays_finite():
    svg = chart([Line("c0", [0, 1, 2, 3], [1.0, None, 0.0, 1e30])], title="t", x_label="x", ceiling=2.0)
    assert svg.count("M") == 2 and "nan" not in svg and "inf" not in svg
    assert chart([], title="t", x_label="x") == chart([Line("c0", [1], [None])], title="t", x_label="x")
