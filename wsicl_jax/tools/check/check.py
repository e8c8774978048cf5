"""What a run would need and where it would fail, found out before the hardware is there.

Works on shapes alone: the mesh is one of simulated CPU devices, and the training step is
compiled for it, never run. `docs/how-to/check.md` says what the estimate leaves out.
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
"""Synthetic cohorts are tried at most this large: what they show is a matter of shares."""


def check(
    config: ExperimentConfig,
    *,
    show: Show,
    devices: int | None = None,
    hosts: int = 1,
    memory: float | None = None,
    resume: bool = False,
) -> None:
    """Tell by `show` what `train(config, resume=resume)` would need on so many devices.

    Call before JAX starts: it is made to simulate the devices. Without `devices`, as many
    as there are on this machine; they are spread evenly over the hosts. `memory` is that
    of one device in GB (10^9 bytes).

    Raises:
        WsiclError: something would go wrong; the message has what training would meet first,
            then the rest. What could be found out is told before.
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
    problems.tell()
    start = f"from step {done}" if done else "from the start"
    show(Text(f"ready: training {start}, an estimated {needed / GB:.2f} GB per device"))


def _show_mesh(
    config: ExperimentConfig, devices: int, hosts: int, memory: float | None, show: Show
) -> int:
    """Where everything lies; returns the bytes that each device needs."""
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
    needed = memory_needed(parameters, optimizer, batch, temporary)
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
    """What would go wrong, in the order in which training would meet it."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except (WsiclError, OSError) as error:
            self._messages.append(str(error))

    def tell(self) -> None:
        """Raises: WsiclError: there is a problem."""
        if self._messages:
            raise WsiclError("\nbesides: ".join(dict.fromkeys(self._messages)))


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
    """Draw the first subjects: files may be unreadable, structures too small for the grid."""
    for source in episodes.sources:
        if isinstance(source, StoreSource):
            rng = np.random.default_rng(config.seed)
            source.group(0, config.episode.contexts[1] + 1, rng)


def _check_run(
    config: ExperimentConfig, resume: bool, datasets: list[DataSet] | None
) -> tuple[int, list[DataSet] | None]:
    """The step that the run would go on from, and the data sets with its split."""
    run = Path(config.run)
    _check_writable(run)
    if datasets is None:
        return steps_done(run, config, resume=resume), None
    start = find_start(config, datasets, resume=resume)
    if not start.done:
        find_weights(config)
    return start.done, start.datasets


def _check_writable(run: Path) -> None:
    there = run.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"cannot write to {run}: {there} is a file; give another run=DIRECTORY")
    try:
        # What permissions say is not enough: root has all of them, also where none can write.
        TemporaryDirectory(prefix=".wsicl-check-", dir=there).cleanup()
    except OSError as error:
        raise ConfigError(f"cannot write to {run}: {error.strerror} in {there}") from error


def _check_memory(
    config: ExperimentConfig, sizes: tuple[int, int, int], needed: int, memory: float | None
) -> None:
    if memory is None or needed <= memory * GB:
        return
    raise ConfigError(
        f"an estimated {needed / GB:.3g} GB do not fit a device's {memory:g} GB; what would help: "
        f"{'; '.join(_savings(config, sizes)) or 'a smaller volume.grid or model.channels'}"
    )


def _savings(config: ExperimentConfig, sizes: tuple[int, int, int]) -> list[str]:
    """Settings that lower the memory per device, those that need no more devices first."""
    data, context, space = sizes
    processing, most = config.model.context, config.episode.contexts[1]
    each = config.train.batch // data
    found = []
    if most > context and processing.mini_context != 1:
        found.append("model.context.mini_context=1")
    if processing.remat != "stage":
        found.append("model.context.remat=stage")
    if data > 1 and not config.parallel.shard_parameters:
        found.append("parallel.shard_parameters=true")
    if each > 1:
        found.append(
            f"parallel.data={config.train.batch} on more devices, or a smaller train.batch"
        )
    if config.volume.grid[0] % (2 * space * config.model.size_multiple) == 0:
        found.append(f"parallel.space={2 * space}")
    return found


def _count_devices() -> int:
    """The devices of this machine, by a process of its own: here they are to be simulated."""
    told = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.device_count())"],
        env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        capture_output=True,
        text=True,
    )
    if told.returncode:
        reason = (told.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"JAX finds no devices here ({reason}); say how many by --devices")
    return int(told.stdout.split()[-1])
