"""Devices of all processes as one mesh, and host arrays placed on it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wsicl_jax.errors import ConfigError

Tree = TypeVar("Tree")

DATA = "data"
"""The mesh axis over which the episodes of a batch are spread."""


def join_processes(
    coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> None:
    """Make this process one of `count` that train together; call before any device is used.

    The coordinator is the address `host:port` of process 0. Without one, the tasks of a Slurm
    step (`srun`) join by what Slurm tells them, and any other process stays alone.

    Raises:
        ConfigError: only some of the three are given, or the others do not come in time.
    """
    given = (coordinator is not None, count is not None, index is not None)
    if any(given) and not all(given):
        raise ConfigError("--coordinator, --processes and --process belong together")
    if not any(given) and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return
    try:
        jax.distributed.initialize(coordinator, count, index)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the processes did not find each other: {error}") from error


def wait_for_all(where: str) -> None:
    """Go on when every process has come to this place of the program."""
    multihost_utils.sync_global_devices(where)


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


def is_leader() -> bool:
    """Whether this process is the one that writes what only one may write."""
    return jax.process_index() == 0


def keep_compiled_programs() -> None:
    """Let XLA reuse what it compiled in earlier runs, from the user's cache directory.

    `JAX_COMPILATION_CACHE_DIR` names another directory, or none if it is empty.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(cache / "wsicl_jax"))
