"""Anchored: Adam in the eigenbasis of the gradients, with relative steps, and a bounded, learned departure from it.
Made for metaopt, of parts that others found to matter; not published elsewhere.

Gradient g, momenta and parameters p of each tensor are turned into the eigenbases of its gradients' covariances
(`_basis`), where sides are short enough. There, for a tensor of n numbers, with bias-corrected momenta m_b of the
gradient and second moment v, b1 the first of `momenta`, r = 1/sqrt(v + 1e-8 mean(v)), means and RMS over it:

    A = m_b1 r                                                    Adam's direction
    L = clip(step_mult · d · e(exp_mult · a), +-reach) · v r^2 · RMS(m_b1)/sqrt(mean v)     the learned one,
                                                                  (d, a) = network(x) a coordinate
    D = (A + L) / sqrt(mean((A + L)^2) + rest^2),   rest = 0.1 · 30^-tanh(q)
    p <- p - scale · anchor(t) · bound^tanh(c) · D                D turned back
    scale = max(RMS(p), S/2),  S = max(RMS over the whole model, 0.01)

v decays by 1 - clip(2/T, 1e-4, 1e-3) a step, T the horizon. anchor: a linear warm-up over a learned share of T (at
most half), then a cosine from a learned peak down to a hundredth of it. e(y) = (1 + y/8)^8, |y| <= 8, stands for
exp(y), which costs as much as the rest of the network. x: g, p, m_b, each over its RMS, and m_b r over
RMS(m_b)/sqrt(mean v). A network a tensor gives c, q and what is added to the first biases of the network a coordinate.
Its inputs: t/T, log t, log T; nine trends of the loss (`_hypernet`); log RMS(m_b)^2/mean v of each m_b (signal to
noise), log RMS(g)^2/mean v, log RMS(p)^2/S^2, log n; is it a vector.

Why a stranger is safe with it. The learned schedule stays within 1/bound and bound of the anchor, and nothing in it
accumulates, so it neither collapses nor explodes. RMS(D) < 1, so RMS(step) < scale · anchor · bound for any theta.
Where gradients have shrunk to a fraction of sqrt(v), which is their past, A + L is small, and D with it, if less than
rest: a fresh theta amplifies a rest of noise tenfold, a trained one three-hundredfold at most, and may so go on at
full length where a loss without noise tends to zero. |L| <= reach · RMS(A), as far as coordinates of a tensor have a
like v, so that with a reach of one D is not opposed to A; without the last factor L would be alone in command where
gradients are noise, A small, and runs diverge beyond the horizons of meta-training. In runs of more than 2,000 steps,
the longest of meta-training, v remembers as large a share of the run as there, up to 10,000 steps: a network that has
learned its data by heart has gradients next to nothing, by which v would come to measure the next large one. A
coordinate without gradients (v = 0, a row of an embedding that is not in use) never moves. All inputs are relative:
other units of the loss or of the parameters do not change the rule, for gradients from 1e-6 to 1e8, losses that differ
by 1e-8 at least, and models of an RMS from 0.01, as which one that starts at zero counts. Log t, log T and log n come
as tanh, nearly one from a thousand steps and some thousand coordinates on: longer runs and larger models than those of
meta-training are about like the longest and largest there.

A fresh theta is about the hand-designed rule L = 0, c = q = 0 with a peak of 0.02 and 5 % warm-up: the last layers are
a tenth of the usual size, which leaves some ten percent of noise.

It uses the loss, as `value`, and the horizon; beyond the horizon, anchor and inputs of time stay as they ended.
Parts: Adam in an eigenbasis, SOAP (Vyas et al. 2024, arXiv 2409.11321); relative steps, VeLO (Metz et al. 2022, arXiv
2211.09760) and Adafactor (Shazeer & Stern 2018, arXiv 1804.04235); a nominal term beside the network, STAR (Harrison
et al. 2022, arXiv 2209.11208); unit RMS, Celo2 (Moudgil et al. 2026, arXiv 2602.19142).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaopt import schedules
from metaopt.optimizers import _basis, _nets
from metaopt.optimizers import _features as F
from metaopt.optimizers import _hypernet as H
from metaopt.optimizers._blocks import VECTOR, Block, assemble, blocks_of
from metaopt.optimizers._cells import init_linear, linear
from metaopt.types import LearnedOptimizer, PyTree

KINDS = ("gradient", "parameter", "momenta", "ratios")  # x: g, p, m_b, m_b r
DIRECTIONS = ("steered", "learned", "adam")
FORGET, LEAST, RUN = np.float32(1e-3), 1e-4, 2.0  # of v at most, at least, and in the whole of a run between
PEAK, WARMUP, MOST_WARMUP, END = 0.02, 0.05, 0.5, 0.01  # of the anchor
SHARE, SMALLEST = 0.5, 0.01  # of the model's RMS, in scale; of S
REST, RESTS, EPS = 0.1, 30.0, 1e-8  # rest, and how far from it; of mean(v), what is added to v
TINY = 1e-24  # added to means of squares; derivatives of the inverse root, 1e36, stay finite
STATIC = 7 + H.AVERAGES - 1  # inputs of the network a tensor beside one a momentum


class AnchoredState(NamedTuple):
    step: jax.Array  # i32 scalar
    losses: H.Losses
    bases: list[_basis.Basis]  # per leaf
    m: list[tuple[jax.Array, ...]]  # per block and decay [*shape] f32, not bias-corrected, not turned
    v: list[jax.Array]  # per block [*shape] f32, not bias-corrected, turned


def anchored(
    hidden: int = 4,
    depth: int = 2,
    tensor_hidden: int = 16,
    step_mult: float = 1.0,
    exp_mult: float = 1.0,
    bound: float = 10.0,
    reach: float = 1.0,
    momenta: tuple[float, ...] = (0.9, 0.99),
    features: tuple[Literal["gradient", "parameter", "momenta", "ratios"], ...] = (
        "gradient",
        "parameter",
        "momenta",
        "ratios",
    ),
    direction: Literal["steered", "learned", "adam"] = "steered",
    schedule: bool = True,
    side: int = 64,
    every: int = 5,
) -> LearnedOptimizer:
    """The architecture; 466 numbers by default. It uses the loss and the horizon.

    tensor_hidden: width of the network a tensor, which has one hidden layer
    bound: the factor by which the learned schedule may be above or below the anchor
    reach: how large the learned direction may be at a coordinate, over the root mean square of Adam's
    momenta: decays; the first is that of Adam's direction
    features: inputs of the network a coordinate; ratios are momenta over the root of the second moment
    direction: steered is Adam's and the learned one, with biases from the network a tensor; learned the same without
      these; adam is Adam's alone
    schedule: False leaves the anchor and rest as they are, c = q = 0
    side: the longest side of a tensor, as a matrix, that is turned into the eigenbasis; 0 turns none
    every: steps from one renewal of the bases to the next. It should divide the truncation of a meta-training, so that
      the runs of a batch renew theirs together

    `value` is asked for in any case. Raises ValueError for a direction or a feature of another name, no momentum, and a
    bound or steps between renewals below one.
    """
    _check(momenta, features, direction, bound, every)
    decays = np.array(momenta, np.float32)
    steering = hidden if direction == "steered" else 0
    outputs = 2 * schedule + steering  # of the network a tensor
    inputs = sum(len(momenta) if kind in ("momenta", "ratios") else 1 for kind in features)

    def init(key: jax.Array) -> PyTree:
        coordinate, first, last = jax.random.split(key, 3)
        theta: PyTree = {"anchor": {"peak": jnp.log(PEAK), "warmup": jnp.log(WARMUP / (MOST_WARMUP - WARMUP))}}
        if direction != "adam":
            theta["coordinate"] = _nets.init_mlp(coordinate, (inputs, *[hidden] * depth, 2))
        if outputs:
            size = STATIC + len(momenta)
            theta["tensor"] = {
                "hidden": init_linear(first, size, tensor_hidden),
                "out": init_linear(last, tensor_hidden, outputs, 0.1),
            }
        return theta

    def head(d, a, adam, room):
        y = step_mult * d * jax.lax.integer_pow(jnp.clip(1 + exp_mult / 8 * a, 0.0, 2.0), 8)
        return adam + room * jnp.clip(y, -reach, reach)

    def directions(theta, block, seen, means, steer):
        """A + L of a block, [*block.shape]; steer [hidden, tensors] goes into the first biases."""
        if direction == "adam":
            return seen.adam
        (w, b), *rest = _nets.layers_of(theta["coordinate"])
        squares = {**means, "ratios": means["momenta"] / (TINY + means["v"])}
        scales = jax.lax.rsqrt(TINY + jnp.concatenate([squares[kind] for kind in features]))
        biases = b[:, None] + steer if steering else jnp.tile(b[:, None], scales.shape[1])
        layers = [[(w * scale[:, None], bias), *rest] for scale, bias in zip(scales.T, biases.T, strict=True)]
        groups = [x[None] for kind in features for x in seen.inputs[kind]]
        return _nets.map_tensors(partial(_nets.at_coordinates, head), layers, groups, block, (seen.adam, seen.room))

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        anchor = _anchor(theta["anchor"], num_steps)
        forget = jnp.clip(RUN / jnp.asarray(num_steps, jnp.float32), LEAST, FORGET)

        def init_fn(params):
            blocks = blocks_of(params, VECTOR)
            losses = H.Losses(jnp.zeros(H.AVERAGES), jnp.full(H.AVERAGES, np.finfo(np.float32).max))
            m = [tuple(jnp.zeros(block.shape) for _ in decays) for block in blocks]
            bases = [_basis.start(x.shape, side) for x in jax.tree.leaves(params)]
            return AnchoredState(
                jnp.zeros((), jnp.int32), losses, bases, m, [jnp.zeros(block.shape) for block in blocks]
            )

        def update_fn(grads, state, params=None, *, value, **extra):
            del extra
            blocks, leaves = blocks_of(params, VECTOR), (jax.tree.leaves(grads), jax.tree.leaves(params))
            if not blocks:  # a model without numbers
                return assemble(blocks, [], params), state
            losses, trends = H.follow(state.losses, state.step, num_steps, value)
            corrections = [-1 / jnp.expm1((state.step + 1) * x) for x in (np.log(decays), jnp.log1p(-forget))]
            due = state.step % every == 0
            bases = [_basis.follow(x, F.clean(g), due) for x, g in zip(state.bases, leaves[0], strict=True)]
            look = partial(_look, bases, decays, forget, corrections, *leaves)
            seen, means, m, v = zip(*map(look, blocks, state.m, state.v), strict=True)
            joined = {kind: jnp.concatenate([x[kind] for x in means], axis=1) for kind in means[0]}
            size, relative = _scales(blocks, joined["parameter"])
            size, rest = size * anchor(state.step), jnp.full_like(size, REST)
            steer = jnp.zeros((0, size.size))
            if outputs:
                time = _time(state.step, num_steps)
                told = _tensor_inputs(blocks, jnp.concatenate([time, trends]), corrections, joined, relative)
                said = linear(theta["tensor"]["out"], jax.nn.relu(linear(theta["tensor"]["hidden"], told)))
                if schedule:
                    size *= jnp.exp(math.log(bound) * jnp.tanh(said[:1]))
                    rest *= jnp.exp(-math.log(RESTS) * jnp.tanh(said[1:2]))
                steer = said[outputs - steering :]
            ends = np.cumsum([len(block.leaves) for block in blocks])[:-1]
            sizes, rests, steers = (jnp.split(x, ends, axis=1) for x in (size, rest, steer))
            found = map(partial(directions, theta), blocks, seen, means, steers)
            steps = [_step(bases, *x) for x in zip(blocks, sizes, rests, found, strict=True)]
            return assemble(blocks, steps, params), AnchoredState(state.step + 1, losses, bases, list(m), list(v))

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)


class Seen(NamedTuple):
    """What there is at each coordinate of a block, turned, [*shape] each."""

    inputs: dict[str, tuple[jax.Array, ...]]  # x by kind, not divided by its RMS
    adam: jax.Array  # A
    room: jax.Array  # v r^2 RMS(m_b1)/sqrt(mean v), which L is multiplied by


def _look(bases, decays, forget, corrections, grads, params, block: Block, m, v):
    """-> (Seen; means over each tensor of the squares by kind, and of v, [k, tensors]; the new m; the new v)

    Means are of arrays that are there anyway, squared: of anything else XLA's reduction on a CPU would want a copy.
    The momenta are arrays of their own for the same reason: what takes one of a stack, takes a copy.
    """
    given, p = block.gather(grads), block.gather(params)
    g = F.clean(given)
    # as a difference, for XLA makes .5 m + .5 g a product of a sum, and keeps the sum
    m = tuple(x + (1 - b) * (g - x) for b, x in zip(decays, m, strict=True))
    g, p, *turned = _basis.turn(bases, block, [g, p, *m])
    v = v + forget * (g * g - v)
    means = {
        "gradient": jnp.minimum(block.means(jnp.square(given)[None]), F.GRADIENT_LIMIT**2),
        "parameter": block.means(jnp.square(p)[None]),
        "momenta": jnp.concatenate([block.means(jnp.square(x)[None]) for x in turned]),
        "v": block.means(v[None]),
    }
    r = jax.lax.rsqrt(v + block.broadcast(EPS * means["v"] + TINY)[0])
    of_adam = corrections[0][0] * jax.lax.rsqrt(corrections[1])
    noise = of_adam * jnp.sqrt(TINY + means["momenta"][:1] / (TINY + means["v"]))  # about RMS(A)
    inputs = {"gradient": (g,), "parameter": (p,), "momenta": tuple(turned), "ratios": tuple(x * r for x in turned)}
    return Seen(inputs, of_adam * turned[0] * r, v * r * r * block.broadcast(noise)[0]), means, m, v


def _anchor(theta: PyTree, num_steps: jax.Array | int) -> optax.Schedule:
    warmup = MOST_WARMUP * jax.nn.sigmoid(theta["warmup"]) * num_steps
    return schedules.schedule({"name": "cosine", "end": END}, jnp.exp(theta["peak"]), num_steps, warmup)


def _scales(blocks: Sequence[Block], square: jax.Array) -> tuple[jax.Array, jax.Array]:
    """scale and (RMS(p)/S)^2, [1, tensors] each, of the mean squares of p [1, tensors]."""
    sizes = _sizes(blocks)
    model = jnp.maximum(jnp.sum(square * (sizes / sizes.sum())), SMALLEST**2)
    return jnp.sqrt(jnp.maximum(square, SHARE**2 * model)), square / model


def _time(step: jax.Array, num_steps: jax.Array | int) -> jax.Array:
    """[3]"""
    horizon = jnp.asarray(num_steps, jnp.float32)
    t = jnp.minimum(step, horizon)
    return jnp.stack([t / horizon, jnp.tanh((jnp.log1p(t) - 3) / 1.5), jnp.tanh((jnp.log(horizon) - 5) / 1.5)])


def _tensor_inputs(blocks: Sequence[Block], shared, corrections, means, relative) -> jax.Array:
    """Of the network a tensor, [STATIC + momenta, tensors]; shared [k] are the same for all."""
    of_m, of_v = corrections
    power = of_v * means["v"] + TINY
    signal = means["momenta"] * jnp.square(of_m)[:, None] / power
    varying = F.clip_log_abs(jnp.concatenate([signal, means["gradient"] / power, relative]), 10.0, 0.5)
    sizes = np.tanh((np.log(_sizes(blocks)) - 5) / 2)
    vector = np.array([[1.0 if len(shape) < 2 else -1.0 for block in blocks for shape in block.shapes]], np.float32)
    return jnp.concatenate([jnp.tile(shared[:, None], vector.size), varying, sizes, vector])


def _sizes(blocks: Sequence[Block]) -> np.ndarray:
    """n, [1, tensors]"""
    return np.array([[math.prod(shape) for block in blocks for shape in block.shapes]], np.float32)


def _step(bases, block: Block, size: jax.Array, rest: jax.Array, direction: jax.Array) -> jax.Array:
    """-size · D, of A + L [*shape] turned; size and rest [1, tensors]; the step is turned back."""
    square = block.means(jnp.square(direction)[None])
    step = -block.broadcast(size * jax.lax.rsqrt(square + jnp.square(rest)))[0] * direction
    return _basis.turn(bases, block, [step], back=True)[0]


def _check(momenta, features, direction, bound, every) -> None:
    if direction not in DIRECTIONS:
        raise ValueError(f"direction: expected one of {', '.join(DIRECTIONS)}, got {direction!r}")
    if not features or not set(features) <= set(KINDS):
        raise ValueError(f"features: expected some of {', '.join(KINDS)}, got {features}")
    if not momenta:
        raise ValueError("momenta: expected at least one, that of Adam's direction")
    if bound < 1:
        raise ValueError(f"bound: must be at least 1, got {bound}")
    if every < 1:
        raise ValueError(f"every: must be at least 1, got {every}")
