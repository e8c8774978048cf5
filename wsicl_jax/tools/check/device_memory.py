"""Computes how the arrays of training are placed on a mesh, and the memory that a device needs."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding

from wsicl_jax.config import ExperimentConfig
from wsicl_jax.distributed.mesh import DATA
from wsicl_jax.model import ops
from wsicl_jax.tools.check.chip_compiler import Compiled
from wsicl_jax.train.lowering import lower_step

_COMPILED_DEVICES = 256
"""Largest number of devices for which the step is compiled; more along `data` change no device."""


class Placed(NamedTuple):
    """An array and the part of it that one device holds."""

    name: str
    shape: tuple[int, ...]
    part: tuple[int, ...]
    itemsize: int
    cut: str
    """How it is divided over devices, in words."""

    @property
    def size(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.itemsize

    @property
    def size_of_part(self) -> int:
        """Bytes on each device."""
        return math.prod(self.part) * self.itemsize


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
    """Temporary memory of the compiled training step on each device, and the number of devices.

    That number may be smaller than the mesh: `data` and the batch are shortened alike, so that
    each device has the same part.
    """
    config, mesh = shortened(config, mesh)
    with ops.native_lowering():
        lowered = lower_step(config, mesh, contexts)
    # XLA plans memory before the optimizations that this skips.
    compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
    return compiled.memory_analysis().temp_size_in_bytes, mesh.size


def memory_needed(
    parameters: list[Placed],
    optimizer: list[Placed],
    batch: list[Placed],
    temporary: int,
    ema: Sequence[Placed] = (),
) -> dict[str, int]:
    """Bytes that each device needs in training, by purpose."""
    # XLA counts gradients as temporary; they are as large and as divided as the parameters.
    gradients = min(on_device(parameters), temporary)
    return {
        "parameters": on_device(parameters),
        "gradients": gradients,
        "optimiser state": on_device(optimizer),
        **({"averaged parameters": on_device(ema)} if ema else {}),
        "inputs of a step": on_device(batch),
        "inputs of the next step": on_device(batch),
        "activations and other temporary memory": temporary - gradients,
    }


def memory_on_chip(
    parameters: list[Placed],
    optimizer: list[Placed],
    batch: list[Placed],
    compiled: Compiled,
    ema: Sequence[Placed] = (),
) -> dict[str, int]:
    """As `memory_needed`, with all that the chip's compiler plans."""
    needed = memory_needed(parameters, optimizer, batch, compiled.temporary, ema)
    given = on_device([*parameters, *optimizer, *batch, *ema])
    needed["padding and counters"] = compiled.arguments - given
    needed["results and code"] = compiled.results - compiled.reused + compiled.code
    return needed


class HostRows(NamedTuple):
    """The episodes that each host reads."""

    rows: list[range]
    """By host: rows of every batch."""
    readers: int
    """Largest number of hosts that read the same episode, because each holds a part of it."""


def rows_of_hosts(batch: int, sizes: tuple[int, int, int], hosts: int) -> HostRows:
    """The rows of every batch that each host reads; a host has consecutive devices.

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


def shortened(config: ExperimentConfig, mesh: Mesh) -> tuple[ExperimentConfig, Mesh]:
    """The same with fewer devices along `data`, if there are many; each has the same part."""
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
