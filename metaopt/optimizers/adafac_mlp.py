"""AdafacMLP, the small fully connected learned optimizer of Metz et al. 2022 (arXiv 2203.11860, "small_fc_lopt").

Per tensor, with momenta m_b (b = .9, .99, .999), second moment v (.999) and Adafactor moments row_b, col_b (.9, .99,
.999), all decays learnable, 28 features per coordinate: g, p, m_b, v, m_b/sqrt(v), 1/sqrt(v), g·f_b, row_b, col_b,
1/sqrt(row_b), 1/sqrt(col_b), m_b·f_b, where f_b = row_factor·col_factor. Each is divided by its root mean square over
the tensor; 11 time features tanh(t/tau - 1) join. A network 39-4-4-2 (ReLU) gives (d, a) and

    p <- p - step_mult · d · exp(exp_mult · a)

For tensors of rank < 2 row_b and col_b are both the unfactored moment v_b, g·f_b = g/sqrt(v_b). The decays are
b = 1 - exp(10 (log(1 - b0)/10 + theta_b)). Differs from the paper: nothing; gradients beyond 1e8 are clipped.
"""

import jax.numpy as jnp

from metaopt.optimizers._adafac import adafac
from metaopt.types import LearnedOptimizer


def adafac_mlp(
    hidden: int = 4,
    depth: int = 2,
    step_mult: float = 1e-3,
    exp_mult: float = 1e-3,
    momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999),
    second_moment_decay: float = 0.999,
) -> LearnedOptimizer:
    """The architecture; 197 numbers by default. It uses neither the loss nor the horizon."""

    def exp_a_b(d, a):
        return -step_mult * d * jnp.exp(exp_mult * a)

    return adafac(exp_a_b, 2, hidden, depth, momentum_decays, second_moment_decay)
