"""Pieces of the report's page."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from metaopt.evaluate._svg import STYLES, sample
from metaopt.evaluate.baselines import USUAL
from metaopt.evaluate.statistics import Interval

BREAK = "\u200b"  # a space without width


def styles(names: Iterable[str], reference: str) -> dict[str, str]:
    """A style for every contender; the two baselines that are always there always look the same."""
    fixed = {reference: "reference", USUAL: "usual"}
    others = [name for name in names if name not in fixed]
    return fixed | {name: STYLES[i % len(STYLES)] for i, name in enumerate(others)}


def label(name: str) -> str:
    """A name of a task or contender as HTML, which may be broken between its arguments."""
    return _breakable(name).replace(BREAK, "<wbr/>")


def _breakable(name: str) -> str:
    return re.sub(r"(?<=[,:(=/_])(?=.)", BREAK, escape(name))


def section(title: str, note: str, *parts: str) -> str:
    """`title` is text, `note` and `parts` are HTML."""
    note = f"<p class='note'>{note}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{note}{''.join(parts)}</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """`head` is text, the cells are HTML. On a narrow screen a row becomes a block with a labelled line per cell."""
    columns = "".join(f"<th scope='col'>{label(name)}</th>" for name in head)
    body = []
    for first, *rest in rows:
        cells = (
            f'<td data-label="{_breakable(name)}"><span>{cell}</span></td>'
            for name, cell in zip(head[1:], rest, strict=True)
        )
        body.append(f"<tr><th scope='row'>{first}</th>{''.join(cells)}</tr>")
    head_row = f"<thead><tr>{columns}</tr></thead>"
    return f"<div class='scroll' tabindex='0'><table>{head_row}<tbody>{''.join(body)}</tbody></table></div>"


def figure(title: str, caption: str, *parts: str) -> str:
    """`title` is text, the rest HTML."""
    caption = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure><h3>{escape(title)}</h3>{caption}{''.join(parts)}</figure>"


def legend(looks: Mapping[str, str]) -> str:
    """Of {name: style}."""
    items = "".join(f"<li>{sample(style)}<span>{label(name)}</span></li>" for name, style in looks.items())
    return f'<ul class="legend">{items}</ul>'


def fold(title: str, *parts: str) -> str:
    """Folded away on the screen, open in print."""
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>"


def times(value: float) -> str:
    return f"{value:.2f}×"


def bounds(x: Interval) -> str:
    """1.10 – 2.03"""
    return f"{x.low:.2f}&#8239;–&#8239;{x.high:.2f}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
