"""How many points are solved at a time, and on which devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from ..programs import devices as devices_there
from ..programs import platform

AXIS = "points"
BYTES_PER_ENTRY = 150  # of memory for each sample and T⁴, as measured for T = 3 and 8
LARGEST_BATCH = 64


class Layout(NamedTuple):
    """`batch` points at a time on each of `devices` devices; memory grows with `batch`."""

    batch: int = 1
    devices: int = 1

    def map(self, function: Callable, points: Any, *shared: Any) -> Any:
        """`function(point, *shared)` for all points, the leading axis of the leaves of `points`."""
        count = len(jax.tree.leaves(points)[0])
        each = -(-count // self.devices)
        batch = min(self.batch, each)
        full = -(-each // batch) * batch * self.devices
        if full > count:
            # Points are repeated where they do not divide evenly, which compiles for one size.
            rows = jnp.minimum(jnp.arange(full), count - 1)
            points = jax.tree.map(lambda x: x[rows], points)

        def on_device(points, *shared):
            # One at a time is no batch: under vmap, conditions take both ways.
            size = None if batch == 1 else batch
            return jax.lax.map(lambda point: function(point, *shared), points, batch_size=size)

        if self.devices > 1:
            mesh = Mesh(devices_there()[: self.devices], (AXIS,))
            split, whole = PartitionSpec(AXIS), PartitionSpec()
            on_device = jax.shard_map(
                on_device,
                mesh=mesh,
                in_specs=(split, *(whole for _ in shared)),
                out_specs=split,
                check_vma=False,
            )
        return jax.tree.map(lambda x: x[:count], on_device(points, *shared))


def default_layout(samples: int, tokens: int, devices: int = 1) -> Layout:
    """As many points at a time as fit into half of the memory of a device; on a CPU, one.

    A CPU's cores gain nothing from several, as each takes as long as the slowest of a batch.
    Raises ValueError for devices that are not there.
    """
    there = devices_there()
    most = len(there)
    if isinstance(devices, bool) or not isinstance(devices, int) or not 1 <= devices <= most:
        raise ValueError(f"devices = {devices!r}: must be an integer from 1 to {most}")
    statistics = there[0].memory_stats() or {}
    if platform() == "cpu" or "bytes_limit" not in statistics:
        return Layout(1, devices)
    fit = statistics["bytes_limit"] // 2 // (samples * tokens**4 * BYTES_PER_ENTRY)
    return Layout(max(1, min(fit, LARGEST_BATCH)), devices)
