"""STAR, "stabilized through ample regularization" (Harrison, Metz & Sohl-Dickstein 2022, arXiv 2209.11208).

AdafacMLP's accumulators, features and network (`_adafac`), here with four outputs (d, a, a_nom, a_reg), beside a
hand-designed *nominal* step and a weight decay, both scaled by the network, which keep the inner dynamics stable:

    p <- p - decay · exp(exp_mult · a_reg) · p
           - step_mult · d · exp(exp_mult · a) / sqrt(v + 1e-6)
           - nominal_rate · exp(exp_mult · a_nom) · g_nom

with v the second moment and g_nom, from the momenta m_b,

    sgd: g    momentum: m of the last decay    aggmo: mean_b m_b    adam: momentum / sqrt(v + 1e-6)
    aggmo_adam: mean_b m_b / sqrt(v + 1e-6)

without bias correction. Of the published code this differs in its defaults: there nominal term, decay and the
preconditioner 1 / sqrt(v) are off. Gradients beyond 1e8 are clipped.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from metaopt.optimizers._adafac import adafac
from metaopt.types import LearnedOptimizer, PyTree


def _mean(m: jax.Array) -> jax.Array:
    """Over the decays, written out: a reduction would be a loop of its own, which is not fused."""
    return sum(m[1:], m[0]) / len(m)


TERMS = ("step", "nominal", "decay")
NOMINAL = {  # g [*shape], momenta m [decays, *shape], r = 1 / sqrt(v + 1e-6) [*shape] -> [*shape]
    "sgd": lambda g, m, r: g,
    "momentum": lambda g, m, r: m[-1],
    "aggmo": lambda g, m, r: _mean(m),
    "adam": lambda g, m, r: m[-1] * r,
    "aggmo_adam": lambda g, m, r: _mean(m) * r,
}
FRESH = 1e-2  # a new network's last layer: 1 / sqrt(v + 1e-6) makes its step up to a thousand times larger


def star(
    hidden: int = 4,
    depth: int = 2,
    step_mult: float = 1e-3,
    exp_mult: float = 1e-3,
    nominal: Literal["sgd", "momentum", "aggmo", "adam", "aggmo_adam"] = "aggmo_adam",
    nominal_rate: float = 1e-3,
    decay: float = 1e-5,
    precondition: bool = True,
    averaged: tuple[Literal["step", "nominal", "decay"], ...] = (),
    momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999),
    second_moment_decay: float = 0.999,
) -> LearnedOptimizer:
    """The architecture; 207 numbers by default. It uses neither the loss nor the horizon.

    nominal_rate: of the nominal step; 0 leaves the term and its output out. The default is Adam's usual rate.
    decay: of the parameters, per step; 0 leaves the term and its output out. The default is AdamW's at a rate of 1e-3
      and a weight decay of 1e-2.
    precondition: whether the network's step is divided by sqrt(v + 1e-6).
    averaged: the terms whose magnitude a is averaged over the tensor.

    Errors: ValueError for a direction or a term of another name.
    """
    if nominal not in NOMINAL:
        raise ValueError(f"nominal: expected one of {', '.join(NOMINAL)}, got {nominal!r}")
    if not set(averaged) <= set(TERMS):
        raise ValueError(f"averaged: expected some of {', '.join(TERMS)}, got {averaged}")
    on = {"step": True, "nominal": bool(nominal_rate), "decay": bool(decay)}
    terms = [term for term in TERMS if on[term]]

    def along(g, p, moments):
        r = jax.lax.rsqrt(moments.v[0] + 1e-6)
        return p, NOMINAL[nominal](g, moments.m, r), r

    def head(d, *rest):
        *magnitudes, p, g_nom, r = rest
        means = [jnp.mean(a) if term in averaged else a for term, a in zip(terms, magnitudes, strict=True)]
        scale = {term: jnp.exp(exp_mult * a) for term, a in zip(terms, means, strict=True)}
        step = step_mult * d * scale["step"] * (r if precondition else 1)
        step += nominal_rate * scale["nominal"] * g_nom if nominal_rate else 0
        step += decay * scale["decay"] * p if decay else 0
        return -step

    frame = adafac(head, 1 + len(terms), hidden, depth, momentum_decays, second_moment_decay, along)

    def init(key: jax.Array) -> PyTree:
        theta = frame.init(key)
        if precondition:
            theta["mlp"][f"w{depth}"] *= FRESH
        return theta

    return LearnedOptimizer(init, frame.build)
