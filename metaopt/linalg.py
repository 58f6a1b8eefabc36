"""QR decompositions for many runs side by side."""

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


@custom_vmap
def qr(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Q [..., n, k] and R [..., k, m] of x [..., n, m], k = min(n, m); of each matrix on its own on a CPU.

    There the library hands a batch of them to the pool of threads that the devices run on, and waits: where every
    thread of the pool waits so, which is no rare thing with a device per core, all wait forever. It cannot be
    differentiated in reverse.
    """

    def one_by_one(x):
        q, r = jax.lax.map(_qr, x.reshape(-1, *x.shape[-2:]))
        return q.reshape(*x.shape[:-2], *q.shape[-2:]), r.reshape(*x.shape[:-2], *r.shape[-2:])

    return _qr(x) if x.ndim == 2 else jax.lax.platform_dependent(x, cpu=one_by_one, default=_qr)


@qr.def_vmap
def _(size, batched, x):
    return qr(x), (True, True)


def _qr(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    q, r = jnp.linalg.qr(x)
    return q, r
