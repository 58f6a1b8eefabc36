"""The LSTM of Andrychowicz et al. 2016 (arXiv 1606.04474, "Learning to learn by gradient descent by gradient descent").

One small recurrent network, shared by all coordinates, each with a state of its own. The gradient enters as its
logarithm and its sign, or scaled where it is too small for a logarithm to mean anything:

    x = (log|g| / p, sgn g)  if |g| >= e^-p,    (-1, e^p g)  else
    h1 = LSTM1(x),  h2 = LSTM2(h1)               20 units each, zero at the start
    p <- p + step_mult · (w^T h2 + b)

The output is added, as published: that descent goes against the gradient is left to the weights. The paper has p = 10
(appendix A), its code 5; step_mult = 0.01 is the code's. Differs from the paper: nothing in the rule; gradients beyond
1e8 are clipped. That its meta-training takes the gradients as independent of theta is a matter of the estimator.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaopt.optimizers import _cells
from metaopt.optimizers import _features as F
from metaopt.optimizers._blocks import blocks_of, map_blocks
from metaopt.types import LearnedOptimizer, PyTree


class L2LState(NamedTuple):
    cells: list[_cells.Stack]  # per block


def l2l_lstm(hidden: int = 20, depth: int = 2, p: float = 10.0, step_mult: float = 0.01) -> LearnedOptimizer:
    """The architecture; 5,141 numbers by default. It uses neither the loss nor the horizon."""

    def init(key: jax.Array) -> PyTree:
        return _cells.init_stack(key, 2, hidden, depth)

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def init_fn(params):
            return L2LState([_cells.stack_zeros(hidden, depth, block.shape) for block in blocks_of(params)])

        def step(block, grads, params, cells):
            del params
            out, cells = _cells.stack(theta, cells, log_and_sign(block.gather(grads), p))
            return step_mult * out, cells

        def update_fn(grads, state, params=None, **extra):
            del extra
            updates, cells = map_blocks(step, jax.tree.map(F.clean, grads), params, state.cells)
            return updates, L2LState(cells)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)


def log_and_sign(g: jax.Array, p: float) -> jax.Array:
    """[*shape] -> [2, *shape], both branches of the preprocessing in one: for |g| >= e^-p the clipped e^p g is the
    sign, below it the logarithm is -1. The maximum keeps the derivative finite at 0."""
    return jnp.stack([jnp.log(jnp.maximum(jnp.abs(g), math.exp(-p))) / p, jnp.clip(math.exp(p) * g, -1.0, 1.0)])
