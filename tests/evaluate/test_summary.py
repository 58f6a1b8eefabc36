"""What rows add up to, worked out by hand, and the table in the terminal."""

import io
import math

import pytest
from rich.console import Console

from metaopt.evaluate import summary
from metaopt.evaluate.baselines import REFERENCE, USUAL
from metaopt.evaluate.statistics import Interval
from metaopt.evaluate.summary import by_reason, cells, standings, summarize
from metaopt.evaluate.table import table, verdict
from tests.evaluate.fake_results import CONTENDERS, results

NAMES = ("learned", USUAL, REFERENCE)
# task: final losses of two seeds for each contender; learned: speed-ups, steps to the reference's final loss
LOSSES = {
    "won": ([1.0, 3.0], [4.0, 4.0], [3.0, 3.0], [2.0, 4.0], [50, 25]),
    "tied": ([2.0, 2.0], [2.0, 2.0], [2.0, 2.0], [1.0, 1.0], [100, 100]),
    "lost": ([3.0, 5.0], [5.0, 5.0], [1.0, 1.0], [0.5, 0.25], [None, None]),
    "failed": ([None, 1.0], [9.0, 9.0], [1.0, 1.0], [0.0, 1.0], [None, 100]),
}
STEPS = {USUAL: None, REFERENCE: 100}
ROWS = [
    {
        "task": task,
        "optimizer": name,
        "seed": seed,
        "steps": 100,
        "final_loss": loss,
        "valid_final": 2 * loss if loss is not None and task != "tied" else None,
        "speedup": {"learned": speedups[seed], USUAL: 0.5, REFERENCE: 1.0}[name],
        "steps_to_reference": {"learned": steps[seed], **STEPS}[name],
        "seconds_per_step": {"learned": 3e-3, USUAL: 2e-3, REFERENCE: None}[name] if task == "won" else None,
        "state_bytes": {"learned": 30, USUAL: 20, REFERENCE: 20}[name] * (10 if task == "lost" else 1),
        "diverged": loss is None,
    }
    for task, (*losses, speedups, steps) in LOSSES.items()
    for name, pair in zip(NAMES, losses, strict=True)
    for seed, loss in reversed(list(enumerate(pair)))  # rows need not come in order
]


def test_cells():
    table = cells(ROWS)
    assert list(table) == list(LOSSES) and list(table["won"]) == list(NAMES)
    assert table["won"]["learned"] == (2.0, pytest.approx(2**0.5), 4.0, 3.0, 0, 2)
    assert table["failed"]["learned"] == (math.inf, 0.0, math.inf, 0.5, 1, 2)
    assert table["tied"]["learned"].valid is None  # the task has no validation split


def test_summarize():
    found = summarize(ROWS)
    assert 0.25 <= found.pop("speedup_low") < 3.5 / 4 < found.pop("speedup_high") <= 3
    assert found == {
        "tasks": 4,
        "below_adam": 2,  # won, lost: a tie and a failure are not below
        "below_tuned": 1,
        "speedup_median": 1.0,  # of 0 .25 .5 1 1 1 2 4
        "speedup_iqm": 3.5 / 4,  # of .5 1 1 1
        "diverged": 1,
        "runs": 8,
    }
    assert summarize(ROWS, "nobody")["speedup_iqm"] is None


def test_standings():
    first, second, third = standings(ROWS)
    assert [s.name for s in (first, second, third)] == [REFERENCE, "learned", USUAL]
    assert first.iqm == first.median == first.mean == (1, 1, 1) and first.improvement == (0.5, 0.5, 0.5)
    assert (second.iqm.value, second.median.value, second.mean.value) == (3.5 / 4, 1.0, 9.75 / 8)
    # won: 1 and, equal to the reference, 1.5; tied: all 2; lost: 2, and 2.5 with Adam; failed: 3, and 1.5
    assert second.rank.value == (1 + 1.5 + 2 + 2 + 2 + 2.5 + 3 + 1.5) / 8
    assert second.improvement.value == ((0.5 + 0.25) + 0.5 + 0 + 0.25) / 4
    assert (second.below_usual, second.below_reference, second.tasks) == (2, 1, 4)
    assert (second.diverged, second.runs) == (1, 8)
    assert (second.seconds, second.state, second.state_bytes) == (1.5, 1.5, 300)
    # won in the median of 50 and 25 steps, tied; the reference is 100 / 37.5 slower on won, and alone on the others
    assert second.area == pytest.approx(2 / 4)
    assert first.area == pytest.approx(((4 - 100 / 37.5) / 3 + 3) / 4)
    assert third.area == 0


def test_a_contender_that_is_missing_on_a_task_is_judged_on_the_others():
    rows = [row for row in ROWS if (row["task"], row["optimizer"]) != ("lost", "learned")]
    found = {s.name: s for s in standings(rows)}["learned"]
    assert (found.tasks, found.runs) == (3, 6) and found.improvement.value == (0.75 + 0.5 + 0.25) / 3
    assert found.rank.value == (1 + 1.5 + 2 + 2 + 3 + 1.5) / 6
    assert found.area == pytest.approx(2 / 4)  # not solved


def test_sweeps_are_summed_up_per_value():
    rows = [row | {"value": value, "speedup": row["speedup"] * value} for value in (1, 2) for row in ROWS]
    found = summary.sweep_speedups({"values": [1, 2, 3], "rows": rows})
    assert found[USUAL] == [(0.5, 0.5, 0.5), (1, 1, 1), None]
    assert found["learned"][1].value == 3.5 / 2


def test_failures_and_judgement():
    assert {name: list(found) for name, found in summary.failures(ROWS).items()} == {"learned": ["failed"]}
    words = [summary.judgement(Interval(1.5, *ends)) for ends in ((1.1, 2), (0.9, 2), (0.5, 0.9), (1, 1))]
    assert words == ["faster", "not told apart", "slower", "not told apart"]


def text_of(found, width):
    console = Console(width=width, file=io.StringIO())
    console.print(table(found))
    return console.file.getvalue()


def test_table_shows_ranking_losers_failures_and_skipped_tasks():
    found = {"rows": ROWS, "reference": REFERENCE, "skipped": {"absent": "no such data <[red]>"}, "sweeps": {}}
    text = text_of(found, 200)
    ranking = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")][:3]
    assert ranking == [REFERENCE, "learned", USUAL]
    assert (
        "failed 1/2" in text and "skipped absent: no such data <[red]>" in text and "failed learned: failed 1/2" in text
    )
    assert "learned: final loss below Adam at 1e-3 on 2 of 4 tasks, below tuned Adam on 1 of 4" in text
    assert verdict(ROWS, "learned").endswith("not told apart; 1 of 8 runs failed")


def test_table_of_everything_fits_eighty_columns():
    lines = text_of(results(), 80).splitlines()
    assert max(len(line) for line in lines) <= 80
    text = "".join(line for line in lines if line.startswith("│"))
    assert all(name[:8] in text for name in CONTENDERS) and "two_" in text
    assert any("speed-up over horizon" in line for line in lines)


def test_nulls_everywhere_never_raise():
    numbers = ("final_loss", "valid_final", "steps_to_reference", "seconds_per_step", "state_bytes")
    rows = [row | dict.fromkeys(numbers) | {"speedup": 0.0, "diverged": True} for row in ROWS]
    assert all(s.iqm == (0, 0, 0) and s.rank == (2, 2, 2) and s.area == 0 for s in standings(rows))
    assert "failed" in text_of({"rows": rows, "reference": REFERENCE, "skipped": {}}, 100)
    assert summarize(rows)["below_tuned"] == 0


def test_a_copy_of_the_reference_ties_with_it():
    copies = [row | {"optimizer": "copy"} for row in ROWS if row["optimizer"] == REFERENCE]
    found = {s.name: s for s in standings(ROWS + copies)}
    assert found["copy"] == found[REFERENCE]._replace(name="copy")
    assert found["copy"].improvement == (0.5, 0.5, 0.5) and found["copy"].below_reference == 0
    assert summary.judgement(found["copy"].iqm) == "not told apart"


def test_a_reason_is_said_once():
    assert by_reason({"a": "no data", "b": "no axis", "c": "no data"}) == {"a, c": "no data", "b": "no axis"}
