"""A synthetic results.json: eight contenders on ten tasks with three seeds, failures, skipped tasks and two sweeps."""

import math

import numpy as np

from metaopt.evaluate import metrics, statistics

TASKS = {  # name: (initial loss, lowest loss, speed of tuned Adam)
    "image_mlp(dataset=digits, widths=[64, 64])": (2.3, 0.002, 9.0),
    "image_mlp(dataset=fashion_mnist)": (2.3, 0.21, 5.0),
    "image_conv(dataset=fashion_mnist)": (2.3, 0.12, 6.0),
    "image_vae(dataset=digits)": (44.0, 21.0, 7.0),
    "rnn_lm(cell=gru)": (5.5, 2.4, 3.0),
    "transformer_lm": (5.5, 2.1, 3.5),
    "tabular_regression(dataset=diabetes) <&>": (1.0, 0.45, 12.0),
    "two_moons": (0.69, 0.01, 8.0),
    "matrix_factorization": (1.0, 1e-7, 16.0),
    "normalizing_flow": (2.8, -0.4, 5.0),
}
CONTENDERS = {  # name: (kind, trials, speed over Adam and its deviation over tasks, time and state over Adam, about)
    "runs/celo2-wide": ("learned", 1, 1.6, 0.35, 2.1, 1.5, "celo2, meta-trained for 20,000 steps on train_diverse"),
    "quickstart": ("learned", 1, 1.05, 0.5, 1.4, 1.0, "adafac_mlp, 197 numbers, ships with the package"),
    "adam:lr=0.001": ("fixed", 1, 0.55, 0.4, 1.0, 1.0, "Adam at its usual rate"),
    "adam@14": ("tuned", 14, 1.0, 0.0, 1.0, 1.0, "Adam, the best of 14 rates from 1e-6 to 3.2, half a decade apart"),
    "adamw:lr=1e-3,schedule=cosine,warmup=0.1": ("fixed", 1, 0.8, 0.3, 1.02, 1.0, "AdamW, cosine, a tenth of warm-up"),
    "nadamw8p@100": ("tuned", 100, 1.3, 0.15, 1.1, 1.0, "NAdamW, the best of 100 draws of 8 hyper-parameters"),
    "sgd:lr=0.1": ("fixed", 1, 0.35, 0.6, 0.7, 0.0, "plain SGD"),
    "prodigy": ("fixed", 1, 0.9, 0.3, 1.5, 2.0, "Prodigy, no rate"),
}
REFERENCE = "adam@14"
SEEDS, STEPS = 3, 400
FAILED = {
    ("sgd:lr=0.1", 3),
    ("sgd:lr=0.1", 9),
    ("prodigy", 4),
}  # contender, index of the task: the second seed explodes


def losses(task: int, name: str, *, harder: float = 1.0) -> np.ndarray:
    """[seeds, steps] of one contender: an exponential fall with noise."""
    start, floor, speed = list(TASKS.values())[task]
    _, _, factor, deviation, *_ = CONTENDERS[name]
    own = np.random.default_rng([task, *name.encode()])
    shared = np.random.default_rng(task)
    fast = speed * factor * math.exp(deviation * own.normal()) * harder ** (factor - 1)
    x = np.arange(STEPS) / STEPS
    noise = 1 + 0.05 * own.normal(size=(SEEDS, STEPS))
    level = floor + (start - floor) * np.exp(-fast * shared.lognormal(0, 0.1, (SEEDS, 1)) * np.sqrt(x) * (0.3 + x))
    out = floor + (level - floor) * noise
    if (name, task) in FAILED:
        out[1] = np.where(x > 0.3, np.inf, out[1] * 10 ** np.minimum(8 * x, 5))
    return out


def smoothed(runs: np.ndarray) -> np.ndarray:
    """As runs keep them: means over windows that end at `last_steps`, [..., steps] -> [..., points]."""
    width = metrics.window(runs.shape[-1])
    ends = metrics.last_steps(runs.shape[-1]) + 1
    return np.stack([runs[..., max(0, end - width) : end].mean(axis=-1) for end in ends], axis=-1)


def band(curves: np.ndarray) -> dict:
    steps = np.linspace(1, STEPS, curves.shape[-1]).round().astype(int)
    parts = {"mean": curves.mean(0), "low": curves.min(0), "high": curves.max(0)}
    return {"steps": steps.tolist(), **{key: [number(x) for x in part] for key, part in parts.items()}}


def number(x: float) -> float | None:
    return float(f"{x:.6g}") if math.isfinite(x) else None


def rows(task: int, label: str, curves: dict[str, np.ndarray]) -> list[dict]:
    found = []
    for name, runs in curves.items():
        normalized = metrics.normalized(runs, curves[REFERENCE])
        for seed, (run, reference) in enumerate(zip(runs, curves[REFERENCE], strict=True)):
            numbers = {
                "initial_loss": run[0],
                "final_loss": run[-1],
                "best_loss": run.min(),
                "mean_loss": run.mean(),
                **dict.fromkeys(("valid_final", "valid_best", "valid_mean"), run[-1] * 1.1 if task < 7 else math.nan),
                "speedup": metrics.speedup(run, reference, STEPS),
                "normalized_loss": normalized[seed],
                "steps_to_reference": metrics.time_to(run, reference[-1], STEPS),
                "seconds_per_step": 2e-4 * CONTENDERS[name][4] * (task + 1),
                "state_bytes": 20_000 * CONTENDERS[name][5] * (task + 1),
            }
            found.append(
                {"task": label, "optimizer": name, "seed": seed, "steps": STEPS}
                | {key: number(x) for key, x in numbers.items()}
                | {"diverged": bool(metrics.diverged(run))}
            )
    return found


def results() -> dict:
    runs = {label: {name: smoothed(losses(i, name)) for name in CONTENDERS} for i, label in enumerate(TASKS)}
    found = [row for i, label in enumerate(TASKS) for row in rows(i, label, runs[label])]

    def worth(i: int, name: str) -> float | None:
        mine = np.mean([row["speedup"] for row in found if row["task"] == list(TASKS)[i] and row["optimizer"] == name])
        failed = (name, i) in FAILED
        trials = np.random.default_rng(i).lognormal(0.7, 0.5, 100)
        return number(statistics.trials_worth(math.inf if failed else 1 / mine, trials))

    untuned = [name for name, facts in CONTENDERS.items() if facts[0] != "tuned"]
    rates = {label: {REFERENCE: {"learning_rate": 10 ** -(1 + i % 4 / 2)}} for i, label in enumerate(TASKS)}
    draw = {"learning_rate": 3.1e-3, "b1": 0.91, "b2": 0.9993, "eps": 2e-9, "weight_decay": 1e-5, "warmup": 0.02}
    return {
        "format": 1,
        "suite": "heldout_small",
        "steps": STEPS,
        "seeds": SEEDS,
        "reference": REFERENCE,
        "command": ["metaopt", "eval", "runs/celo2-wide", "quickstart", "a b.yaml", "--suite", "heldout_small"],
        "environment": {
            "command": ["ignored"],
            "python": "3.11.9",
            "versions": {"jax": "0.10.2", "optax": "0.2.6", "numpy": "2.3.1"},
            "platform": "Linux-6.1",
            "device": {"kind": "cpu", "platform": "cpu", "count": 2},
            "cores": 2,
            "git": {"commit": "0123456789abcdef", "modified": True},
        },
        "contenders": {n: {"kind": f[0], "about": f[-1], "trials": f[1]} for n, f in CONTENDERS.items()},
        "rows": found,
        "curves": {label: {name: band(run) for name, run in named.items()} for label, named in runs.items()},
        "valid_curves": {
            label: {name: band(1.1 * run[:, 9::10]) for name, run in runs[label].items()} for label in list(TASKS)[:7]
        },
        "tuned": {label: rates[label] | {"nadamw8p@100": draw} for label in TASKS},
        "worth": {label: {name: worth(i, name) for name in untuned} for i, label in enumerate(TASKS)},
        "skipped": {"image_resnet(dataset=cifar10)": "cifar10 is not on this machine <import it>"},
        "sweeps": {"horizon": sweep(1.0, [0.1, 0.3, 1.0, 3.0, 10.0]), "width": sweep(1, [0.5, 1, 2, 4])},
    }


def sweep(base: float, values: list[float]) -> dict:
    found = []
    for value in values:
        for i, label in list(enumerate(TASKS))[:4]:
            runs = {name: smoothed(losses(i, name, harder=(value / base) ** 0.7)) for name in CONTENDERS}
            found += [row | {"value": value} for row in rows(i, label, runs)]
    return {"base": base, "values": values, "rows": found, "skipped": {"two_moons": "has no such axis"}}
