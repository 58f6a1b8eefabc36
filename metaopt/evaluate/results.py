"""results.json: all that an evaluation found, and all that its table and its report are made of.

    format, suite, steps, seeds, reference, command, environment
    contenders    {name: {"kind": learned | fixed | tuned, "about", "trials"}}
    rows          one per task, contender and seed (see `rows`)
    curves        {task: {contender: {"steps", "mean", "low", "high"}}} smoothed training losses over the seeds
    valid_curves  the same of validation losses
    tuned         {task: {contender: {hyper-parameter: value}}} what tuning chose
    worth         {task: {contender: trials}} of random search that one run is worth (null: more than there were), by
                  the nadamw8p contender with the most trials; {} without such a contender
    skipped       {task: why it could not run on this machine}
    sweeps        {axis: {"base", "values", "rows", "skipped"}}, rows with "value" beside the rest

Numbers that are not finite are null. The file is written by one version of metaopt and read by the same or a later one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metaopt.evaluate import metrics
from metaopt.evaluate.baselines import REFERENCE
from metaopt.evaluate.statistics import trials_worth
from metaopt.evaluate.suite import Contender, Found, Problem
from metaopt.evaluate.trials import Search

FORMAT = 1
RANDOM = "nadamw8p"  # the space whose random search measures what a run is worth
LEAST = 10  # trials that make a search one that can measure

Row = dict[str, Any]


def results(found: Found, problems: Sequence[Problem], contenders: Sequence[Contender]) -> dict[str, Any]:
    """The part of results.json that is about one suite: rows, curves, valid_curves, tuned, worth, skipped."""
    length = {problem.label: problem.steps for problem in problems}
    out: dict[str, Any] = {"rows": [], "curves": {}, "valid_curves": {}, "tuned": {}, "worth": {}}
    for task, searches in found.searches.items():
        out["rows"] += rows(task, length[task], searches, contenders)
        chosen = {c.name: _chosen(c, searches[c.name]) for c in contenders}
        out["curves"][task] = {
            name: _band(metrics.last_steps(length[task]) + 1, runs.smooth) for name, (_, runs) in chosen.items()
        }
        every = length[task] // metrics.checks(length[task])
        out["valid_curves"][task] = {
            name: _band(every * np.arange(1, runs.valid.shape[-1] + 1), runs.valid)
            for name, (_, runs) in chosen.items()
        }
        out["tuned"][task] = {
            c.name: {key: _number(column[chosen[c.name][0]]) for key, column in c.values.items()}
            for c in contenders
            if c.kind == "tuned"
        }
        out["worth"] |= {task: worth} if (worth := _worth(searches, contenders)) else {}
    return {**out, "skipped": found.skipped}


def rows(task: str, steps: int, searches: Mapping[str, Search], contenders: Sequence[Contender]) -> list[Row]:
    """One per contender and seed.

    task, optimizer, seed, steps; initial_loss, final_loss, best_loss, mean_loss of training; valid_final, valid_best,
    valid_mean; speedup, normalized_loss and steps_to_reference, against the reference on the same seed (null: never);
    seconds_per_step (null: of several trials side by side, or of another machine), state_bytes; diverged
    """
    reference = next(c for c in contenders if c.name == REFERENCE)
    target = _chosen(reference, searches[REFERENCE])[1]
    out = []
    for contender in contenders:
        search = searches[contender.name]
        _, runs = _chosen(contender, search)
        normalized = metrics.normalized(runs.smooth, target.smooth)
        for seed, (smooth, aim) in enumerate(zip(runs.smooth, target.smooth, strict=True)):
            valid = runs.valid[seed].astype(np.float64)
            numbers = {
                "initial_loss": smooth[0],
                "final_loss": smooth[-1],
                "best_loss": smooth.min(),
                "mean_loss": runs.mean[seed],
                "valid_final": valid[-1],
                "valid_best": valid.min(),
                "valid_mean": valid.mean(),
                "speedup": metrics.speedup(smooth, aim, steps),
                "normalized_loss": normalized[seed],
                "steps_to_reference": metrics.time_to(smooth, aim[-1], steps),
                "seconds_per_step": search.seconds_per_step,
            }
            out.append(
                {"task": task, "optimizer": contender.name, "seed": seed, "steps": steps}
                | {key: _number(value) for key, value in numbers.items()}
                | {"state_bytes": search.state_bytes, "diverged": bool(metrics.diverged(smooth))}
            )
    return out


def short_rows(found: Mapping[str, Any]) -> list[Row]:
    """The rows of results.json, sweeps left out, with what most readers need: task, optimizer, seed, steps, final_loss,
    speedup_over_tuned_adam (null: never as low), diverged."""
    plain = ("task", "optimizer", "seed", "steps", "final_loss")
    return [
        {key: row[key] for key in plain} | {"speedup_over_tuned_adam": row["speedup"], "diverged": row["diverged"]}
        for row in found["rows"]
    ]


def _chosen(contender: Contender, search: Search) -> tuple[int, metrics.Runs]:
    """(the trial that tuning chose, its runs [seeds, ...])."""
    position = search.chosen(contender.trials)
    return int(search.best[position]), metrics.Runs(*(x[position] for x in search.runs))


def _worth(searches: Mapping[str, Search], contenders: Sequence[Contender]) -> dict[str, float | None]:
    """Of every contender that is not tuned, by its mean final loss over the seeds."""
    searched = [c for c in contenders if c.identity.get("space") == RANDOM and c.trials >= LEAST]
    if not searched:
        return {}
    random = max(searched, key=lambda c: c.trials)
    finals = searches[random.name].finals[: random.trials].astype(np.float64).mean(axis=-1)
    alone = [c for c in contenders if c.kind != "tuned"]
    losses = {c.name: float(_chosen(c, searches[c.name])[1].smooth[:, -1].astype(np.float64).mean()) for c in alone}
    return {name: _number(trials_worth(loss, finals)) for name, loss in losses.items()}


def _band(steps: np.ndarray, curves: np.ndarray) -> dict[str, list]:
    """Mean, lowest and highest seed of curves [seeds, points]."""
    curves = curves.astype(np.float64)
    bands = {"mean": curves.mean(axis=0), "low": curves.min(axis=0), "high": curves.max(axis=0)}
    return {"steps": steps.tolist(), **{key: [_number(x) for x in band] for key, band in bands.items()}}


def _number(x: float) -> float | None:
    """Six significant digits; null where it is not finite."""
    return float(f"{x:.6g}") if math.isfinite(x) else None
