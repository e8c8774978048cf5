"""Counts what devices exchange and compute, by mesh, in the compiled network. Nothing is run."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from jax.stages import Compiled
from rich.console import RenderableType
from rich.table import Table

from wsicl_jax.config import ExperimentConfig, ParallelConfig
from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.distributed.collectives import collective_bytes
from wsicl_jax.distributed.placement import make_mesh, mesh_sizes, simulate_devices
from wsicl_jax.errors import ConfigError
from wsicl_jax.model import ops
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.terminal.progress import track
from wsicl_jax.train.lowering import abstract_batch, abstract_state, lower_step
from wsicl_jax.train.state import TrainState
from wsicl_jax.train.step import make_predict

EXCHANGED_CONTEXTS = 8
"""Default size of the context set."""

# The collectives are fixed before the part of the compilation that this skips.
_FAST_COMPILATION = {"xla_backend_optimization_level": 0}


@dataclass(frozen=True)
class Exchange:
    """One pass of the network on one mesh, per device."""

    mesh: tuple[int, int, int]
    """Devices along data, context and space."""
    shard_parameters: bool
    forward: dict[str, int]
    """Bytes received in a forward pass, by kind of collective."""
    step: dict[str, int]
    """Bytes received in a training step without `augment.gin`, which few steps have."""
    forward_flops: float
    """XLA's count for a forward pass without loops, for XLA counts a loop's body once."""


def bench_exchange(
    config: ExperimentConfig,
    contexts: int,
    devices: int,
    *,
    show: Callable[[RenderableType], None],
) -> dict[str, Any]:
    """Show what simulated devices exchange as a table; return the numbers for JSON.

    Raises:
        ConfigError: no mesh of so many devices fits the batch and the grid.
    """
    # The exact gradient, because the truncated one cannot use `context` devices.
    context = replace(config.model.context, gradient="exact")
    config = replace(config, model=replace(config.model, context=context))
    meshes = [mesh for mesh in compared_meshes(devices) if _fits(config, mesh, contexts, devices)]
    if not meshes:
        raise ConfigError(
            f"train.batch = {config.train.batch}, {contexts} contexts and volume.grid = "
            f"{config.volume.grid} fit no mesh of {devices} devices; use multiples of {devices}"
        )
    simulate_devices(devices)
    measured = []
    with track(len(meshes), "compiling") as bar:
        for mesh in meshes:
            bar.status(f"data {mesh.data}, context {mesh.context}, space {mesh.space}")
            # XLA counts no operations within library calls.
            with ops.portable_lowering():
                measured.append(_exchange(replace(config, parallel=mesh), contexts, devices))
            bar.advance()
    title = f"A device's share of {config.train.batch} episodes with {contexts} contexts"
    show(exchange_table(f"{title}, by mesh", measured))
    return {"contexts": contexts, "exchange": [asdict(one) for one in measured]}


def compared_meshes(devices: int) -> list[ParallelConfig]:
    """All devices along each axis in turn, and along two or three axes if divisible by four."""
    sizes = [(devices, 1, 1), (1, devices, 1), (1, 1, devices)]
    if devices % 4 == 0:
        sizes += [(2, devices // 2, 1), (2, 1, devices // 2), (2, 2, devices // 4)]
    meshes = [ParallelConfig(data=d, context=c, space=s) for d, c, s in dict.fromkeys(sizes)]
    return [*meshes, ParallelConfig(data=devices, shard_parameters=True)]


def _exchange(config: ExperimentConfig, contexts: int, devices: int) -> Exchange:
    mesh = make_mesh(config, jax.devices()[:devices])
    state, _ = abstract_state(config, mesh)
    batch = abstract_batch(config, mesh, contexts)
    at_once = replace(config.model, context=replace(config.model.context, mini_context=0))
    without_gin = replace(config, augment=replace(config.augment, gin=0))
    counted = _forward(replace(config, model=at_once), mesh, state, batch)
    step = lower_step(without_gin, mesh, contexts).compile(_FAST_COMPILATION)
    return Exchange(
        tuple(mesh.devices.shape),
        config.parallel.shard_parameters,
        collective_bytes(_forward(config, mesh, state, batch).as_text()),
        collective_bytes(step.as_text()),
        counted.cost_analysis()["flops"],
    )


def _forward(config: ExperimentConfig, mesh: Mesh, state: TrainState, batch: Episode) -> Compiled:
    graph = nnx.graphdef(DualBranch.abstract(config.model))
    predict = jax.jit(make_predict(graph, config, mesh))
    return predict.lower(state.parameters, batch, jax.random.key(0)).compile(_FAST_COMPILATION)


def exchange_table(title: str, measured: Sequence[Exchange]) -> Table:
    """A row for each mesh: what a device receives and computes."""
    table = Table(title=title)
    table.add_column("data x context x space")
    for column in ("forward: MB", "halo exchange", "training step: MB", "forward: GFLOP"):
        table.add_column(column, justify="right")
    for one in measured:
        mesh = " x ".join(map(str, one.mesh))
        table.add_row(
            f"{mesh}, parameters cut" if one.shard_parameters else mesh,
            f"{sum(one.forward.values()) / 1e6:,.2f}",
            f"{one.forward.get('collective-permute', 0) / 1e6:,.2f}",
            f"{sum(one.step.values()) / 1e6:,.2f}",
            f"{one.forward_flops / 1e9:,.2f}",
        )
    return table


def _fits(config: ExperimentConfig, mesh: ParallelConfig, contexts: int, devices: int) -> bool:
    try:
        mesh_sizes(replace(config, parallel=mesh), devices)
    except ConfigError:
        return False
    return contexts % mesh.context == 0
