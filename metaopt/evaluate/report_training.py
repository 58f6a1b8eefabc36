"""The report's sections on a run of meta-training: its curves, and how to use what came out."""

from html import escape

from metaopt.evaluate import artefacts, summary
from metaopt.evaluate._svg import STYLES, Line, chart
from metaopt.evaluate.artefacts import Artefacts
from metaopt.evaluate.report_html import figure, legend, section, times
from metaopt.evaluate.table import number


def cards(run: Artefacts) -> str:
    """The verdict on the learned optimizer and the size of the run, in a few large numbers."""
    items: list[tuple[str, str]] = []
    rows = run.results.get("rows", [])
    for name in summary.challengers(rows, run.results.get("reference", ""))[:1]:
        s = summary.summarize(rows, name, run.results["reference"])
        of = f"<small> of {s['tasks']}</small>"
        items += [
            (f"{s['below_adam']}{of}", "held-out tasks with a final loss below Adam at 1e-3"),
            (f"{s['below_tuned']}{of}", "below Adam with its rate tuned per task"),
            (times(s["speedup_iqm"]), "interquartile mean of the speed-up over tuned Adam"),
        ]
    steps = len(run.metrics)
    seconds = run.summary.get("seconds") or next((r["seconds"] for r in reversed(run.metrics) if "seconds" in r), None)
    if steps:
        items.append((f"{steps:,}", f"outer steps{f' in {_duration(seconds)}' if seconds else ''}"))
    if run.summary.get("inner_steps") and seconds:
        rate = run.summary["inner_steps"] / seconds
        items.append((f"{rate / 1000:,.1f}k" if rate > 1e4 else f"{rate:,.0f}", "inner steps a second, all included"))
    inside = "".join(f"<div class='card'><b>{big}</b><span>{text}</span></div>" for big, text in items)
    return f"<div class='cards'>{inside}</div>"


def training(run: Artefacts) -> str:
    """Meta-loss per family, validation, meta-gradient; nothing before the first outer step."""
    if not run.metrics:
        return ""
    looks = {name: STYLES[i % len(STYLES)] for i, name in enumerate(run.families())}
    lines = [_line(style, run, f"{name}/meta_loss") for name, style in looks.items()]
    figures = [_figure("Meta-loss", "mean normalised loss of the inner runs", lines)]
    x, y = run.series("valid/score")
    if x:
        best = run.summary.get("best") or {}
        note = f"best {number(best['score'])} after outer step {best['outer_step']:,}" if best.get("score") else ""
        figures.append(_figure("Validation", note or "normalised final loss", [Line(STYLES[0], x, y)]))
    figures.append(_figure("Norm of the meta-gradient", "", [_line(STYLES[0], run, "grad_norm")]))
    note = "Lines are means over stretches of outer steps; bands span them."
    return section("Meta-training", note, legend(looks), f"<div class='charts'>{''.join(figures)}</div>")


def _line(style: str, run: Artefacts, key: str) -> Line:
    bins = artefacts.binned(*run.series(key))
    return Line(style, bins["x"], bins["y"], bins["low"], bins["high"])


def _figure(title: str, caption: str, lines: list[Line]) -> str:
    return figure(title, escape(caption), chart(lines, title=title, x_label="outer step"))


def use(run: Artefacts) -> str:
    """How to load the weights."""
    code = (
        "import metaopt\n\n"
        f'tx = metaopt.load("{run.folder / "theta.safetensors"}", num_steps=10_000)\n'
        "state = tx.init(params)\n"
        "updates, state = tx.update(grads, state, params, value=loss)\n"
    )
    note = (
        "An ordinary optax optimizer, with nothing left to tune; <code>num_steps</code> is the number of steps you are "
        "going to take."
    )
    return section("Use the weights", note, f"<pre><code>{escape(code)}</code></pre>")


def _duration(seconds: float) -> str:
    """3 min 12 s"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
