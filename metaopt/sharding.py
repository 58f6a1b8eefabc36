"""The mesh: one axis over inner runs, all devices of all hosts; on a CPU one host device per core.

Inner runs are independent, so their axis is split by hand (`shard_map`) and only means over runs cross devices.
"""

from collections.abc import Callable

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

AXIS = "runs"


def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (AXIS,))


def over_runs(fn: Callable, num_runs: int, split: tuple[bool, ...], out_split: tuple[bool, ...] | bool) -> Callable:
    """`fn` on each device's share of the runs. split[i]: does argument i have the leading axis of runs (else it is
    replicated)? Where the devices do not divide the runs, every device does all of them.

    Results that are not split must be made equal on all devices with `mean`.
    """
    devices = mesh()
    runs = P(AXIS) if num_runs % devices.size == 0 else P()
    in_specs, out_specs = jax.tree.map(lambda s: runs if s else P(), (split, out_split))
    return jax.shard_map(fn, mesh=devices, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def mean(tree):
    """Mean over the leading axis of runs, then over the devices."""
    means, unravel = ravel_pytree(jax.tree.map(lambda x: x.mean(0), tree))
    return unravel(jax.lax.pmean(means, AXIS))
