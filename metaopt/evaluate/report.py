"""report.html of a run folder or of an evaluation's, from its files alone. The page needs no network and no script."""

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from metaopt.evaluate import artefacts, report_ranking, report_tasks, report_training, summary
from metaopt.evaluate.artefacts import Artefacts
from metaopt.evaluate.report_html import fold, plural, section


def write_report(folder: str | Path) -> Path:
    """Writes report.html into the folder, and curves.png into that of a run; returns the path of the page.

    A run folder (config.yaml, ...) gives its meta-training, and its evaluation where it has a results.json; a folder
    with a results.json alone gives the evaluation. Raises FileNotFoundError when it holds neither.
    """
    from metaopt.evaluate.plots import write_curves

    found = artefacts.read(Path(folder))
    path = found.folder / "report.html"
    path.write_text(page(found), encoding="utf-8")
    if found.config is not None:
        write_curves(found, found.folder / "curves.png")
    return path


def page(found: Artefacts) -> str:
    """The whole page."""
    css = (files("metaopt.evaluate") / "report.css").read_text(encoding="utf-8")
    sections = _run(found) if found.config is not None else _evaluation(found)
    title = found.folder.resolve().name
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{css}</style></head><body><main>{''.join(sections)}</main></body></html>\n"
    )


def _run(run: Artefacts) -> list[str]:
    families = run.families()
    trained = f"meta-trained on {', '.join(families)}" if families else "no outer step taken yet"
    where = _where(run.environment[-1]) if run.environment else []
    if run.results.get("rows"):
        where.append(f"held out: {_what(run.results)}")
        evaluation = _comparison(run.results)
    else:
        note = (
            "Not evaluated: the run has not come so far, its config asks for no evaluation, or every task was skipped."
        )
        evaluation = [section("Held-out tasks", note)]
    config = fold("Config", f"<pre><code>{escape(run.config or '')}</code></pre>")
    started = "".join(_facts(start, start.get("command", [])) for start in run.environment)
    return [
        _header(run.folder.resolve().name, " · ".join([trained, *where])),
        _failures([*_training_failures(run.metrics), *_evaluation_failures(run.results)]),
        report_training.cards(run),
        *evaluation,
        report_training.training(run),
        report_training.use(run),
        section("Command, versions, device", "", started, config),
    ]


def _evaluation(found: Artefacts) -> list[str]:
    results = found.results
    count = len(summary.contenders(results["rows"]))
    sections = _comparison(results) if results["rows"] else [section("Nothing to compare", "Every task was skipped.")]
    about = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(c['about'])}</dd>" for name, c in results.get("contenders", {}).items()
    )
    return [
        _header(
            f"{plural(count, 'optimizer')} on {results['suite']}",
            " · ".join([_what(results), *_where(results["environment"])]),
        ),
        _failures(_evaluation_failures(results)),
        *sections,
        section("Contenders", "", f"<dl>{about}</dl>"),
        section("Command, versions, device", "", _facts(results["environment"], results["command"])),
    ]


def _comparison(results: Mapping[str, Any]) -> list[str]:
    """The sections that a run and an evaluation share."""
    standings = summary.standings(results["rows"], results["reference"])
    return [
        report_ranking.ranking(results, standings),
        report_ranking.profile(results, standings),
        report_ranking.aggregates(standings, results["reference"]),
        report_tasks.losses(results),
        report_tasks.curves(results),
        report_ranking.sweeps(results),
        report_tasks.worth(results),
        report_tasks.tuning(results),
    ]


def _header(title: str, lead: str) -> str:
    return f"<header><h1>{escape(title)}</h1><p class='lead'>{escape(lead)}</p></header>"


def _what(results: Mapping[str, Any]) -> str:
    tasks = len({row["task"] for row in results["rows"]})
    parts = (
        f"suite {results['suite']}",
        plural(tasks, "task"),
        plural(results["steps"], "step"),
        plural(results["seeds"], "seed"),
    )
    return " · ".join(parts)


def _where(environment: Mapping[str, Any]) -> list[str]:
    device, versions = environment.get("device", {}), environment.get("versions", {})
    where = [f"{plural(device['count'], device['kind'] + ' device')}"] if device else []
    return where + ([f"JAX {versions['jax']}"] if "jax" in versions else [])


def _failures(found: Sequence[str]) -> str:
    """Of pieces of HTML."""
    if not found:
        return "<div class='failures none'><b>No failures:</b> no run failed, no task was skipped.</div>"
    items = "".join(f"<li>{item}</li>" for item in found)
    return f"<div class='failures'><b>Failures</b><ul>{items}</ul></div>"


def _evaluation_failures(results: Mapping[str, Any]) -> list[str]:
    sweeps = results.get("sweeps", {})
    found = _failed(results.get("rows", []), "")
    found += [
        item for axis, sweep in sweeps.items() for item in _failed(sweep["rows"], f" in the sweep over {escape(axis)}")
    ]
    skipped = summary.by_reason(results.get("skipped", {}))
    found += [f"skipped <b>{escape(tasks)}</b>: {escape(why)}" for tasks, why in skipped.items()]
    for axis, sweep in sweeps.items():
        out = "; ".join(f"{escape(tasks)}: {escape(why)}" for tasks, why in summary.by_reason(sweep["skipped"]).items())
        found += [f"left out of the sweep over {escape(axis)}: {out}"] if out else []
    return found


def _failed(rows: Sequence[Mapping[str, Any]], where: str) -> list[str]:
    """One item per contender with failed runs."""
    runs: dict[str, int] = {}
    for row in rows:
        runs[row["optimizer"]] = runs.get(row["optimizer"], 0) + 1
    items = []
    for name, cells in summary.failures(rows).items():
        tasks = ", ".join(f"{escape(task)} ({cell.diverged} of {cell.runs})" for task, cell in cells.items())
        failed = sum(cell.diverged for cell in cells.values())
        items.append(f"<b>{escape(name)}</b> failed in {failed} of {plural(runs[name], 'run')}{where}: {tasks}")
    return items


def _training_failures(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    resets = sum(row.get("diverged") or 0 for row in metrics)
    if resets:
        found.append(f"{resets:,.0f} inner runs diverged during meta-training and were started anew")
    zeros = sum(row.get("skipped") or 0 for row in metrics)
    if zeros:
        found.append(f"{zeros:,.0f} meta-gradients were not finite and counted as zero")
    return found


def _facts(env: Mapping[str, Any], command: Sequence[str]) -> str:
    git = env.get("git") or {}
    items = {
        "python": env.get("python"),
        "packages": ", ".join(f"{name} {version}" for name, version in env.get("versions", {}).items()),
        "platform": env.get("platform"),
        "device": ", ".join(f"{key} {value}" for key, value in env.get("device", {}).items()),
        "cores": env.get("cores"),
        "git commit": f"{git['commit']}{' (modified)' if git.get('modified') else ''}" if git else None,
    }
    line = f"<pre><code>{escape(shlex.join(str(word) for word in command))}</code></pre>" if command else ""
    return line + f"<dl>{''.join(f'<dt>{k}</dt><dd>{escape(str(v))}</dd>' for k, v in items.items() if v)}</dl>"
