"""Finds out what a training run needs and where it would fail, without its hardware.

Works on shapes alone: it compiles the training step and never runs it, for a chip by the chip's own
compiler, otherwise for simulated CPU devices. `docs/how-to/check.md` says what is not included.
"""

import math
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
from rich.console import RenderableType
from rich.text import Text

from wsicl_jax.config import SYNTHETIC, ExperimentConfig
from wsicl_jax.data.datasets import DataSet, open_datasets
from wsicl_jax.data.episodes.sampling import EpisodeSource, context_sizes
from wsicl_jax.data.episodes.sources import StoreSource
from wsicl_jax.distributed.hardware import Chip, TpuTarget, chip_named
from wsicl_jax.distributed.mesh import CONTEXT
from wsicl_jax.distributed.placement import make_mesh, mesh_sizes, simulate_devices
from wsicl_jax.errors import ConfigError, MissingExtraError, WsiclError
from wsicl_jax.evaluate.planning import plan_experiment
from wsicl_jax.evaluate.summaries import skipped_table
from wsicl_jax.model import ops
from wsicl_jax.storage.object_path import ObjectPath, Place
from wsicl_jax.tools.check.check_tables import (
    GB,
    compiled_table,
    context_table,
    input_table,
    memory_table,
    mesh_table,
    model_table,
    optimizer_table,
    parameter_table,
    scaling_table,
    time_table,
)
from wsicl_jax.tools.check.chip_compiler import chip_devices, compile_step
from wsicl_jax.tools.check.device_memory import (
    memory_needed,
    memory_on_chip,
    placed,
    shortened,
    temporary_bytes,
)
from wsicl_jax.tools.check.scaling import predict_scaling
from wsicl_jax.tools.check.step_cost import step_cost
from wsicl_jax.tools.check.step_time import devices_of, step_time
from wsicl_jax.train.binding import find_start
from wsicl_jax.train.initial_weights import find_weights
from wsicl_jax.train.lowering import abstract_batch, abstract_state, trace_step
from wsicl_jax.train.run_directory import run_directory, steps_done

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
    chip: str | None = None,
    every_size: bool = False,
) -> dict[str, Any]:
    """`show` what `train(config, resume=resume)` needs on so many devices; returns the numbers.

    Call it before JAX starts, so that JAX can simulate the devices. The default is the number of
    devices of this machine, or 1 with a `chip`; they are spread evenly over the hosts. `memory` is
    that of one device in GB (10^9 bytes), by default that of the chip. The chip's own compiler
    compiles the step for the largest context set, or with `every_size` for each size.

    Raises:
        WsiclError: training would fail; one line for each problem, in the order in which training
            meets them. All tables that can be made are shown before.
    """
    problems = _Problems()
    on = chip_named(chip) if chip else None
    if every_size and not on:
        raise ConfigError("--every-size compiles for a chip: add --chip NAME")
    if devices is None:
        devices = 1 if on else _count_devices()
    memory = on.memory if on and memory is None else memory
    _check_arguments(devices, hosts, memory, on)
    show(model_table(config))
    sizes = datasets = episodes = None
    found: dict[str, Any] = {"chip": chip, "devices": devices}
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
        with problems.noted():
            found |= _show_mesh(config, devices, hosts, memory, on, every_size, show)
            needed, planned = found["bytes_per_device"], "compiled" in found
            _check_memory(config, sizes, needed, memory, planned=planned)
    problems.raise_any()
    start = f"from step {done}" if done else "from the start"
    needed = f"{found['bytes_per_device'] / GB:.2f} GB per device"
    by = "planned by the chip's compiler" if "compiled" in found else "an estimate"
    show(Text(f"ready: training {start}, {needed}, {by}"))
    return found


def show_scaling(
    config: ExperimentConfig, chip: str | None, devices: Sequence[int], *, show: Show
) -> dict[str, Any]:
    """`show` predicted steps on each number of devices of a chip; returns the numbers.

    Raises:
        ConfigError: no chip, or numbers of devices that cannot be compared.
    """
    if not chip:
        raise ConfigError("--table predicts steps on a chip: add --chip NAME")
    predicted = predict_scaling(config, chip_named(chip), devices)
    show(scaling_table(predicted, chip_named(chip)))
    steps = [asdict(one) | {"step_seconds": one.time.total} for one in predicted]
    return {"chip": chip, "steps": steps}


def _show_mesh(
    config: ExperimentConfig,
    devices: int,
    hosts: int,
    memory: float | None,
    chip: Chip | None,
    every_size: bool,
    show: Show,
) -> dict[str, Any]:
    """Show how arrays are placed on the mesh, and the memory; returns the numbers."""
    described = None
    if chip:
        try:
            described = chip_devices(chip, devices, hosts)
        except MissingExtraError as error:
            show(Text(f"{error}\nWithout it, an estimate from the CPU's compiler follows."))
    simulate_devices(1 if described else devices)
    mesh = make_mesh(config, described or jax.devices("cpu")[:devices])
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
    found: dict[str, Any] = {}
    if described:
        config, part = shortened(config, mesh)
        sizes = contexts if every_size else contexts[-1:]
        with ops.native_lowering(part.devices.flat[0].platform):
            traced = [trace_step(config, part, size) for size in sizes]
        advice = _advice(config, tuple(mesh.shape.values()))
        compiled = [compile_step(*one, advice) for one in zip(traced, sizes, strict=True)]
        show(compiled_table(compiled, len(contexts)))
        cost = step_cost(traced[-1])
        time = step_time(cost, chip, mesh.shape, compiled[-1].accessed)
        show(time_table(cost, time, chip, mesh.shape, compiled[-1]))
        needed = memory_on_chip(parameters, optimizer, batch, compiled[-1], placed(state.ema))
        compiled_for = part.size
        found |= {
            "compiled": [asdict(one) for one in compiled],
            "least_seconds": asdict(time),
            "flops": dict(cost.flops),
            "exchanged_bytes": {
                f"{one.kind} over {' and '.join(one.axes)}": size
                for one, size in cost.exchanged.items()
                if devices_of(one, mesh.shape) > 1
            },
        }
    else:
        temporary, compiled_for = temporary_bytes(config, mesh, contexts[-1])
        needed = memory_needed(parameters, optimizer, batch, temporary, placed(state.ema))
    show(memory_table(needed, memory, compiled_for, devices, chip if described else None))
    return {"memory": needed, "bytes_per_device": sum(needed.values()), **found}


def _check_arguments(devices: int, hosts: int, memory: float | None, chip: Chip | None) -> None:
    if devices < 1:
        raise ConfigError(f"--devices is {devices}; expected 1 or more")
    if hosts < 1 or devices % hosts:
        raise ConfigError(
            f"--hosts is {hosts}; expected a number over which {devices} devices are spread evenly"
        )
    if memory is not None and not 0 < memory < math.inf:
        raise ConfigError(f"--memory is {memory:g}; expected the GB of one device, above 0")
    if chip and isinstance(chip.target, TpuTarget):
        whole = chip.target.devices_of_slice(devices)
        if devices > 2 and devices != whole:
            raise ConfigError(
                f"--devices is {devices}, but no slice of {chip.kind} has so many; "
                f"{whole // 2} and {whole} are possible"
            )


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
            source.sample(0, config.episode.contexts[1] + 1, rng)


def _check_run(
    config: ExperimentConfig, resume: bool, datasets: list[DataSet] | None
) -> tuple[int, list[DataSet] | None]:
    """The step from which the run would go on, and the data sets with its split."""
    run = run_directory(config)
    _check_writable(run)
    if datasets is None:
        return steps_done(run, config, resume=resume), None
    start = find_start(config, datasets, resume=resume)
    if not start.done:
        find_weights(config)
    return start.done, start.datasets


def _check_writable(run: Place) -> None:
    if isinstance(run, ObjectPath):
        probe = run / f".wsicl-check-{uuid.uuid4().hex}"
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ConfigError(f"cannot write to {run}: {error.strerror}") from error
        return
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
    config: ExperimentConfig,
    sizes: tuple[int, int, int],
    needed: int,
    memory: float | None,
    *,
    planned: bool,
) -> None:
    """`planned`: by the chip's compiler, so that it is no estimate."""
    if memory is None or needed <= memory * GB:
        return
    amount = f"{needed / GB:.3g} GB"
    who = f"the {amount} that the compiler plans" if planned else f"an estimated {amount}"
    raise ConfigError(f"{who} do not fit a device's {memory:g} GB; try {_advice(config, sizes)}")


def _advice(config: ExperimentConfig, sizes: tuple[int, int, int]) -> str:
    return "; ".join(_savings(config, sizes)) or "a smaller volume.grid or model.channels"


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
