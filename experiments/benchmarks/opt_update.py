"""Cost of one update of a learned optimizer, next to AdamW's.

    python experiments/benchmarks/opt_update.py --optimizer adafac_mlp --params 1000000

prints one line of JSON a case; README.md beside this file says what its fields mean. Either option may be given several
times, for every combination, and `--optimizer all` is every architecture. The model is two residual blocks of a
transformer, without its attention; either update is one jitted call that also applies it, state and parameters donated.
"""

import json
import math
from collections.abc import Callable
from typing import Annotated, Any

import _measure as M
import numpy as np
import typer

BLOCKS = 2


def main(
    optimizer: Annotated[list[str] | None, typer.Option(help="A learned optimizer's name, or all.")] = None,
    params: Annotated[list[int] | None, typer.Option(min=30, help="Parameters of the model, about.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed updates of either optimizer.")] = 50,
) -> None:
    """Prints one line of JSON a case."""
    from metaopt import OPTIMIZERS

    names = list(OPTIMIZERS) if optimizer == ["all"] else optimizer or ["adafac_mlp"]
    for name in names:
        if name not in OPTIMIZERS:
            raise typer.BadParameter(f"expected one of {', '.join(OPTIMIZERS)}, got {name}", param_hint="--optimizer")
    for name in names:
        for size in params or [1_000_000]:
            result = {"optimizer": name, **measure(OPTIMIZERS[name](), size, repeats), **M.machine()}
            print(json.dumps({key: M.rounded(value) for key, value in result.items()}), flush=True)


def measure(learned: Any, size: int, repeats: int) -> dict[str, Any]:
    """The figures of one architecture at one size."""
    import jax
    import optax

    tx = learned.build(learned.init(jax.random.key(0)), 1000)
    runs = [trainer(tx, size), trainer(optax.adamw(1e-3), size)]
    for run in runs:
        run()
    update, adamw = (float(np.median(seconds)) for seconds in M.interleaved(runs, repeats))
    tree = model(size)
    return {
        "update_ms": 1e3 * update,
        "adamw_ms": 1e3 * adamw,
        "ratio": update / adamw,
        "params": count(tree),
        "tensors": len(jax.tree.leaves(tree)),
        "state_floats_per_param": count(jax.eval_shape(tx.init, tree)) / count(tree),
        "repeats": repeats,
    }


def model(size: int) -> dict[str, dict[str, np.ndarray]]:
    """About `size` random numbers: per block a scale and a bias [d], matrices [d, 4d] and [4d, d] with biases."""
    d = max(1, round((math.sqrt(49 + 32 * size / BLOCKS) - 7) / 16))  # a block has 8 d^2 + 7 d
    shapes = {"scale": (d,), "bias": (d,), "in": (d, 4 * d), "in_bias": (4 * d,), "out": (4 * d, d), "out_bias": (d,)}
    draw = np.random.default_rng(0).standard_normal
    return {f"block{i}": {name: draw(shape, np.float32) for name, shape in shapes.items()} for i in range(BLOCKS)}


def trainer(tx: Any, size: int) -> Callable[[], None]:
    """A function that takes one more optimization step, and waits for it."""
    import jax
    import jax.numpy as jnp
    import optax

    tx = optax.with_extra_args_support(tx)
    params, grads = (jax.tree.map(jnp.array, model(size)) for _ in range(2))
    state = tx.init(params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, value=jnp.float32(1))
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))

    def run() -> None:
        nonlocal params, state
        params, state = step(params, state, grads)
        jax.block_until_ready((params, state))

    return run


def count(tree: Any) -> int:
    """Floating-point numbers in a tree."""
    import jax
    import jax.numpy as jnp

    return sum(x.size for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating))


if __name__ == "__main__":
    typer.run(main)
