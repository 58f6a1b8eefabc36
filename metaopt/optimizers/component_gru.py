"""The component-wise GRU that Maheswaranathan et al. took apart (arXiv 2011.02159, "Reverse engineering learned
optimizers reveals known and novel mechanisms").

The plainest recurrent optimizer: the raw gradient of a coordinate goes into one GRU, and the step is a linear read-out
of its state, so that all there is to be understood is in the dynamics of h:

    h <- GRU(input_scale · g, h),    p <- p + step_mult · (w^T h + b),    h at the start is learned

The output is added, as published. The published optimizers have 256 units and scales tuned for each task (1 and 1 on
quadratics); the default here has 32 units, a sixtieth of the work. Differs from the paper: gradients beyond 1e8
are clipped, and the read-out starts at a tenth of the usual scale instead of zero, where it would hide the GRU from the
first meta-gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaopt.optimizers import _cells
from metaopt.optimizers import _features as F
from metaopt.optimizers._blocks import blocks_of, map_blocks
from metaopt.types import LearnedOptimizer, PyTree


class ComponentGRUState(NamedTuple):
    hidden: list[jax.Array]  # per block [hidden, *shape] f32


def component_gru(hidden: int = 32, input_scale: float = 1.0, step_mult: float = 0.01) -> LearnedOptimizer:
    """The architecture; 3,329 numbers by default. It uses neither the loss nor the horizon."""

    def init(key: jax.Array) -> PyTree:
        cell, out = jax.random.split(key)
        theta = {"gru": _cells.init_gru(cell, 1, hidden), "out": _cells.init_linear(out, hidden, 1, 0.1)}
        return {**theta, "start": jnp.zeros(hidden)}

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def init_fn(params):
            shapes = [block.shape for block in blocks_of(params)]
            return ComponentGRUState([_cells.repeated(theta["start"], shape) for shape in shapes])

        def step(block, grads, params, h):
            del params
            h = _cells.gru(theta["gru"], h, input_scale * block.gather(grads)[None])
            return step_mult * _cells.linear(theta["out"], h)[0], h

        def update_fn(grads, state, params=None, **extra):
            del extra
            updates, h = map_blocks(step, jax.tree.map(F.clean, grads), params, state.hidden)
            return updates, ComponentGRUState(h)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)
