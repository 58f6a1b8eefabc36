"""A task of your own, from a loss or from a Flax module.

    # my_tasks.py
    import jax, jax.numpy as jnp, numpy as np
    from metaopt.tasks import from_loss

    def line(noise: float = 0.1):
        x = np.random.default_rng(0).standard_normal((500, 3)).astype(np.float32)
        y = x @ np.float32([1, -2, 3]) + np.float32(noise) * np.sin(9 * x[:, 0])
        init = lambda key: {"w": jax.random.normal(key, (3,))}
        loss = lambda params, batch, key: jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
        return from_loss(init, loss, {"x": x, "y": y})

A config names it `{name: my_tasks:line, noise: 0.2}`; the file lies in the working directory or is importable.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metaopt.tasks import _nets
from metaopt.types import PyTree, Task

SPLITS = ("train", "inner_valid", "outer_valid", "test")
FRESH = 16  # models whose mean loss counts as 1

Arrays = PyTree | Callable[[], PyTree] | None


def from_loss(
    init: Callable[[jax.Array], PyTree],
    loss: Callable[[PyTree, PyTree, jax.Array], jax.Array],
    data: Arrays = None,
    *,
    batch_size: int = 64,
    fresh_loss: float | None = None,
    best_loss: float = 0.0,
) -> Task:
    """A family whose members differ in their initial parameters and minibatches.

    init: key -> params, a pytree of floats
    loss: (params, batch, key) -> scalar; `key` is for noise such as dropout's
    data: a pytree of arrays [n, ...], of which a tenth each becomes inner_valid, outer_valid and test; or a dict of
      such pytrees with these names and train; or a function that returns either, called when the data are needed;
      null: the batch is an empty dict
    batch_size: rows of a minibatch, drawn with replacement
    fresh_loss: the loss that counts as 1; null: the mean of 16 fresh models, measured when it is first needed
    best_loss: the loss that counts as 0

    Normalised loss = (loss - best_loss) / (fresh_loss - best_loss), bounded.
    Raises ValueError for arrays of different length, and where the fresh loss is not a finite number above best_loss.
    """

    @functools.cache
    def arrays():
        found = data() if callable(data) else data
        return {} if found is None else _splits(found)

    def batch(cfg, arrays, key, split):
        return _nets.some_rows(arrays[split], key, batch_size) if arrays else {}

    @functools.cache
    def span():
        return _span(init, loss, batch, arrays(), best_loss) if fresh_loss is None else _above(fresh_loss, best_loss)

    def normalize(cfg, value):
        return _nets.bounded((value - best_loss) / span())

    return Task(
        sample=lambda key: {},
        init=lambda cfg, key: init(key),
        batch=batch,
        loss=lambda cfg, params, batch, key: (loss(params, batch, key), {}),
        normalize=normalize,
        data=arrays,
    )


def from_module(
    module: Any,
    loss: Callable[[jax.Array, PyTree], jax.Array],
    data: Arrays,
    *,
    inputs: str = "x",
    batch_size: int = 64,
    fresh_loss: float | None = None,
    best_loss: float = 0.0,
) -> Task:
    """A Flax module as a task; its members differ in their initial parameters, the module's own, and minibatches.

    module: a linen module, or for nnx a function rngs -> module, such as `lambda rngs: nnx.Linear(3, 1, rngs=rngs)`
    loss: (outputs of the module, batch) -> scalar
    inputs: the key of a minibatch that the module is called with
    data, batch_size, fresh_loss, best_loss: see `from_loss`

    Parameters are the module's only state: one with others, such as the averages of BatchNorm, is a ValueError.
    """
    load = functools.cache(lambda: _splits(data() if callable(data) else data))

    def example():
        rows = load()["train"][inputs]
        return jnp.zeros((1, *rows.shape[1:]), rows.dtype)

    init, apply = _functions(module, example)
    return from_loss(
        init,
        lambda params, batch, key: loss(apply(params, batch[inputs]), batch),
        load,
        batch_size=batch_size,
        fresh_loss=fresh_loss,
        best_loss=best_loss,
    )


def _functions(module: Any, example: Callable[[], jax.Array]) -> tuple[Callable, Callable]:
    """init(key) -> params and apply(params, x) -> outputs of a Flax module."""
    from flax import linen, nnx

    if isinstance(module, linen.Module):

        def init(key):
            variables = module.init(key, example())
            _only_parameters(set(variables) - {"params"})
            return variables["params"]

        return init, lambda params, x: module.apply({"params": params}, x)

    def split(key):
        graph, params, rest = nnx.split(module(nnx.Rngs(key)), nnx.Param, ...)
        _only_parameters({type(variable).__name__ for _, variable in nnx.to_flat_state(rest)})
        return graph, params

    def apply(params, x):
        graph, state = jax.eval_shape(split, jax.random.key(0))
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)(x)

    return lambda key: nnx.to_pure_dict(split(key)[1]), apply


def _only_parameters(others: set[str]) -> None:
    if others:
        raise ValueError(f"module: has state beside its parameters ({', '.join(sorted(others))}): use from_loss")


def _splits(arrays: PyTree) -> PyTree:
    """As they are if they have the four names, else disjoint random rows."""
    if isinstance(arrays, dict) and set(arrays) == set(SPLITS):
        return arrays
    arrays = jax.tree.map(np.asarray, arrays)
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(arrays)}
    if len(lengths) != 1 or min(lengths) < 10:
        raise ValueError(f"data: arrays of lengths {sorted(lengths)}, expected one length, of 10 at least")
    (n,) = lengths
    order, tenth = np.random.default_rng(0).permutation(n), n // 10
    ends = np.cumsum([n - 3 * tenth, tenth, tenth])
    return {
        name: jax.tree.map(lambda a, rows=rows: a[rows], arrays)
        for name, rows in zip(SPLITS, np.split(order, ends), strict=True)
    }


def _span(init: Callable, loss: Callable, batch: Callable, arrays: PyTree, best: float) -> float:
    """The mean loss of fresh models less the best one. Computed at once, even while something else is traced."""

    def one(key):
        init_key, batch_key, loss_key = jax.random.split(key, 3)
        return loss(init(init_key), batch({}, arrays, batch_key, "train"), loss_key)

    with jax.ensure_compile_time_eval():
        losses = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), FRESH))
        return _above(float(np.mean(losses)), best)


def _above(fresh: float, best: float) -> float:
    if not np.isfinite(fresh) or fresh <= best:
        raise ValueError(f"fresh_loss: {fresh}, expected a finite number above best_loss={best}")
    return fresh - best
