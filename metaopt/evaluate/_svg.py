"""Charts as inline SVG. Colours and dashes are CSS classes of the page, so that they follow light, dark and print.

A style is a class of report.css and a marker: lines differ by colour, dash and marker, dots by colour and marker, so
that they are told apart with any kind of colour vision and in grey.
"""

import math
import zlib
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 340, 220  # about the pixels that a chart has on a page, so that text keeps its size
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 10, 36  # margins around the plot
DECADES = 6  # shown at most
LOG_RATIO = 8  # values that span more than this factor get a logarithmic axis
ALL_MARKED = 12  # points; a line of more is marked at a few
MARKED = 3

Values = Sequence[float | None]  # None: a gap

_CROSS = "M-1.4,-4.2H1.4V-1.4H4.2V1.4H1.4V4.2H-1.4V1.4H-4.2V-1.4H-1.4Z"
MARKS = {  # style: its marker, as a path around (0, 0)
    "k0": "M-3.7,0a3.7,3.7 0 1,0 7.4,0a3.7,3.7 0 1,0 -7.4,0Z",
    "k1": "M0,-4.5L4.2,3H-4.2Z",
    "k2": "M-3.3,-3.3H3.3V3.3H-3.3Z",
    "k3": "M0,-4.8L4.8,0L0,4.8L-4.8,0Z",
    "k4": "M0,4.5L4.2,-3H-4.2Z",
    "k5": _CROSS,
    "k6": "M-4.5,-4.5L4.5,-4.5L-4.5,4.5L4.5,4.5Z",
    "k7": "M-4.5,-4.5L-4.5,4.5L4.5,-4.5L4.5,4.5Z",
    "reference": "M-3.5,0a3.5,3.5 0 1,0 7,0a3.5,3.5 0 1,0 -7,0Z",
    "usual": "M-3.1,-3.1H3.1V3.1H-3.1Z",
}
STYLES = tuple(style for style in MARKS if style.startswith("k"))


class Line(NamedTuple):
    """One curve, with a band from `low` to `high` if given."""

    style: str  # of MARKS
    x: Sequence[float]
    y: Values
    low: Values | None = None
    high: Values | None = None


class Axis(NamedTuple):
    """Maps values to pixels, or to percent."""

    start: float
    stop: float
    pixels: tuple[float, float]
    log: bool = False

    def __call__(self, value: float) -> float:
        f = math.log10 if self.log else float
        share = (f(value) - f(self.start)) / ((f(self.stop) - f(self.start)) or 1.0)
        return round(self.pixels[0] + share * (self.pixels[1] - self.pixels[0]), 1)

    def clipped(self, value: float) -> float:
        """Of a value that may lie outside."""
        return self(min(max(value, self.start), self.stop))


def chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    ceiling: float = math.inf,
    y_range: tuple[float, float] | None = None,
    x_ticks: Sequence[float] = (),
    level: float | None = None,
    base: float | None = None,
) -> str:
    """An <svg> element. An axis is logarithmic where no value is negative and they span a large factor.

    Values above `ceiling` are cut off, and more than DECADES below the top: a curve that diverges, or finds an exact
    minimum, leaves the picture instead of flattening all others. y_range: the y axis, which is linear then. x_ticks: of
    the x axis, which is logarithmic then where they are positive and span a large factor. level, base: a y and an x to
    draw a rule at.
    """
    xs = [x for line in lines for x in line.x]
    ys = [v for line in lines for part in (line.y, line.low, line.high) for v in part or () if v is not None]
    if not xs or not ys:
        return '<p class="note">nothing to draw</p>'
    log = bool(x_ticks) and min(xs) > 0 and max(xs) >= LOG_RATIO * min(xs)
    x_axis = Axis(min(xs), max(xs), (LEFT, WIDTH - RIGHT), log)
    y_axis = Axis(*y_range, (HEIGHT - BOTTOM, TOP)) if y_range else _y_axis(ys, ceiling)
    name = f"clip{zlib.crc32(repr((title, ys)).encode()):x}"
    # markers at the first and last x stay whole
    box = f'x="{LEFT - 5}" y="{TOP - 1}" width="{WIDTH - LEFT - RIGHT + 10}" height="{HEIGHT - TOP - BOTTOM + 2}"'
    rules = _rule(x_axis, y_axis, level, base)
    drawn = "".join(_band(line, x_axis, y_axis) for line in lines)
    drawn += "".join(_path(line, x_axis, y_axis) for line in lines)
    drawn += "".join(_marks(line, (i + 0.5) / len(lines), x_axis, y_axis) for i, line in enumerate(lines))
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<clipPath id="{name}"><rect {box}/></clipPath>{_grid(x_axis, y_axis, x_label, x_ticks)}'
        f'<g clip-path="url(#{name})">{rules}{drawn}</g></svg>'
    )


def _y_axis(ys: Sequence[float], ceiling: float) -> Axis:
    low, high = min(ys), min(max(ys), max(ceiling, min(ys)))
    log = low >= 0 and high > LOG_RATIO * low
    if log:
        low = max(min((v for v in ys if v > 0), default=high), high * 10.0**-DECADES)
    pad = 0.0 if log else 0.04 * (high - low or abs(high) or 1.0)
    return Axis(low - pad, high + pad, (HEIGHT - BOTTOM, TOP), log)


def ticks(axis: Axis, count: int = 5) -> list[float]:
    """Round numbers within the axis, about `count` of them."""
    if axis.log:
        span = range(math.floor(math.log10(axis.start)), math.ceil(math.log10(axis.stop)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [d * 10.0**e for e in span for d in digits if axis.start <= d * 10.0**e <= axis.stop]
            if len(found) <= count + 1:
                return found
        return found[:: -(-len(found) // count)]
    raw = (axis.stop - axis.start) / count or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(axis.start / step - 1e-9)
    return [i * step for i in range(first, math.floor(axis.stop / step + 1e-9) + 1)]


def _grid(x_axis: Axis, y_axis: Axis, x_label: str, x_ticks: Sequence[float]) -> str:
    parts = []
    for value in ticks(y_axis):
        y = y_axis(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{short(value)}</text>')
    for value in x_ticks or ticks(x_axis):
        x, y = x_axis(value), HEIGHT - BOTTOM + 14
        parts.append(f'<text class="tick" x="{x}" y="{y}" text-anchor="middle">{short(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    return "".join(parts)


def _rule(x_axis: Axis, y_axis: Axis, level: float | None, base: float | None) -> str:
    parts = []
    if level is not None and y_axis.start <= level <= y_axis.stop:
        parts.append(f'<path class="rule" d="M{LEFT},{y_axis(level)}H{WIDTH - RIGHT}"/>')
    if base is not None and x_axis.start <= base <= x_axis.stop:
        parts.append(f'<path class="rule" d="M{x_axis(base)},{TOP}V{HEIGHT - BOTTOM}"/>')
    return "".join(parts)


def short(value: float) -> str:
    """A number of a tick: 0.25, 20k, 1e-4."""
    if value and not 1e-3 <= abs(value) < 1e4:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{value / 1000:g}k" if 1e4 <= abs(value) < 1e6 else f"{mantissa}e{int(exponent)}"
    return f"{value:.4g}"


def _points(xs: Sequence[float], ys: Values, x_axis: Axis, y_axis: Axis) -> list[list[str]]:
    """Runs of points without a gap, as "x,y"."""
    runs: list[list[str]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if y is None:
            runs.append([])
        else:
            runs[-1].append(f"{x_axis(x)},{_height(y, y_axis)}")
    return [run for run in runs if run]


def _height(y: float, axis: Axis) -> float:
    """In pixels; far outside of the picture, but not further than needed, for what does not fit in."""
    return min(max(-HEIGHT, axis(max(y, axis.start / 10) if axis.log else y)), 2 * HEIGHT)


def _path(line: Line, x_axis: Axis, y_axis: Axis) -> str:
    d = " ".join("M" + " L".join(run) for run in _points(line.x, line.y, x_axis, y_axis))
    return f'<path class="line {line.style}" d="{d}"/>' if d else ""


def _marks(line: Line, phase: float, x_axis: Axis, y_axis: Axis) -> str:
    """At every point of a short line; at MARKED points of a long one, which differ between lines by their phase."""
    at = range(len(line.x))
    chosen = at if len(at) <= ALL_MARKED else [int((j + phase) / MARKED * len(at)) for j in range(MARKED)]
    places = [(x_axis(line.x[i]), _height(y, y_axis)) for i in chosen if (y := line.y[i]) is not None]
    return "".join(mark(line.style, x, y) for x, y in places)


def _band(line: Line, x_axis: Axis, y_axis: Axis) -> str:
    if line.low is None or line.high is None:
        return ""
    whole = [i for i, pair in enumerate(zip(line.low, line.high, strict=True)) if None not in pair]
    x = [line.x[i] for i in whole]
    up = _points(x, [line.high[i] for i in whole], x_axis, y_axis)
    down = _points(x, [line.low[i] for i in whole], x_axis, y_axis)
    edge = [p for run in up for p in run] + [p for run in reversed(down) for p in reversed(run)]
    return f'<polygon class="band {line.style}" points="{" ".join(edge)}"/>' if edge else ""


def mark(style: str, x: float, y: float, scale: float = 1) -> str:
    """A style's marker."""
    return f'<path class="mark {style}" d="{MARKS[style]}" transform="translate({x},{y}) scale({scale})"/>'


def sample(style: str) -> str:
    """A piece of a line, for legends."""
    line = f'<path class="line {style}" d="M1,6 H39"/>{mark(style, 20, 6)}'
    return f'<svg class="sample" viewBox="0 0 40 12" aria-hidden="true">{line}</svg>'


def strip(style: str, value: float, low: float, high: float, axis: Axis, at: Sequence[float], level: float) -> str:
    """A dot on its interval, on an axis in percent with ticks `at`: as wide and high as there is room."""
    grid = "".join(f'<line class="grid" x1="{axis(t)}%" x2="{axis(t)}%" y1="0" y2="100%"/>' for t in at)
    rule = f'<line class="rule" x1="{axis.clipped(level)}%" x2="{axis.clipped(level)}%" y1="0" y2="100%"/>'
    bar = f'<line class="bar {style}" x1="{axis.clipped(low)}%" x2="{axis.clipped(high)}%" y1="50%" y2="50%"/>'
    dot = f'<svg x="{axis.clipped(value)}%" y="50%" overflow="visible">{mark(style, 0, 0, 1.35)}</svg>'
    return f'<div class="strip" aria-hidden="true"><svg>{grid}{rule}{bar}{dot}</svg></div>'


def strip_axis(axis: Axis, at: Sequence[float], unit: str) -> str:
    """The ticks below strips."""
    texts = "".join(
        f'<text class="tick" x="{axis(t)}%" y="13" text-anchor="middle">{short(t)}{unit}</text>' for t in at
    )
    return f'<div class="strip ticks" aria-hidden="true"><svg>{texts}</svg></div>'
