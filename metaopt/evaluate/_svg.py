"""Line charts as inline SVG. Colours and dashes are CSS classes of the page, so that they follow light and dark."""

import math
import zlib
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 10, 34  # margins around the plot
DECADES = 6  # shown at most
LOG_RATIO = 8  # values that span more than this factor get a logarithmic axis

Values = Sequence[float | None]  # None: a gap


class Line(NamedTuple):
    """One curve, with a band from `low` to `high` if given."""

    style: str  # CSS class
    x: Sequence[float]
    y: Values
    low: Values | None = None
    high: Values | None = None


class Axis(NamedTuple):
    """Maps values to pixels."""

    start: float
    stop: float
    pixels: tuple[float, float]
    log: bool = False

    def __call__(self, value: float) -> float:
        f = math.log10 if self.log else float
        share = (f(value) - f(self.start)) / ((f(self.stop) - f(self.start)) or 1.0)
        return round(self.pixels[0] + share * (self.pixels[1] - self.pixels[0]), 1)


def chart(lines: Sequence[Line], *, title: str, x_label: str, ceiling: float = math.inf) -> str:
    """An <svg> element. The y axis is logarithmic where no value is negative and they span a large factor.

    Values above `ceiling` are cut off, and more than DECADES below the top: a curve that diverges, or finds an exact
    minimum, leaves the picture instead of flattening all others.
    """
    xs = [x for line in lines for x in line.x]
    ys = [v for line in lines for part in (line.y, line.low, line.high) for v in part or () if v is not None]
    if not xs or not ys:
        return '<p class="note">nothing to draw</p>'
    low, high = min(ys), min(max(ys), max(ceiling, min(ys)))
    log = low >= 0 and high > LOG_RATIO * low
    if log:
        low = max(min((v for v in ys if v > 0), default=high), high * 10.0**-DECADES)
    pad = 0.0 if log else 0.04 * (high - low or abs(high) or 1.0)
    x_axis = Axis(min(xs), max(xs), (LEFT, WIDTH - RIGHT))
    y_axis = Axis(low - pad, high + pad, (HEIGHT - BOTTOM, TOP), log)
    name = f"clip{zlib.crc32(repr((title, ys)).encode()):x}"
    box = f'x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    marks = "".join(_band(line, x_axis, y_axis) for line in lines) + "".join(_path(x, x_axis, y_axis) for x in lines)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f'<clipPath id="{name}"><rect {box}/></clipPath>{_grid(x_axis, y_axis, x_label)}'
        f'<g clip-path="url(#{name})">{marks}</g></svg>'
    )


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


def _grid(x_axis: Axis, y_axis: Axis, x_label: str) -> str:
    parts = []
    for value in ticks(y_axis):
        y = y_axis(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{_text(value)}</text>')
    for value in ticks(x_axis):
        x = x_axis(value)
        parts.append(
            f'<text class="tick" x="{x}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_text(value)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    return "".join(parts)


def _text(value: float) -> str:
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
            y = y_axis(max(y, y_axis.start / 10) if y_axis.log else y)
            runs[-1].append(f"{x_axis(x)},{max(-HEIGHT, y)}")
    return [run for run in runs if run]


def _path(line: Line, x_axis: Axis, y_axis: Axis) -> str:
    d = " ".join("M" + " L".join(run) for run in _points(line.x, line.y, x_axis, y_axis))
    return f'<path class="line {line.style}" d="{d}"/>' if d else ""


def _band(line: Line, x_axis: Axis, y_axis: Axis) -> str:
    if line.low is None or line.high is None:
        return ""
    whole = [i for i, pair in enumerate(zip(line.low, line.high, strict=True)) if None not in pair]
    x = [line.x[i] for i in whole]
    up = _points(x, [line.high[i] for i in whole], x_axis, y_axis)
    down = _points(x, [line.low[i] for i in whole], x_axis, y_axis)
    edge = [p for run in up for p in run] + [p for run in reversed(down) for p in reversed(run)]
    return f'<polygon class="band {line.style}" points="{" ".join(edge)}"/>' if edge else ""
