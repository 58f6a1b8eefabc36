"""The meta-trainings of configs/flagship.yaml in one picture: the meta-loss of each family over the outer steps.

    python experiments/flagship/meta_training.py [RUN ...]

reads the run folders of `metaopt train configs/flagship.yaml`, one a seed, writes their meta-losses, means over twenty
outer steps, to meta_training.json beside this file, and draws meta_training.png; without runs, from the former.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure

from metaopt import config

HERE = Path(__file__).parent
NUMBERS = HERE / "meta_training.json"
BIN = 20  # outer steps
COLUMNS = 4
SUFFIX = "/meta_loss"


def main(runs: Annotated[list[Path] | None, typer.Argument()] = None) -> None:
    """Writes the numbers and the picture."""
    if runs:
        found = {f"seed {config.load(run / 'config.yaml').seed}": losses(run) for run in runs}
        NUMBERS.write_text(json.dumps({"bin": BIN, "meta_loss": found}) + "\n", encoding="utf-8")
    kept = json.loads(NUMBERS.read_text(encoding="utf-8"))
    draw(kept["meta_loss"], kept["bin"])


def losses(run: Path) -> dict[str, list[float]]:
    """Mean meta-loss of each BIN outer steps, by family, in the order of the config."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    names = [key.removesuffix(SUFFIX) for key in rows[0] if key.endswith(SUFFIX)]
    whole = len(rows) // BIN * BIN
    return {
        name: np.reshape([row[name + SUFFIX] for row in rows[:whole]], (-1, BIN)).mean(1).round(4).tolist()
        for name in names
    }


def draw(found: dict[str, dict[str, list[float]]], width: int) -> None:
    """A panel a family, a line a seed."""
    families = list(next(iter(found.values())))
    figure = Figure(figsize=(15, 2.6 * -(-len(families) // COLUMNS)), dpi=75, layout="constrained")
    panels = figure.subplots(-(-len(families) // COLUMNS), COLUMNS, squeeze=False).ravel()
    for ax, family in zip(panels, families, strict=False):
        for seed, curves in found.items():
            ax.plot(width * (np.arange(len(curves[family])) + 0.5), curves[family], label=seed, linewidth=1.2)
        ax.set_title(title(family), fontsize=8)
        ax.tick_params(labelsize=7)
        ax.grid(alpha=0.25)
    for ax in panels[len(families) :]:
        ax.set_axis_off()
    panels[0].legend(fontsize=7, frameon=False)
    figure.supxlabel("outer step", fontsize=9)
    figure.supylabel("log of the normalised inner loss, as weighted over the run", fontsize=9)
    figure.savefig(HERE / "meta_training.png")


def title(family: str) -> str:
    """The label without what all have in common, in two lines if it is long."""
    text = family.split("(", 1)[-1].removesuffix(")")
    half = text.rfind("-", 0, 48)
    return text if len(text) <= 48 or half < 0 else f"{text[:half]}\n{text[half:]}"


if __name__ == "__main__":
    typer.run(main)
