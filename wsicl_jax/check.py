"""What a run would need and where it would fail, found out before the hardware is there.

Works on shapes alone: the mesh is one of simulated CPU devices, and the training step is
compiled for it, never run. `docs/check.md` says what the estimate leaves out.
"""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import numpy as np
import yaml
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from wsicl_jax import ops
from wsicl_jax.checkpoint import STEPS, read_metadata
from wsicl_jax.config import SYNTHETIC, ExperimentConfig, config_to_dict
from wsicl_jax.data.episodes import EpisodeSource, context_sizes
from wsicl_jax.data.sources import StoreSource
from wsicl_jax.errors import ConfigError, WsiclError
from wsicl_jax.evaluate.protocol import plan_trials
from wsicl_jax.evaluate.report import left_out_table
from wsicl_jax.mesh import CONTEXT, DATA
from wsicl_jax.model.cost import training_flops
from wsicl_jax.model.dual_branch import DualBranch, count_parameters
from wsicl_jax.parallel import AXES, make_mesh, mesh_sizes, simulate_devices
from wsicl_jax.train.abstract import abstract_batch, abstract_state
from wsicl_jax.train.checkpoints import has_steps, newest_sound_step
from wsicl_jax.train.loop import _MAY_CHANGE, _check_data, _differing
from wsicl_jax.train.state import make_optimizer
from wsicl_jax.train.step import make_step

Show = Callable[[RenderableType], None]

GB = 10**9
"""Bytes in the GB that memory is given and told in."""

_COMPILED_DEVICES = 256
"""Most devices that the step is compiled for; more of them along `data` change nothing on each."""

_TIGHT = 0.9
"""Share of a device's memory above which the estimate's limits decide whether it suffices."""

_SYNTHETIC_SIDE = 32
"""Synthetic cohorts are tried at most this large: what they show is a matter of shares."""


class Placed(NamedTuple):
    """An array and the part of it that one device holds."""

    name: str
    shape: tuple[int, ...]
    part: tuple[int, ...]
    itemsize: int
    cut: str
    """How it is cut, in words."""

    @property
    def size(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.itemsize

    @property
    def size_of_part(self) -> int:
        """Bytes on each device."""
        return math.prod(self.part) * self.itemsize


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
    show(_model_table(config))
    sizes = episodes = needed = None
    done = 0
    # In the order in which training meets them.
    with problems.noted():
        _check_evaluation(config, show)
    with problems.noted():
        sizes = mesh_sizes(config, devices)
    with problems.noted():
        episodes = EpisodeSource(config)
    with problems.noted():
        done = _check_run(config, resume, episodes)
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
    show(_mesh_table(config, mesh, hosts))
    multiple = math.lcm(config.episode.context_multiple, mesh.shape[CONTEXT])
    contexts = context_sizes(config.episode, multiple)
    show(_context_table(config, contexts))
    state, _ = abstract_state(config, mesh)
    parameters, optimizer = placed(state.parameters), placed(state.optimizer)
    batch = placed(abstract_batch(config, mesh, contexts[-1])._asdict())
    show(_parameter_table(parameters))
    show(_optimizer_table(optimizer))
    show(_input_table(batch, contexts[-1]))
    temporary, compiled_for = temporary_bytes(config, mesh, contexts[-1])
    needed = memory_needed(parameters, optimizer, batch, temporary)
    show(_memory_table(needed, memory, compiled_for, devices))
    return sum(needed.values())


def placed(tree: Any) -> list[Placed]:
    """The arrays of a tree of shapes, as their shardings place them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [
        Placed(
            jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"),
            x.shape,
            x.sharding.shard_shape(x.shape),
            x.dtype.itemsize,
            _cut_in_words(x.sharding),
        )
        for path, x in leaves
    ]


def on_device(arrays: Iterable[Placed]) -> int:
    """Bytes of these arrays on each device."""
    return sum(array.size_of_part for array in arrays)


def temporary_bytes(config: ExperimentConfig, mesh: Mesh, contexts: int) -> tuple[int, int]:
    """Temporary memory of the compiled training step on each device, and the devices compiled for.

    These may be fewer than those of the mesh: `data` is shortened, and the batch with it, so
    that each device has the same part.
    """
    config, mesh = _shortened(config, mesh)
    graph = nnx.graphdef(DualBranch.abstract(config.model))
    state, placement = abstract_state(config, mesh)
    step = make_step(graph, make_optimizer(config.train), config, mesh, placement)
    stop = jax.ShapeDtypeStruct(
        (mesh.size,), np.int32, sharding=NamedSharding(mesh, PartitionSpec(AXES))
    )
    with ops.native_lowering():
        lowered = step.lower(state, abstract_batch(config, mesh, contexts), stop)
    # The plan of the memory is made before the steps that are left out here.
    compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
    return compiled.memory_analysis().temp_size_in_bytes, mesh.size


def memory_needed(
    parameters: list[Placed], optimizer: list[Placed], batch: list[Placed], temporary: int
) -> dict[str, int]:
    """Bytes that each device needs in training, by what they are for."""
    # XLA plans the gradients, which are as large and as cut as the parameters, as temporary.
    gradients = min(on_device(parameters), temporary)
    return {
        "parameters": on_device(parameters),
        "gradients": gradients,
        "optimiser state": on_device(optimizer),
        "inputs of a step": on_device(batch),
        "inputs of the next step": on_device(batch),
        "activations and other temporary memory": temporary - gradients,
    }


class HostRows(NamedTuple):
    """The episodes that each host reads."""

    rows: list[range]
    """By host: rows of every batch."""
    readers: int
    """Most hosts that read the same episode, as its contexts or volumes lie on all of them."""


def rows_of_hosts(batch: int, sizes: tuple[int, int, int], hosts: int) -> HostRows:
    """The rows of every batch that each host reads, if its devices follow one another.

    `sizes` are the devices along data, context and space.
    """
    data, *within = sizes
    per_episode, per_host = math.prod(within), data * math.prod(within) // hosts
    rows, readers = [], [0] * data
    for host in range(hosts):
        first = host * per_host // per_episode
        last = ((host + 1) * per_host - 1) // per_episode
        rows.append(range(first * batch // data, (last + 1) * batch // data))
        for position in range(first, last + 1):
            readers[position] += 1
    return HostRows(rows, max(readers))


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


def _check_evaluation(config: ExperimentConfig, show: Show) -> None:
    if any(dataset.store == SYNTHETIC for dataset in config.data):
        largest = max(_SYNTHETIC_SIDE, config.model.size_multiple)
        grid = tuple(min(side, largest) for side in config.volume.grid)
        config = replace(
            config,
            volume=replace(config.volume, grid=grid),
            evaluation=replace(config.evaluation, synthetic_structures=1),
        )
    if left_out := plan_trials(config).left_out:
        show(left_out_table(left_out))


def _check_subjects(config: ExperimentConfig, episodes: EpisodeSource) -> None:
    """Draw the first subjects: files may be unreadable, structures too small for the grid."""
    for source in episodes.sources:
        if isinstance(source, StoreSource):
            rng = np.random.default_rng(config.seed)
            source.group(0, config.episode.contexts[1] + 1, rng)


def _check_run(config: ExperimentConfig, resume: bool, episodes: EpisodeSource | None) -> int:
    """The step that the run would go on from."""
    run = Path(config.run)
    _check_writable(run)
    if not has_steps(run):
        return 0
    saved = run / "config.yaml"
    if not saved.is_file():
        raise ConfigError(f"{run} has checkpoints but no config.yaml; it cannot be resumed")
    before = yaml.safe_load(saved.read_text())
    differing = [
        key
        for key in _differing(before, config_to_dict(config))
        if not any(key == free or key.startswith(f"{free}.") for free in _MAY_CHANGE)
    ]
    if differing:
        raise ConfigError(
            f"{run} holds a run already, started with another {', '.join(differing)}; resume it "
            "with the same settings, or give another run=DIRECTORY"
        )
    if not resume:
        raise ConfigError(
            f"{run} holds a run already; go on with --resume, or give another run=DIRECTORY"
        )
    done = newest_sound_step(run)
    if episodes:
        _check_data(run, read_metadata(run / STEPS / str(done)), episodes)
    return done


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


def _shortened(config: ExperimentConfig, mesh: Mesh) -> tuple[ExperimentConfig, Mesh]:
    if mesh.size <= _COMPILED_DEVICES:
        return config, mesh
    data = max(1, _COMPILED_DEVICES * mesh.shape[DATA] // mesh.size)
    batch = config.train.batch // mesh.shape[DATA] * data
    config = replace(
        config,
        train=replace(config.train, batch=batch),
        parallel=replace(config.parallel, data=data),
    )
    return config, Mesh(mesh.devices[:data], mesh.axis_names)


def _cut_in_words(sharding: NamedSharding) -> str:
    cuts = [
        f"{axis} {sharding.mesh.shape[axis]} on axis {i}"
        for i, axis in enumerate(sharding.spec)
        if axis and sharding.mesh.shape[axis] > 1
    ]
    return ", ".join(cuts) or "whole"


def _model_table(config: ExperimentConfig) -> Table:
    processing = config_to_dict(config.model.context)
    return _facts(
        ("run", config.run),
        ("data", ", ".join(dataset.store for dataset in config.data)),
        ("channels", ", ".join(map(str, config.model.channels))),
        ("parameters", f"{count_parameters(config.model):,}"),
        ("precision", config.model.precision),
        ("context", ", ".join(f"{name} {value}" for name, value in processing.items())),
        ("working grid", _times(config.volume.grid)),
    )


def _mesh_table(config: ExperimentConfig, mesh: Mesh, hosts: int) -> Table:
    sizes, batch = tuple(mesh.shape[axis] for axis in AXES), config.train.batch
    found = rows_of_hosts(batch, sizes, hosts)
    counts = sorted({len(rows) for rows in found.rows})
    data = mesh.shape[DATA]
    lines = [
        ("mesh", " x ".join(f"{axis} {mesh.shape[axis]}" for axis in AXES)),
        ("devices", f"{mesh.size:,}"),
        ("hosts", f"{hosts:,}, {mesh.size // hosts:,} devices each"),
        ("episodes per step", f"{batch:,} = {batch // data:,} x data {data:,}"),
        ("episodes read by a host", " or ".join(f"{count:,}" for count in counts)),
    ]
    if found.readers > 1:
        why = "its context set or volumes lie on the devices of all of them"
        lines.append(("hosts reading an episode", f"up to {found.readers}: {why}"))
    return _facts(*lines)


def _context_table(config: ExperimentConfig, contexts: list[int]) -> Table:
    table = Table(title=f"context sizes; programs to compile: {len(contexts)}")
    table.add_column("context images", justify="right")
    table.add_column("model FLOPs per step", justify="right")
    for count in contexts:
        flops = config.train.batch * training_flops(config.model, config.volume.grid, count)
        table.add_row(str(count), f"{flops:.3e}")
    return table


def _parameter_table(parameters: list[Placed]) -> Table:
    table = _placement_table("parameters")
    parts = [(part, list(arrays)) for part, arrays in groupby(parameters, _first_name)]
    for part, arrays in parts:
        for array in arrays:
            _add_array(table, array)
        _add_sum(table, f"all of {part}", arrays)
    _add_sum(table, "all parameters", parameters)
    return table


def _input_table(batch: list[Placed], contexts: int) -> Table:
    table = _placement_table(f"inputs of a step with {contexts} context images", "on each device")
    for array in batch:
        _add_array(table, array, _times(array.part))
    _add_sum(table, "all inputs", batch, "")
    return table


def _optimizer_table(optimizer: list[Placed]) -> Table:
    table = Table("optimiser state", title="optimiser state")
    for heading in ("arrays", "cut", "bytes", "bytes per device"):
        table.add_column(heading, justify="right")

    def add(name: str, arrays: list[Placed]) -> None:
        cut = sum(array.part != array.shape for array in arrays)
        sizes = sum(array.size for array in arrays), on_device(arrays)
        table.add_row(name, str(len(arrays)), str(cut), *(f"{size:,}" for size in sizes))

    # Two of Adam's parts have a count of their own.
    for name, arrays in groupby(sorted(optimizer, key=_first_name), _first_name):
        add(name, list(arrays))
    table.add_section()
    add("all optimiser state", optimizer)
    return table


def _placement_table(title: str, *more: str) -> Table:
    table = Table("array", "shape", "cut", *more, title=title)
    for heading in ("bytes", "bytes per device"):
        table.add_column(heading, justify="right")
    return table


def _add_array(table: Table, array: Placed, *more: str) -> None:
    sizes = (f"{size:,}" for size in (array.size, array.size_of_part))
    table.add_row(array.name, _times(array.shape), array.cut, *more, *sizes)


def _add_sum(table: Table, name: str, arrays: list[Placed], *more: str) -> None:
    sizes = (f"{size:,}" for size in (sum(a.size for a in arrays), on_device(arrays)))
    table.add_section()
    table.add_row(name, "", "", *more, *sizes)
    table.add_section()


def _first_name(array: Placed) -> str:
    """The part of the network, or the kind of optimiser state, that an array is of."""
    return next(part for part in array.name.split(".") if not part.isdecimal())


def _memory_table(
    needed: Mapping[str, int], memory: float | None, compiled_for: int, devices: int
) -> Table:
    fewer = f", compiled for {compiled_for:,} of {devices:,}" if compiled_for < devices else ""
    table = Table(title=f"estimated memory per device{fewer}")
    table.add_column("for")
    table.add_column("bytes", justify="right")
    table.add_column("GB", justify="right")
    if memory:
        table.add_column(f"of {memory:g} GB", justify="right")

    def add(name: str, size: int) -> None:
        share = [f"{size / (memory * GB):.1%}"] if memory else []
        table.add_row(name, f"{size:,}", f"{size / GB:.3f}", *share)

    for name, size in needed.items():
        add(name, size)
    table.add_section()
    add("total", total := sum(needed.values()))
    if memory:
        table.caption = _fits(total / (memory * GB))
    return table


def _fits(share: float) -> str:
    if share > 1:
        return "does not fit"
    return "fits narrowly: the estimate may err by more" if share > _TIGHT else "fits"


def _facts(*rows: tuple[str, str]) -> Table:
    table = Table(box=None, show_header=False)
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _times(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes)) or "single"
