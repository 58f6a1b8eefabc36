"""The charts' axes, gaps and marks."""

import re

import pytest

from metaopt.evaluate._svg import MARKS, Axis, Line, chart, short, strip, ticks


@pytest.mark.parametrize(
    ("start", "stop", "log", "expected"),
    [
        (0.0, 1.0, False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (1.0, 1000.0, False, [200, 400, 600, 800, 1000]),
        (-3.0, 4.0, False, [-2, 0, 2, 4]),
        (0.01, 1.0, True, [0.01, 0.03, 0.1, 0.3, 1]),
        (0.3, 4.0, True, [0.5, 1, 2]),
        (1e-6, 1.0, True, [1e-6, 1e-4, 1e-2, 1]),
    ],
)
def test_ticks(start, stop, log, expected):
    assert ticks(Axis(start, stop, (0, 100), log)) == pytest.approx(expected)


def test_numbers_of_ticks():
    assert [short(x) for x in (0, 0.25, 1e-4, 20_000, 3e7, -0.5)] == ["0", "0.25", "1e-4", "20k", "3e7", "-0.5"]


def test_axis_is_linear_in_the_value_or_in_its_logarithm():
    assert [Axis(0, 4, (10, 50))(x) for x in (0, 1, 4)] == [10, 20, 50]
    assert [Axis(1, 100, (50, 10), True)(x) for x in (1, 10, 100)] == [50, 30, 10]
    assert [Axis(1, 100, (0, 100), True).clipped(x) for x in (0, 1e9)] == [0, 100]


def test_chart_has_gaps_and_stays_finite():
    line = Line("k0", [0, 1, 2, 3], [1.0, None, 0.0, 1e30], [0.5, None, 0.0, 1e29], [2.0, 1.0, None, 1e31])
    svg = chart([line], title="t", x_label="x", ceiling=2.0)
    assert re.search(r'class="line k0" d="M[^M]+ M[^M]+"', svg) and "nan" not in svg and "inf" not in svg
    assert svg.count('class="mark') == 3  # of a short line all points
    assert max(abs(float(x)) for x in re.findall(r"-?\d+\.\d+", svg)) < 1000
    assert chart([], title="t", x_label="x") == chart([Line("k0", [1], [None])], title="t", x_label="x")


def test_lines_on_top_of_each_other_have_their_markers_apart():
    x = list(range(100))
    svg = chart([Line(style, x, x) for style in ("k0", "k1", "k2")], title="t", x_label="x")
    places = re.findall(r'class="mark k\d" d="[^"]+" transform="translate\(([\d.]+),', svg)
    assert len(set(places)) == 9


def test_ticks_given_make_a_logarithmic_axis_and_rules_are_drawn_where_they_fit():
    lines = [Line("k0", [0.1, 1, 10], [1, 2, 3])]
    svg = chart(lines, title="t", x_label="x", x_ticks=[0.1, 1, 10], level=1.0, base=1)
    left, middle, right = (float(x) for x in re.findall(r'class="tick" x="([\d.]+)" y="198', svg))
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert svg.count('class="rule"') == 2
    assert chart(lines, title="t", x_label="x", level=9.0, base=None).count('class="rule"') == 0


def test_strip_shows_the_interval_in_percent():
    svg = strip("k3", 2.0, 0.0, 4.0, Axis(1, 4, (0, 100), True), [1, 2, 4], 1.0)
    assert re.search(r'class="bar k3" x1="0(\.0)?%" x2="100(\.0)?%"', svg) and '<svg x="50.0%"' in svg
    assert svg.count('class="grid"') == 3


def test_every_style_has_a_marker_of_its_own():
    assert len(set(MARKS.values())) >= 9  # that of the reference is the hollow circle
