"""The hand-designed optimizers on `heldout_small`: their ranking, and the curves that ship with the package.

    python experiments/baselines/run.py

evaluates all of them at 1,000 steps with three seeds, writes curves, results.json and report.html to a folder, prints
the ranking, and packs the curves into metaopt/evaluate/heldout_small.zip, where `metaopt eval` finds them. To be run
again whenever `metaopt.evaluate.trials.VERSION` is raised. Interrupted, it goes on where it stopped.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from metaopt import contenders, evaluation, runtime
from metaopt.evaluate.report import write_report
from metaopt.evaluate.summary import standings
from metaopt.evaluate.trials import SHIPPED, Cache, ship

NAMES = (
    "sgd",
    "momentum",
    "nesterov",
    "rmsprop",
    "adam",
    "adamw",
    "nadamw",
    "lion",
    "muon",
    "schedule_free_adamw",
    "prodigy",
    "adam:schedule=cosine",
    "adamw:schedule=cosine,warmup=0.05",
    "prodigy:schedule=cosine",
    "lbfgs:lr=1",
    "nadamw8p@1000",
    "adam8p@100",
    "ordered@100",
)


def main(
    out: Annotated[Path, typer.Option(help="A folder for these curves alone.")] = Path("runs/baselines"),
) -> None:
    """Runs what is missing, writes results and what ships."""
    runtime.setup()
    entrants = contenders.contenders(NAMES, 14)
    settings = evaluation.Settings("heldout_small", steps=1000, seeds=3)
    found = evaluation.evaluate(entrants, settings, Cache(out, None), lambda *x: print(*x, flush=True))
    (out / "results.json").write_text(json.dumps(found), encoding="utf-8")
    write_report(out)
    ship(sorted(out.glob("*.npz")), SHIPPED)
    print(table(found))


def table(found: Mapping[str, Any]) -> str:
    """The ranking as Markdown."""
    head = (
        "",
        "speed-up, IQM",
        "median",
        "mean rank",
        "P(improvement)",
        "below Adam at 1e-3",
        "below tuned",
        "failed runs",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for s in standings(found["rows"]):
        iqm = f"{s.iqm.value:.2f} [{s.iqm.low:.2f}, {s.iqm.high:.2f}]"
        chance = f"{s.improvement.value:.2f} [{s.improvement.low:.2f}, {s.improvement.high:.2f}]"
        counts = (f"{s.below_usual}/{s.tasks}", f"{s.below_reference}/{s.tasks}", f"{s.diverged}/{s.runs}")
        lines.append(
            "| "
            + " | ".join([f"`{s.name}`", iqm, f"{s.median.value:.2f}", f"{s.rank.value:.1f}", chance, *counts])
            + " |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
