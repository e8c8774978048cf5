"""The processes of a run: how they find each other, wait for each other, and who leads."""

import os

import jax
from jax.experimental import multihost_utils

from wsicl_jax.errors import ConfigError


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


def is_leader() -> bool:
    """Whether this process is the one that writes what only one may write."""
    return jax.process_index() == 0
