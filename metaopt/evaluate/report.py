"""report.html and curves.png of a run folder, from its artefacts alone. The page needs no network and no script."""

import math
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from metaopt.evaluate import artefacts
from metaopt.evaluate._svg import Line, chart
from metaopt.evaluate.artefacts import Artefacts
from metaopt.evaluate.baselines import TUNED, USUAL
from metaopt.evaluate.summary import Cell, cells, challengers, summarize
from metaopt.evaluate.table import number

BASELINE_STYLES = {USUAL: "c1", TUNED: "c2"}  # the evaluated optimizer is c0


def write_report(run_dir: str | Path) -> Path:
    """Writes report.html and curves.png into the run folder; returns the path of the page.

    Raises FileNotFoundError when the folder holds no run. A run without metrics or evaluation gives a shorter report.
    """
    from metaopt.evaluate.plots import write_curves

    run = artefacts.read(Path(run_dir))
    path = run.folder / "report.html"
    path.write_text(page(run), encoding="utf-8")
    write_curves(run, run.folder / "curves.png")
    return path


def page(run: Artefacts) -> str:
    """The whole page."""
    title = escape(run.folder.resolve().name)
    css = (files("metaopt.evaluate") / "report.css").read_text(encoding="utf-8")
    sections = [_header(run), _cards(run), _failures(run), _heldout(run), _training(run), _use(run), _details(run)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{title}</title><style>{css}</style></head><body><main>{''.join(sections)}</main></body></html>\n"
    )


def _header(run: Artefacts) -> str:
    config = _facts(run)
    return f"<header><h1>{escape(run.folder.resolve().name)}</h1><p class='lead'>{escape(config)}</p></header>"


def _facts(run: Artefacts) -> str:
    env = run.environment[-1] if run.environment else {}
    device, versions = env.get("device", {}), env.get("versions", {})
    where = f"{device['count']} {device['kind']} device{'s' if device['count'] > 1 else ''}" if device else ""
    jax = f"JAX {versions['jax']}" if "jax" in versions else ""
    families = run.families()
    trained = f"meta-trained on {', '.join(families)}" if families else "no outer step taken yet"
    return " · ".join(part for part in (trained, where, jax) if part)


def _cards(run: Artefacts) -> str:
    items: list[tuple[str, str]] = []
    for name in challengers(run.evaluation.get("rows", [])):
        s = summarize(run.evaluation["rows"], name)
        of = f"<small> of {s['tasks']}</small>"
        items += [
            (f"{s['below_adam']}{of}", "held-out tasks with a final loss below Adam at 1e-3"),
            (f"{s['below_tuned']}{of}", "below Adam with its rate tuned per task"),
            (f"{s['speedup_median']:.2f}<small>×</small>", "median speed-up over tuned Adam"),
            (f"{s['speedup_iqm']:.2f}<small>×</small>", "interquartile mean of the speed-up"),
        ]
    steps = len(run.metrics)
    seconds = run.summary.get("seconds") or next((r["seconds"] for r in reversed(run.metrics) if "seconds" in r), None)
    if steps:
        items.append((f"{steps:,}", f"outer steps{f' in {_duration(seconds)}' if seconds else ''}"))
    if run.summary.get("inner_steps") and seconds:
        rate = run.summary["inner_steps"] / seconds
        items.append((f"{rate / 1000:,.1f}k" if rate > 1e4 else f"{rate:,.0f}", "inner steps a second, all included"))
    return f'<div class="cards">{"".join(f"<div class=card><b>{b}</b><span>{s}</span></div>" for b, s in items)}</div>'


def _failures(run: Artefacts) -> str:
    found = [
        f"{escape(name)} diverged on {escape(task)}: {cell.diverged} of {cell.runs} runs"
        for task, named in cells(run.evaluation.get("rows", [])).items()
        for name, cell in named.items()
        if cell.diverged
    ]
    found += [f"{escape(t)} was skipped: {escape(why)}" for t, why in run.evaluation.get("skipped", {}).items()]
    resets = sum(row.get("diverged") or 0 for row in run.metrics)
    if resets:
        found.append(f"{resets:,.0f} inner runs diverged during meta-training and were started anew")
    zeros = sum(row.get("skipped") or 0 for row in run.metrics)
    if zeros:
        found.append(f"{zeros:,.0f} meta-gradients were not finite and counted as zero")
    if not found:
        return '<div class="failures none"><b>No failures:</b> no run diverged, no task was skipped.</div>'
    return f'<div class="failures"><b>Failures</b><ul>{"".join(f"<li>{item}</li>" for item in found)}</ul></div>'


def _heldout(run: Artefacts) -> str:
    if not run.evaluation.get("rows"):
        note = (
            "Not evaluated: the run has not come so far, its config asks for no evaluation, or every task was skipped."
        )
        return f"<section><h2>Held-out tasks</h2><p class='note'>{note}</p></section>"
    e = run.evaluation
    named = cells(e["rows"])
    names = list(dict.fromkeys(row["optimizer"] for row in e["rows"]))
    text = (
        f"Suite <code>{escape(str(e.get('suite', '')))}</code>: {e['steps']:,} steps, {e['seeds']} seeds. Final loss: "
        "mean of the last 5&#8239;% of training losses; ± is the standard deviation over seeds; the lowest is bold. "
        "Speed-up: how many times fewer steps than tuned Adam (the best of 14 learning rates for this very task and "
        "these seeds). ▲ faster, ▼ slower."
    )
    figures = "".join(_task_figure(task, named[task], e) for task in named)
    return (
        f"<section><h2>Held-out tasks</h2><p class='note'>{text}</p>{_table(named, names, e['tuned'])}"
        f"{_legend((_style(name), name) for name in names)}<div class='charts'>{figures}</div>"
        "<p class='note'>Training loss over steps, smoothed over 5&#8239;% of the run; the band spans all seeds. "
        "Pictures are cut at twice the first loss, and six decades lower.</p>"
        "</section>"
    )


def _style(name: str) -> str:
    return BASELINE_STYLES.get(name, "c0")


def _table(named: Mapping[str, Mapping[str, Cell]], names: list[str], tuned: Mapping[str, float]) -> str:
    ours = [name for name in names if name not in BASELINE_STYLES]
    head = "".join(f"<th>{escape(name)}</th>" for name in names) + "".join("<th>speed-up</th>" for _ in ours)
    rows = []
    for task, row in named.items():
        best = min(cell.loss for cell in row.values())
        tds = []
        for name in names:
            small = f"± {row[name].spread:.2g}" + (f", rate {tuned[task]:.2g}" if name == TUNED else "")
            mark = ' class="best"' if row[name].loss == best < math.inf else ""
            tds.append(f'<td data-label="{escape(name)}"{mark}>{_number(row[name].loss)}<small>{small}</small></td>')
        tds += [f'<td data-label="speed-up">{_speedup(row[name])}</td>' for name in ours]
        rows.append(f"<tr><td>{escape(task)}</td>{''.join(tds)}</tr>")
    head = f"<thead><tr><th>task</th>{head}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _speedup(cell: Cell) -> str:
    text = f"{cell.speedup:.2f}×"
    if cell.diverged:
        return f'<span class="bad">▼ {text}</span><small>{cell.diverged} of {cell.runs} diverged</small>'
    if 0.95 <= cell.speedup <= 1.05:
        return text
    return f'<span class="good">▲ {text}</span>' if cell.speedup > 1 else f'<span class="bad">▼ {text}</span>'


def _task_figure(task: str, row: Mapping[str, Cell], evaluation: Mapping[str, Any]) -> str:
    curves = evaluation["curves"][task]
    order = sorted(curves, key=lambda name: _style(name), reverse=True)  # the evaluated optimizer on top
    lines = [Line(_style(n), curves[n]["steps"], curves[n]["mean"], curves[n]["low"], curves[n]["high"]) for n in order]
    starts = [line.y[0] for line in lines if line.y and line.y[0] is not None]
    best = min(cell.loss for cell in row.values())
    ours = next(name for name in row if name not in BASELINE_STYLES)
    verdict = "lowest" if row[ours].loss == best else f"lowest: {next(n for n in row if row[n].loss == best)}"
    caption = f"{_number(row[ours].loss)} · {escape(verdict)} · {row[ours].speedup:.2f}×"
    svg = chart(lines, title=f"loss on {task}", x_label="step", ceiling=2 * max(starts, default=math.inf))
    return f"<figure><h3>{escape(task)}</h3><figcaption>{caption}</figcaption>{svg}</figure>"


def _training(run: Artefacts) -> str:
    if not run.metrics:
        return ""
    families = run.families()
    styles = {name: f"c{i % 7}" for i, name in enumerate(families)}
    lines = []
    for name in families:
        bins = artefacts.binned(*run.series(f"{name}/meta_loss"))
        lines.append(Line(styles[name], bins["x"], bins["y"], bins["low"], bins["high"]))
    figures = [_figure("Meta-loss", "mean normalised loss of the inner runs", lines)]
    x, y = run.series("valid/score")
    if x:
        best = run.summary.get("best") or {}
        note = f"best {number(best['score'])} after outer step {best['outer_step']:,}" if best.get("score") else ""
        figures.append(_figure("Validation", note or "normalised final loss", [Line("c0", x, y)]))
    bins = artefacts.binned(*run.series("grad_norm"))
    figures.append(
        _figure("Norm of the meta-gradient", "", [Line("c0", bins["x"], bins["y"], bins["low"], bins["high"])])
    )
    return (
        f"<section><h2>Meta-training</h2>{_legend((styles[f], f) for f in families)}"
        f"<div class='charts'>{''.join(figures)}</div><p class='note'>Lines are means over stretches of outer steps; "
        "bands span them.</p></section>"
    )


def _figure(title: str, caption: str, lines: list[Line]) -> str:
    svg = chart(lines, title=title, x_label="outer step")
    return f"<figure><h3>{escape(title)}</h3><figcaption>{escape(caption) or '&#160;'}</figcaption>{svg}</figure>"


def _legend(items: Iterable[tuple[str, str]]) -> str:
    line = '<svg viewBox="0 0 34 10" aria-hidden="true"><path class="line {}" d="M1,5 L33,5"/></svg>'
    return f'<ul class="legend">{"".join(f"<li>{line.format(style)}{escape(name)}</li>" for style, name in items)}</ul>'


def _use(run: Artefacts) -> str:
    code = (
        "import metaopt\n\n"
        f'tx = metaopt.load("{run.folder / "theta.safetensors"}", num_steps=10_000)\n'
        "state = tx.init(params)\n"
        "updates, state = tx.update(grads, state, params, value=loss)\n"
    )
    return (
        "<section><h2>Use the weights</h2><p class='note'>An ordinary optax optimizer, with nothing left to tune; "
        "<code>num_steps</code> is the number of steps you are going to take.</p>"
        f"<pre><code>{escape(code)}</code></pre></section>"
    )


def _details(run: Artefacts) -> str:
    starts = "".join(_start(env) for env in run.environment)
    return (
        f"<section><h2>Details</h2><details><summary>Config</summary><pre><code>{escape(run.config)}</code></pre></details>"
        f"<details open='open'><summary>Command, versions, device</summary>{starts}</details></section>"
    )


def _start(env: Mapping[str, Any]) -> str:
    git = env.get("git") or {}
    items = {
        "command": shlex.join(str(word) for word in env.get("command", [])),
        "python": env.get("python"),
        "packages": ", ".join(f"{name} {version}" for name, version in env.get("versions", {}).items()),
        "platform": env.get("platform"),
        "device": ", ".join(f"{key} {value}" for key, value in env.get("device", {}).items()),
        "git commit": f"{git['commit']}{' (modified)' if git.get('modified') else ''}" if git else None,
    }
    return f"<dl>{''.join(f'<dt>{k}</dt><dd>{escape(str(v))}</dd>' for k, v in items.items() if v)}</dl>"


def _number(x: float) -> str:
    return number(x) if math.isfinite(x) else "diverged"


def _duration(seconds: float) -> str:
    """3 min 12 s"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
