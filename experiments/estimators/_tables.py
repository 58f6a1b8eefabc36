"""results.json as the tables of README.md."""

from typing import Any

COLUMNS = (
    "estimator",
    "inner steps",
    "compute",
    "bias",
    "total bias",
    "cosine",
    "variance, cycle",
    "variance, outer step",
    "variance × compute",
)


def tables(results: dict[str, Any]) -> str:
    parts = [f"### {name}\n\n{about(one)}\n\n{table(one)}" for name, one in results["problems"].items()]
    return "\n\n".join([*parts, against_nres(results["problems"]), memory(results["memory"])])


def about(one: dict[str, Any]) -> str:
    problem, smoothing = one["problem"], one["smoothing"]
    settings = (
        f"{one['theta_size']} number{'s' * (one['theta_size'] > 1)} in theta; horizon {problem['horizon']}, truncation "
        f"{problem['truncation']}, period of gpes {problem['period']}, std {problem['std']:g}; {one['repetitions']} "
        f"repetitions of {problem['num_tasks']} tasks; a plain step took {one['plain_step_us']:.2g} us a run."
    )
    moved = f"{bias(smoothing['mean'])} (final loss: {bias(smoothing['final'])})"
    return f"{settings} Smoothing moves the gradient by {moved}."


def table(one: dict[str, Any]) -> str:
    lines = [row(COLUMNS), "|---" * len(COLUMNS) + "|"]
    for name, measured in one["rows"].items():
        cost = measured["compute"][0]
        product = [cost * x for x in measured["variance"]]
        cells = (
            name,
            f"{measured['inner_steps']:g}",
            number(cost),
            bias(measured["bias"]),
            bias(measured["total_bias"]),
        )
        cells += (number(measured["cosine"][0]), interval(measured["variance"]), interval(measured["variance_step"]))
        lines.append(row((*cells, interval(product))))
    return "\n".join(lines)


def against_nres(problems: dict[str, Any]) -> str:
    """The variances of others over that of nres."""
    lines = [row(("problem", "variance over that of nres", "of a cycle", "of an outer step")), "|---" * 4 + "|"]
    for problem, one in problems.items():
        for name, ratios in one["over_nres"].items():
            lines.append(row((problem, name, interval(ratios["variance"]), interval(ratios["variance_step"]))))
    return "### Against nres\n\n" + "\n".join(lines)


def memory(study: dict[str, Any]) -> str:
    lengths = next(iter(study["bytes"].values()))
    lines = [row(("steps", *lengths, "exponent", "last slope")), "|---" * (3 + len(lengths)) + "|"]
    for name, by_length in study["bytes"].items():
        exponents = study["exponents"][name]
        sizes = (f"{size / 1e6:.3g}" for size in by_length.values())
        lines.append(row((name, *sizes, f"{exponents['growth']:.2f}", f"{exponents['last']:.2f}")))
    checks = [
        f"{name} {check['planned'] / 1e6:.3g} planned, {check['resident'] / 1e6:.3g} resident"
        for name, check in study["check"].items()
        if check
    ]
    checked = f"MB of {study['runs']} runs at {study['probe']} steps: {'; '.join(checks)}."
    return "### Memory, MB a run\n\n" + "\n".join(lines) + f"\n\n{checked}"


def row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def number(x: float) -> str:
    return "–" if x != x else f"{float(f'{x:.2g}'):g}"


def interval(measured: list[float]) -> str:
    value, low, high = measured
    return "0" if high == 0 else f"{number(value)} ({number(low)}–{number(high)})"


def bias(measured: list[float]) -> str:
    """An interval that reaches zero is an upper bound."""
    return f"< {number(measured[2])}" if measured[1] == 0 < measured[2] else interval(measured)
