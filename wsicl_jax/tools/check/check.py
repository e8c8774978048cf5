"""Finds out what a training run needs and where it would fail, without its hardware.

Works on shapes alone: it compiles the training step for simulated CPU devices and never runs it.
`docs/how-to/check.md` says what the estimate does not include.
"""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
from rich.console import RenderableType
from rich.text import Text

from wsicl_jax.config import SYNTHETIC, ExperimentConfig
from wsicl_jax.data.datasets import DataSet, open_datasets
from wsicl_jax.data.episodes.sampling import EpisodeSource, context_sizes
from wsicl_jax.data.episodes.sources import StoreSource
from wsicl_jax.distributed.mesh import CONTEXT
from wsicl_jax.distributed.placement import make_mesh, mesh_sizes, simulate_devices
from wsicl_jax.errors import ConfigError, WsiclError
from wsicl_jax.evaluate.planning import plan_experiment
from wsicl_jax.evaluate.summaries import skipped_table
from wsicl_jax.tools.check.check_tables import (
    GB,
    context_table,
    input_table,
    memory_table,
    mesh_table,
    model_table,
    optimizer_table,
    parameter_table,
)
from wsicl_jax.tools.check.device_memory import memory_needed, placed, temporary_bytes
from wsicl_jax.train.binding import find_start
from wsicl_jax.train.initial_weights import find_weights
from wsicl_jax.train.lowering import abstract_batch, abstract_state
from wsicl_jax.train.run_directory import steps_done

Show = Callable[[RenderableType], None]

_SYNTHETIC_SIDE = 32
"""Largest side of the synthetic cohorts that are tried; small ones have the same problems."""


def check(
    config: ExperimentConfig,
    *,
    show: Show,
    devices: int | None = None,
    hosts: int = 1,
    memory: float | None = None,
    resume: bool = False,
) -> None:
    """`show` what `train(config, resume=resume)` needs on so many devices.

    Call it before JAX starts, so that JAX can simulate the devices. The default is the number of
    devices of this machine; they are spread evenly over the hosts. `memory` is that of one device
    in GB (10^9 bytes).

    Raises:
        WsiclError: training would fail; one line for each problem, in the order in which training
            meets them. All tables that can be made are shown before.
    """
    problems = _Problems()
    devices = _count_devices() if devices is None else devices
    _check_arguments(devices, hosts, memory)
    show(model_table(config))
    sizes = datasets = episodes = needed = None
    done = 0
    # In the order in which training meets them.
    with problems.noted():
        datasets = open_datasets(config)
    with problems.noted():
        done, datasets = _check_run(config, resume, datasets)
    with problems.noted():
        if datasets:
            _check_evaluation(config, datasets, show)
    with problems.noted():
        sizes = mesh_sizes(config, devices)
    with problems.noted():
        if datasets:
            episodes = EpisodeSource(config, datasets)
    with problems.noted():
        if episodes:
            _check_subjects(config, episodes)
    if sizes:
        needed = _show_mesh(config, devices, hosts, memory, show)
        with problems.noted():
            _check_memory(config, sizes, needed, memory)
    problems.raise_any()
    start = f"from step {done}" if done else "from the start"
    show(Text(f"ready: training {start}, an estimated {needed / GB:.2f} GB per device"))


def _show_mesh(
    config: ExperimentConfig, devices: int, hosts: int, memory: float | None, show: Show
) -> int:
    """Show how arrays are placed on the mesh; returns the bytes that each device needs."""
    simulate_devices(devices)
    mesh = make_mesh(config, jax.devices("cpu")[:devices])
    show(mesh_table(config, mesh, hosts))
    multiple = math.lcm(config.episode.context_multiple, mesh.shape[CONTEXT])
    contexts = context_sizes(config.episode, multiple)
    show(context_table(config, contexts))
    state, _ = abstract_state(config, mesh)
    parameters, optimizer = placed(state.parameters), placed(state.optimizer)
    batch = placed(abstract_batch(config, mesh, contexts[-1])._asdict())
    show(parameter_table(parameters))
    show(optimizer_table(optimizer))
    show(input_table(batch, contexts[-1]))
    temporary, compiled_for = temporary_bytes(config, mesh, contexts[-1])
    needed = memory_needed(parameters, optimizer, batch, temporary, placed(state.ema))
    show(memory_table(needed, memory, compiled_for, devices))
    return sum(needed.values())


def _check_arguments(devices: int, hosts: int, memory: float | None) -> None:
    if devices < 1:
        raise ConfigError(f"--devices is {devices}; expected 1 or more")
    if hosts < 1 or devices % hosts:
        raise ConfigError(
            f"--hosts is {hosts}; expected a number over which {devices} devices are spread evenly"
        )
    if memory is not None and not 0 < memory < math.inf:
        raise ConfigError(f"--memory is {memory:g}; expected the GB of one device, above 0")


class _Problems:
    """Collects problems in the order in which training meets them."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except (WsiclError, OSError) as error:
            self._messages.append(str(error))

    def raise_any(self) -> None:
        """Raises: WsiclError: there is a problem."""
        if self._messages:
            raise WsiclError("\nalso: ".join(dict.fromkeys(self._messages)))


def _check_evaluation(config: ExperimentConfig, datasets: Sequence[DataSet], show: Show) -> None:
    if any(dataset.store == SYNTHETIC for dataset in config.data):
        largest = max(_SYNTHETIC_SIDE, config.model.size_multiple)
        grid = tuple(min(side, largest) for side in config.volume.grid)
        config = replace(
            config,
            volume=replace(config.volume, grid=grid),
            evaluation=replace(config.evaluation, synthetic_structures=1),
        )
    if skipped := plan_experiment(config, datasets).skipped:
        show(skipped_table(skipped))


def _check_subjects(config: ExperimentConfig, episodes: EpisodeSource) -> None:
    """Read the first subjects: files may be unreadable, structures too small for the grid."""
    for source in episodes.sources:
        if isinstance(source, StoreSource):
            rng = np.random.default_rng(config.seed)
            source.group(0, config.episode.contexts[1] + 1, rng)


def _check_run(
    config: ExperimentConfig, resume: bool, datasets: list[DataSet] | None
) -> tuple[int, list[DataSet] | None]:
    """The step from which the run would go on, and the data sets with its split."""
    run = Path(config.run)
    _check_writable(run)
    if datasets is None:
        return steps_done(run, config, resume=resume), None
    start = find_start(config, datasets, resume=resume)
    if not start.done:
        find_weights(config)
    return start.done, start.datasets


def _check_writable(run: Path) -> None:
    parent = run.absolute()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise ConfigError(f"cannot write to {run}: {parent} is a file; give another run=DIRECTORY")
    try:
        # Permissions do not suffice: root has all of them, even on a read-only file system.
        TemporaryDirectory(prefix=".wsicl-check-", dir=parent).cleanup()
    except OSError as error:
        raise ConfigError(f"cannot write to {run}: {error.strerror} in {parent}") from error


def _check_memory(
    config: ExperimentConfig, sizes: tuple[int, int, int], needed: int, memory: float | None
) -> None:
    if memory is None or needed <= memory * GB:
        return
    raise ConfigError(
        f"an estimated {needed / GB:.3g} GB do not fit a device's {memory:g} GB; try "
        f"{'; '.join(_savings(config, sizes)) or 'a smaller volume.grid or model.channels'}"
    )


def _savings(config: ExperimentConfig, sizes: tuple[int, int, int]) -> list[str]:
    """Settings that lower the memory per device, first those that need no more devices."""
    data, context, space = sizes
    processing, max_contexts = config.model.context, config.episode.contexts[1]
    settings = []
    if max_contexts > context and processing.mini_context != 1:
        settings.append("model.context.mini_context=1")
    if processing.remat != "stage":
        settings.append("model.context.remat=stage")
    if data > 1 and not config.parallel.shard_parameters:
        settings.append("parallel.shard_parameters=true")
    if (rows := config.train.batch // data) > config.train.accumulate:
        settings.append(f"train.accumulate={rows}")
    if config.train.batch > data:
        settings.append(
            f"parallel.data={config.train.batch} on more devices, or a smaller train.batch"
        )
    if config.volume.grid[0] % (2 * space * config.model.size_multiple) == 0:
        settings.append(f"parallel.space={2 * space}")
    return settings


def _count_devices() -> int:
    """The devices of this machine, counted in another process: this one simulates devices."""
    counted = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.device_count())"],
        env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        capture_output=True,
        text=True,
    )
    if counted.returncode:
        reason = (counted.stderr.strip().splitlines() or ["no reason"])[-1]
        raise ConfigError(f"JAX finds no devices here ({reason}); give their number by --devices")
    return int(counted.stdout.split()[-1])
