"""The mesh of all devices of all processes, and the placement of arrays on it.

The network runs once per device on that device's part of the arrays (`on_mesh`); `mesh.py` has the
exchange between parts. Everything else in a step, such as loss and optimizer, sees whole arrays.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wsicl_jax.config import ExperimentConfig, ParallelConfig
from wsicl_jax.distributed.mesh import CONTEXT, DATA, SPACE, differing_over
from wsicl_jax.errors import ConfigError

Tree = TypeVar("Tree")

AXES = (DATA, CONTEXT, SPACE)

PLACEMENT = {
    "target": PartitionSpec(DATA, SPACE),
    "truth": PartitionSpec(DATA, SPACE),
    "context_images": PartitionSpec(DATA, CONTEXT, SPACE),
    "context_prompts": PartitionSpec(DATA, CONTEXT, SPACE),
    "context_weights": PartitionSpec(DATA),
    "structures": PartitionSpec(DATA),
}
"""Sharding of each array of a batch: mesh axes for its leading dimensions."""

_PREDICTION = PartitionSpec(DATA, SPACE)

_WHOLE = PartitionSpec()


def make_mesh(config: ExperimentConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that `config.parallel` describes; by default of all devices of all processes.

    Raises:
        ConfigError: the sizes do not fit the number of devices, the batch or the grid; the
            message names sizes that do.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(config, len(devices))
    if len(devices) < jax.device_count():
        return Mesh(np.array(devices).reshape(sizes), AXES)
    # In the order of the hardware's topology; splitting its axes allows any sizes.
    placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES)


def mesh_sizes(config: ExperimentConfig, devices: int) -> tuple[int, int, int]:
    """Devices along the axes data, context and space, for a number of devices.

    Raises:
        ConfigError: as `make_mesh`.
    """
    sizes = _filled(config.parallel, devices)
    data, _, space = sizes
    batch, side, multiple = config.train.batch, config.volume.grid[0], config.model.size_multiple
    part, parts = batch // config.train.accumulate, config.train.accumulate
    if part % data:
        what = f" / train.accumulate = {parts}" if parts > 1 else ""
        raise ConfigError(
            f"train.batch = {batch}{what} cannot be shared by parallel.data = {data}; use a "
            f"multiple of {parts * data} as batch, or "
            f"{_either(n for n in range(1, data) if part % n == 0)} as data"
        )
    if side % (space * multiple):
        fitting = (n for n in range(1, space) if side % (n * multiple) == 0)
        raise ConfigError(
            f"volume.grid of {side} voxels along its first axis cannot be cut for parallel.space = "
            f"{space}: each part needs a multiple of {multiple}, so use {_either(fitting)}"
        )
    return sizes


def replicated(mesh: Mesh) -> NamedSharding:
    """Placement of arrays that every device holds as a whole."""
    return NamedSharding(mesh, _WHOLE)


def state_placement(tree: Any, mesh: Mesh, config: ParallelConfig) -> Any:
    """Placement of each array of parameters or optimizer state.

    With `config.shard_parameters`, an array is sharded over `data` along its last divisible
    dimension. Arrays without one, and without this setting all arrays, are replicated.
    """
    shards = mesh.shape[DATA] if config.shard_parameters else 1
    return jax.tree.map(lambda x: NamedSharding(mesh, _cut_over_data(x.shape, shards)), tree)


def gathered(tree: Tree, mesh: Mesh) -> Tree:
    """Arrays that may be sharded, replicated on every device."""
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)


def on_mesh(
    predict: Callable[[Tree, Any, jax.Array], jax.Array],
    mesh: Mesh,
    config: ParallelConfig,
) -> Callable[[Tree, Any, jax.Array], jax.Array]:
    """`predict(parameters, batch, key)`, run on every device with its part of the batch.

    Sharded parameters are gathered first; their gradients are summed and sharded again.
    The batch is a named tuple with arrays of `PLACEMENT`; its prediction is placed like the
    target.
    """

    def spread(parameters: Tree, batch: Any, key: jax.Array) -> jax.Array:
        shards = mesh.shape[DATA] if config.shard_parameters else 1
        cuts = jax.tree.map(lambda x: _cut_over_data(x.shape, shards), parameters)

        def local(parameters, batch, key):
            return predict(jax.tree.map(_gathered_here, parameters, cuts), batch, key)

        placed = type(batch)(*(PLACEMENT[name] for name in batch._fields))
        return jax.shard_map(
            local, mesh=mesh, in_specs=(cuts, placed, _WHOLE), out_specs=_PREDICTION
        )(parameters, batch, key)

    return spread


def compiler_options(
    platform: str, mesh: Mapping[str, int], config: ParallelConfig
) -> dict[str, bool | float]:
    """XLA's options for the training step on a mesh, given by its devices along each axis.

    On GPUs, XLA schedules operations early to overlap them with exchange, and keeps their results:
    1.7 times the temporary memory. Data alone is exchanged once a step, at its end.
    """
    if platform == "tpu":
        return {"exec_time_optimization_effort": -1.0} if config.fast_compile else {}
    if platform != "gpu":
        return {}
    overlap = mesh[CONTEXT] * mesh[SPACE] > 1 if config.overlap is None else config.overlap
    options = {} if overlap else {"xla_gpu_enable_analytical_sol_latency_estimator": False}
    return options | ({"xla_gpu_force_conv_nhwc": True} if config.channels_last else {})


def local_rows(batch: int, mesh: Mesh) -> list[int]:
    """The rows of a batch that this process's devices hold parts of, in order."""
    placed = NamedSharding(mesh, PartitionSpec(DATA))
    slices = placed.addressable_devices_indices_map((batch,)).values()
    return sorted({row for (rows,) in slices for row in range(batch)[rows]})


def to_devices(batch: Tree, mesh: Mesh, size: int) -> Tree:
    """A batch of `size` episodes as global arrays, from this process's `local_rows`."""
    position = {row: i for i, row in enumerate(local_rows(size, mesh))}

    def globally(name: str, local: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            rows = [position[row] for row in range(size)[index[0]]]
            return local[rows[0] : rows[-1] + 1][(slice(None), *index[1:])]

        return jax.make_array_from_callback(
            (size, *local.shape[1:]), NamedSharding(mesh, PLACEMENT[name]), part
        )

    return type(batch)(*map(globally, batch._fields, batch))


def in_parts(batch: Tree, count: int, mesh: Mesh) -> Tree:
    """A batch as `count` equal parts along a new first axis; no row leaves its devices.

    Every part has as many rows of every device along `data`.
    """
    shards = mesh.shape[DATA]

    def parts(name: str, x: jax.Array) -> jax.Array:
        rows = x.shape[0] // count
        x = x.reshape(shards, count, rows // shards, *x.shape[1:])
        x = jnp.moveaxis(x, 1, 0).reshape(count, rows, *x.shape[3:])
        placed = PartitionSpec(None, *PLACEMENT[name])
        return lax.with_sharding_constraint(x, NamedSharding(mesh, placed))

    return type(batch)(*map(parts, batch._fields, batch))


def in_order(values: jax.Array, mesh: Mesh) -> jax.Array:
    """Values of rows in parts, `(part, row)`, in the order that the batch had before `in_parts`."""
    shards = mesh.shape[DATA]
    parts, rows = values.shape
    return jnp.moveaxis(values.reshape(parts, shards, rows // shards), 0, 1).reshape(-1)


def simulate_devices(count: int) -> None:
    """Simulate `count` CPU devices in this process; call before any device is used.

    Raises:
        ConfigError: JAX has already started with fewer.
    """
    try:
        jax.config.update("jax_num_cpu_devices", count)
        jax.config.update("jax_platforms", "cpu")
    except RuntimeError:  # JAX has started, possibly with enough devices
        pass
    if (available := jax.device_count("cpu")) < count:
        raise ConfigError(
            f"JAX has started with {available} CPU devices, so {count} cannot be simulated; use "
            "a new process"
        )


def runs_one_program_at_a_time() -> bool:
    """Whether a program must finish before the next one is dispatched.

    XLA simulates several CPU devices on few threads, so that collectives of two running programs
    can deadlock.
    """
    return jax.default_backend() == "cpu" and jax.local_device_count() > 1


def _filled(config: ParallelConfig, devices: int) -> tuple[int, int, int]:
    sizes = {DATA: config.data, CONTEXT: config.context, SPACE: config.space}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    free = [axis for axis, size in sizes.items() if size == -1]
    if devices % fixed or (not free and fixed != devices):
        fitting = _either(n for n in range(1, devices + 1) if devices % n == 0)
        others = " x ".join(axis for axis in sizes if axis not in free)
        must = f"{others} must be {fitting}" if free else f"{others} must be {devices}"
        requested = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
        raise ConfigError(f"parallel: {requested} does not fit {devices} devices; {must}")
    return tuple(devices // fixed if size == -1 else size for size in sizes.values())


def _either(numbers) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last


def _cut_over_data(shape: tuple[int, ...], shards: int) -> PartitionSpec:
    for dimension in reversed(range(len(shape))):
        if shards > 1 and shape[dimension] % shards == 0:
            return PartitionSpec(*(None,) * dimension, DATA)
    return _WHOLE


def _gathered_here(parameter: jax.Array, cut: PartitionSpec) -> jax.Array:
    if DATA not in cut:
        return differing_over((DATA, SPACE), parameter)
    parameter = differing_over((SPACE,), parameter)
    return lax.all_gather(parameter, DATA, axis=cut.index(DATA), tiled=True)
