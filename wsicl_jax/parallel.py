"""Devices of all processes as one mesh, and host arrays placed on it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wsicl_jax.errors import ConfigError

Tree = TypeVar("Tree")

DATA = "data"
"""The mesh axis over which the episodes of a batch are spread."""


def make_mesh(batch: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices along the axis `data`; by default all devices of all processes.

    Raises:
        ConfigError: a batch of this size cannot be shared equally by the devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if batch % count:
        raise ConfigError(
            f"train.batch = {batch} cannot be shared by {count} devices; use a multiple of {count}"
        )
    return Mesh(np.array(devices), (DATA,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Placement of what every device holds whole: parameters and optimiser state."""
    return NamedSharding(mesh, PartitionSpec())


def to_devices(batch: Tree, mesh: Mesh) -> Tree:
    """This process's share of a batch as part of the global arrays, split by episodes."""
    by_episode = NamedSharding(mesh, PartitionSpec(DATA))
    return jax.tree.map(
        lambda local: jax.make_array_from_process_local_data(by_episode, local), batch
    )


def keep_compiled_programs() -> None:
    """Let XLA reuse what it compiled in earlier runs, from the user's cache directory.

    `JAX_COMPILATION_CACHE_DIR` names another directory, or none if it is empty.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(cache / "wsicl_jax"))
