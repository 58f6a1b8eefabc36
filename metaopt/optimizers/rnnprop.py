"""RNNprop, Lv et al. 2017 (arXiv 1703.03633, "Learning gradient descent: better generalization and longer horizons").

The recurrent network of Andrychowicz et al. 2016 on inputs that know no scale: the gradient and its momentum, relative
to the root of the second moment. Per coordinate, with the EMAs m of g and v of g^2 after step t = 1, 2, ...

    m^ = m / (1 - b1^t),  v^ = v / (1 - b2^t),  x = (m^, g) / (sqrt(v^) + 1e-8)
    h0 = ELU(W^T x + c),  h1 = LSTM1(h0),  h2 = LSTM2(h1)       20 units each, zero at the start
    p <- p + step_mult · tanh(w^T h2 + b)

so that no coordinate moves further than step_mult in a step, 0.1 as the authors published it (later code has 0.01). The
output is added; the authors' code subtracts it, which the sign of w and b makes the same. Differs from the paper:
nothing in the rule; gradients beyond 1e8 are clipped, and the root is that of v^ + 1e-30, which has a derivative at 0.
(The paper's other half, random scaling of parameters and added convex functions, belongs to meta-training.)
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaopt.optimizers import _cells
from metaopt.optimizers import _features as F
from metaopt.optimizers._blocks import blocks_of, map_blocks
from metaopt.types import LearnedOptimizer, PyTree


class RNNpropState(NamedTuple):
    step: jax.Array  # i32 scalar
    m: list[jax.Array]  # per block [*shape] f32
    v: list[jax.Array]
    cells: list[_cells.Stack]


def rnnprop(
    hidden: int = 20, depth: int = 2, step_mult: float = 0.1, b1: float = 0.95, b2: float = 0.95
) -> LearnedOptimizer:
    """The architecture; 6,641 numbers by default. It uses neither the loss nor the horizon."""

    def init(key: jax.Array) -> PyTree:
        entry, cells = jax.random.split(key)
        return {"in": _cells.init_linear(entry, 2, hidden), **_cells.init_stack(cells, hidden, hidden, depth)}

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def init_fn(params):
            blocks = blocks_of(params)
            m, v = ([jnp.zeros(block.shape) for block in blocks] for _ in range(2))
            cells = [_cells.stack_zeros(hidden, depth, block.shape) for block in blocks]
            return RNNpropState(jnp.zeros((), jnp.int32), m, v, cells)

        def step(t, block, grads, params, m, v, cells):
            del params
            g = block.gather(grads)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            root = jnp.sqrt(v / (1 - b2**t) + 1e-30) + 1e-8
            x = jnp.stack([m / (1 - b1**t), g]) / root[None]
            out, cells = _cells.stack(theta, cells, jax.nn.elu(_cells.linear(theta["in"], x)))
            return step_mult * jnp.tanh(out), m, v, cells

        def update_fn(grads, state, params=None, **extra):
            del extra
            t, grads = state.step + 1, jax.tree.map(F.clean, grads)
            updates, *new = map_blocks(partial(step, t), grads, params, state.m, state.v, state.cells)
            return updates, RNNpropState(t, *new)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)
