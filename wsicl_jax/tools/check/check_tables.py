"""Tables of `wsicl check`: network, mesh, placement of arrays, memory."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, islice

from jax.sharding import Mesh
from rich.table import Table
from rich.text import Text

from wsicl_jax.config import ExperimentConfig, config_to_dict
from wsicl_jax.distributed.hardware import Chip, GpuTarget
from wsicl_jax.distributed.mesh import DATA
from wsicl_jax.distributed.placement import AXES
from wsicl_jax.model.cost import training_flops
from wsicl_jax.model.dual_branch import count_parameters
from wsicl_jax.tools.check.chip_compiler import Compiled
from wsicl_jax.tools.check.device_memory import Placed, on_device, rows_of_hosts
from wsicl_jax.tools.check.scaling import Predicted
from wsicl_jax.tools.check.step_cost import StepCost
from wsicl_jax.tools.check.step_time import LATENCY, StepTime, devices_of, exchanges, link_of

GB = 10**9
"""Bytes in the GB of all memory figures."""

_TIGHT = 0.9
"""Share of a device's memory above which the error of the estimate matters."""

_OF_GPU = 0.75
"""Share of a GPU's memory that JAX takes by default."""


def model_table(config: ExperimentConfig) -> Table:
    """The network, its data and its working grid."""
    processing = config_to_dict(config.model.context)
    return _facts(
        ("run", config.run),
        ("data", ", ".join(dataset.store for dataset in config.data)),
        ("channels", ", ".join(map(str, config.model.channels))),
        ("parameters", f"{count_parameters(config.model):,}"),
        ("precision", config.model.precision),
        ("context", ", ".join(f"{name} {value}" for name, value in processing.items())),
        ("working grid", _times(config.volume.grid)),
        ("margins of one value", "cut off" if config.volume.crop else "kept"),
    )


def mesh_table(config: ExperimentConfig, mesh: Mesh, hosts: int) -> Table:
    """The mesh, and the episodes that each host reads."""
    sizes, batch = tuple(mesh.shape[axis] for axis in AXES), config.train.batch
    reading = rows_of_hosts(batch, sizes, hosts)
    counts = sorted({len(rows) for rows in reading.rows})
    data, accumulate = mesh.shape[DATA], config.train.accumulate
    parts = f", in {accumulate} parts one after another" if accumulate > 1 else ""
    lines = [
        ("mesh", " x ".join(f"{axis} {mesh.shape[axis]}" for axis in AXES)),
        ("devices", f"{mesh.size:,}"),
        ("hosts", f"{hosts:,}, {mesh.size // hosts:,} devices each"),
        ("episodes per step", f"{batch:,} = {batch // data:,} x data {data:,}{parts}"),
        ("episodes read by a host", " or ".join(f"{count:,}" for count in counts)),
    ]
    if reading.readers > 1:
        why = "devices of all of them hold parts of it"
        lines.append(("hosts reading an episode", f"up to {reading.readers}: {why}"))
    return _facts(*lines)


def context_table(config: ExperimentConfig, contexts: list[int]) -> Table:
    """The possible sizes of context sets; JAX compiles a program for each."""
    table = Table(title=f"context sizes; programs to compile: {len(contexts)}")
    table.add_column("context images", justify="right")
    table.add_column("model FLOPs per step", justify="right")
    for count in contexts:
        flops = config.train.batch * training_flops(config.model, config.volume.grid, count)
        table.add_row(str(count), f"{flops:.3e}")
    return table


def parameter_table(parameters: list[Placed]) -> Table:
    """How each parameter is divided over devices, its bytes, and sums by part of the network."""
    table = _placement_table("parameters")
    parts = [(part, list(arrays)) for part, arrays in groupby(parameters, _first_name)]
    for part, arrays in parts:
        for array in arrays:
            _add_array(table, array)
        _add_sum(table, f"all of {part}", arrays)
    _add_sum(table, "all parameters", parameters)
    return table


def input_table(batch: list[Placed], contexts: int) -> Table:
    """How each array of a batch is divided over devices."""
    table = _placement_table(f"inputs of a step with {contexts} context images", "on each device")
    for array in batch:
        _add_array(table, array, _times(array.part))
    _add_sum(table, "all inputs", batch, "")
    return table


def optimizer_table(optimizer: list[Placed]) -> Table:
    """The optimiser state by kind."""
    table = Table("optimiser state", title="optimiser state")
    for heading in ("arrays", "cut", "bytes", "bytes per device"):
        table.add_column(heading, justify="right")

    def add(name: str, arrays: list[Placed]) -> None:
        cut = sum(array.part != array.shape for array in arrays)
        sizes = sum(array.size for array in arrays), on_device(arrays)
        table.add_row(name, str(len(arrays)), str(cut), *(f"{size:,}" for size in sizes))

    # Sorted by kind, because Adam has two counts that do not follow one another.
    for name, arrays in groupby(sorted(optimizer, key=_state_kind), _state_kind):
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
    """The part of the network to which an array belongs."""
    return array.name.split(".")[0]


def _state_kind(array: Placed) -> str:
    """The kind of optimiser state; with Muon also which of its two optimisers it belongs to."""
    parts = (part for part in array.name.split(".") if not part.isdecimal())
    first = next(parts)
    if first != "inner_states":
        return first
    optimizer, _, kind = islice(parts, 3)
    return f"{optimizer} {kind}"


def compiled_table(compiled: Sequence[Compiled], programs: int) -> Table:
    """What the chip's compiler plans for each size of context set, and its time."""
    table = Table(title=f"compiled {len(compiled)} of {programs} programs")
    for heading in ("context images", "arguments", "results", "reused", "temporary", "total"):
        table.add_column(heading, justify="right")
    table.add_column("compiled in", justify="right")
    for one in compiled:
        sizes = (one.arguments, one.results, one.reused, one.temporary, one.total)
        row = (f"{size / GB:.3f} GB" for size in sizes)
        table.add_row(str(one.contexts), *row, f"{one.seconds:.0f} s")
    return table


def time_table(
    cost: StepCost, time: StepTime, chip: Chip, mesh: Mapping[str, int], compiled: Compiled
) -> Table:
    """The least time of a step on a device, by what takes it."""
    table = Table(title=f"least time of a step on {chip.kind}, {compiled.contexts} context images")
    table.add_column("what")
    table.add_column("amount on a device", justify="right")
    table.add_column("time", justify="right")
    flops = ", ".join(f"{flops:.3e} in {dtype}" for dtype, flops in cost.flops.items())
    table.add_row("FLOPs of the program", flops, f"{time.computing * 1e3:.2f} ms")
    accessed = f"{compiled.accessed / GB:.1f} GB"
    table.add_row("memory access as compiled", accessed, f"{time.memory * 1e3:.2f} ms")
    for exchange, size in cost.exchanged.items():
        if devices_of(exchange, mesh) > 1:
            name = f"{exchange.kind} over {' and '.join(exchange.axes)}"
            times = f"{size / GB:.3f} GB in {exchanges(cost, exchange)}"
            table.add_row(name, times, link_of(exchange, chip, mesh))
    table.add_row("exchange", "", f"{time.exchange * 1e3:.2f} ms")
    table.add_section()
    table.add_row("step", f"bound by {time.bound}", f"{time.total * 1e3:.2f} ms")
    table.caption = "by data sheets, at their peak; not measured"
    return table


def scaling_table(predicted: Sequence[Predicted], chip: Chip) -> Table:
    """Predicted steps on growing numbers of devices."""
    table = Table("more devices along", "mesh", title=f"predicted steps on {chip.kind}")
    for heading in ("episodes", "contexts", "computing", "memory", "exchange", "step"):
        table.add_column(heading, justify="right")
    table.add_column("efficiency", justify="right")
    for axis, steps in groupby(predicted, lambda one: one.axis):
        for one in steps:
            time = one.time
            seconds = (time.computing, time.memory, time.exchange, time.total)
            table.add_row(
                axis,
                _times(one.mesh.values()),
                f"{one.episodes:,}",
                str(one.contexts),
                *(f"{1e3 * value:.2f} ms" for value in seconds),
                f"{one.rate / predicted[0].rate:.1%}",
            )
        table.add_section()
    table.caption = (
        f"by data sheets, at their peak; {LATENCY * 1e6:g} us for each exchange assumed; "
        "exchange does not overlap; not measured"
    )
    return table


def memory_table(
    needed: Mapping[str, int],
    memory: float | None,
    compiled_for: int,
    devices: int,
    chip: Chip | None = None,
) -> Table:
    """The memory that a device needs, by purpose; with a chip, as its own compiler plans it."""
    part = f", compiled for {compiled_for:,} of {devices:,}" if compiled_for < devices else ""
    by = f"memory per device, as the compiler of {chip.kind} plans it" if chip else ""
    table = Table(title=f"{by or 'estimated memory per device, compiled for CPU'}{part}")
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
        on_gpu = chip is not None and isinstance(chip.target, GpuTarget)
        table.caption = _fits(total / (memory * GB), on_gpu)
    return table


def _fits(share: float, on_gpu: bool) -> str:
    if share > 1:
        return "does not fit"
    if on_gpu and share > _OF_GPU:
        more = "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95"
        return f"fits if JAX may take more than its {_OF_GPU:.0%} of a GPU: {more}"
    return "fits narrowly: the error of the estimate may be larger" if share > _TIGHT else "fits"


def _facts(*rows: tuple[str, str]) -> Table:
    table = Table(box=None, show_header=False)
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _times(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes)) or "single"
