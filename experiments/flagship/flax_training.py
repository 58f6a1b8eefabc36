"""Ordinary Flax trainings in which only the optimizer changes: a convolutional net on Fashion-MNIST, ten epochs; a
character transformer on Python's sources, 2,000 steps; a wide network, a hundred times the largest of meta-training.

    python experiments/flagship/flax_training.py [WEIGHTS]

trains each with AdamW at optax's usual 1e-3, with AdamW at two rates with warm-up and cosine decay, and with
`metaopt.load()` (or WEIGHTS). Prints a table, writes flax_training.json and flax_training.png beside this file; runs
that are in the former already are kept.
"""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer
from flax import nnx
from matplotlib.figure import Figure

import metaopt
from metaopt import runtime, weights

HERE = Path(__file__).parent
RESULTS = HERE / "flax_training.json"
SEEDS = (0,)
RATES = (1e-3, 3e-3)  # of AdamW with warm-up and cosine
POINTS = 60  # of a curve


class ConvNet(nnx.Module):
    """28x28 images -> 10 logits; 52,138 parameters."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.second = nnx.Conv(8, 16, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(7 * 7 * 16, 64, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pool = partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2))
        x = pool(nnx.relu(self.first(x[..., None])))
        x = pool(nnx.relu(self.second(x)))
        return self.out(nnx.relu(self.hidden(x.reshape(len(x), -1))))


class Wide(nnx.Module):
    """28x28 images -> 10 logits; 535,818 parameters."""

    def __init__(self, rngs: nnx.Rngs):
        sizes = (28 * 28, 512, 256, 10)
        self.layers = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in zip(sizes[:-1], sizes[1:], strict=True)])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1)
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class Block(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        x += self.attention(self.norms[0](x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.layers[1](nnx.gelu(self.layers[0](self.norms[1](x))))


class Transformer(nnx.Module):
    """Bytes -> logits of the next one; 2 blocks of width 64, 137,216 parameters."""

    def __init__(self, rngs: nnx.Rngs, width: int = 64, length: int = 64):
        self.embed = nnx.Embed(256, width, rngs=rngs)
        self.position = nnx.Param(0.02 * jax.random.normal(rngs.params(), (length, width)))
        self.blocks = nnx.List([Block(width, rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.out = nnx.Linear(width, 256, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens) + self.position[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def of_images(model: nnx.Module, batch: dict[str, jax.Array]) -> jax.Array:
    return cross_entropy(model(batch["x"].astype(jnp.float32) / 255), batch["y"])


def of_text(model: nnx.Module, batch: dict[str, jax.Array]) -> jax.Array:
    tokens = batch["tokens"][:, :65].astype(jnp.int32)
    return cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])


TRAININGS: dict[str, tuple[str, Callable, Callable, int, int | None]] = {
    # data, model, loss, batch size, steps (None: ten epochs)
    "convolutional net, Fashion-MNIST": ("fashion_mnist", ConvNet, of_images, 128, None),
    "character transformer, Python sources": ("source", Transformer, of_text, 32, 2000),
    "wide network, Fashion-MNIST": ("fashion_mnist", Wide, of_images, 128, 2000),
}


def train(make: Callable, loss_fn: Callable, data: Any, size: int, steps: int, tx: Any, seed: int) -> dict[str, Any]:
    """The plain training loop of a Flax user; only `tx` differs between the optimizers."""
    model = make(nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def train_step(model: nnx.Module, optimizer: nnx.Optimizer, batch: dict[str, jax.Array]) -> jax.Array:
        loss, grads = nnx.value_and_grad(loss_fn)(model, batch)
        optimizer.update(model, grads, value=loss)
        return loss

    start = time.perf_counter()
    losses = [train_step(model, optimizer, batch) for batch in batches(data["train"], size, steps, seed)]
    curve = np.array(jax.device_get(losses))
    seconds = time.perf_counter() - start
    valid = nnx.jit(loss_fn)(model, jax.tree.map(lambda x: x[:2000], data["outer_valid"]))
    ends = np.linspace(0, steps, POINTS + 1).astype(int)[1:]
    return {
        "steps": ends.tolist(),
        "losses": [float(f"{x.mean():.5g}") for x in np.split(curve, ends[:-1])],
        "final": float(curve[-max(1, steps // 20) :].mean()),
        "valid": float(valid),
        "seconds": seconds,
    }


def batches(data: dict[str, np.ndarray], size: int, steps: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Epochs in an order of their own each, of whole minibatches."""
    draw, rows = np.random.default_rng(seed), len(jax.tree.leaves(data)[0])
    per_epoch = rows // size
    for step in range(steps):
        if step % per_epoch == 0:
            order = draw.permutation(rows)
        index = order[step % per_epoch * size :][:size]
        yield {name: x[index] for name, x in data.items()}


def optimizers(steps: int, name: str) -> dict[str, Any]:
    def cosine(rate: float) -> Any:
        return optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps))

    return {
        f"metaopt.load({'' if name == weights.FLAGSHIP else repr(name)})": metaopt.load(name, num_steps=steps),
        "AdamW at 1e-3": optax.adamw(1e-3),
        **{f"AdamW, cosine from {rate:g}": cosine(rate) for rate in RATES},
    }


def main(name: Annotated[str, typer.Argument(metavar="[WEIGHTS]")] = weights.FLAGSHIP) -> None:
    """Trains, prints the table, writes the numbers and the picture."""
    runtime.setup()
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for title, (dataset, make, loss_fn, size, length) in TRAININGS.items():
        data = metaopt.DATASETS[dataset]()
        steps = length or 10 * (len(data["train"]["x"]) // size)
        print(f"\n{title}, {steps} steps\n\n| | training loss | held-out loss | seconds |\n|---|---|---|---|")
        found[title] = {}
        for label, tx in optimizers(steps, name).items():
            runs = kept.get(title, {}).get(label)
            runs = runs or [train(make, loss_fn, data, size, steps, tx, seed) for seed in SEEDS]
            found[title][label] = runs
            means = [np.mean([run[key] for run in runs]) for key in ("final", "valid", "seconds")]
            print(f"| {label} | {means[0]:.4f} | {means[1]:.4f} | {means[2]:.0f} |", flush=True)
            RESULTS.write_text(json.dumps(kept | found) + "\n", encoding="utf-8")
    draw(found).savefig(HERE / "flax_training.png", dpi=90)


def draw(found: dict[str, dict[str, list[dict[str, Any]]]]) -> Figure:
    figure = Figure(figsize=(15, 4), layout="constrained")
    for axes, (title, named) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        for label, runs in named.items():
            learned = label.startswith("metaopt")
            curve = np.mean([run["losses"] for run in runs], axis=0)
            axes.plot(
                runs[0]["steps"], curve, label=label, lw=2.2 if learned else 1.2, color="#d55e00" if learned else None
            )
        axes.set(title=title, xlabel="steps", ylabel="training loss", yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    typer.run(main)
