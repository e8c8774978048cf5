"""Measures memory and time of loss and gradient against the size of the context set."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import RenderableType
from rich.table import Table

from wsicl_jax.config import ContextConfig, ExperimentConfig
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.model.losses import make_loss
from wsicl_jax.terminal.progress import track
from wsicl_jax.tools.bench.machine import machine

_MAX_SHARE_OF_MEMORY = 0.6
"""A program that needs more of the free memory is compiled, but not run."""

_REMAT_CONTEXTS = 8
"""Size of the context set for the comparison of the levels of remat."""


@dataclass(frozen=True)
class Cost:
    """Cost of loss and gradient with one processing of the context set, at one size of it."""

    processing: str
    """Name of the settings `model.context`."""
    contexts: int
    temporary_bytes: int
    """As XLA reports them: without parameters, gradients and inputs."""
    compile_seconds: float
    seconds: float | None
    """Of the fastest repeat; None if it was not run."""


def bench_context(
    config: ExperimentConfig,
    sizes: Sequence[int],
    *,
    repeats: int,
    show: Callable[[RenderableType], None],
) -> dict[str, Any]:
    """Show the cost of a context set on this machine as tables; return the numbers for JSON."""
    context = config.model.context
    by_size = measure(config, processings(context), sizes, repeats=repeats)
    show(machine())
    show(cost_table("Loss and gradient of one episode, by size of the context set", by_size))
    show(compile_table("Seconds to compile it", by_size))
    by_remat = measure(config, remat_levels(context), [_REMAT_CONTEXTS], repeats=repeats)
    show(cost_table("The same, by what the backward pass recomputes", by_remat))
    return {
        "machine": machine(),
        "by_size": [asdict(cost) for cost in by_size],
        "by_remat": [asdict(cost) for cost in by_remat],
    }


def processings(config: ContextConfig) -> dict[str, ContextConfig]:
    """The settings that are compared over sizes of the context set, by name."""
    size = config.mini_context or 1
    return {
        f"exact, {size} at a time": replace(config, mini_context=size, gradient="exact"),
        f"truncated, {size} at a time": replace(config, mini_context=size, gradient="truncated"),
        "exact, no remat": replace(config, mini_context=size, gradient="exact", remat="none"),
        "exact, all at once": replace(config, mini_context=0, gradient="exact", remat="none"),
    }


def remat_levels(config: ContextConfig) -> dict[str, ContextConfig]:
    """The three levels of rematerialization, at the configured size of a mini-context."""
    size = config.mini_context or 1
    exact = replace(config, mini_context=size, gradient="exact")
    return {level: replace(exact, remat=level) for level in ("none", "context", "stage")}


def measure(
    config: ExperimentConfig,
    compared: Mapping[str, ContextConfig],
    sizes: Sequence[int],
    *,
    repeats: int,
) -> list[Cost]:
    """Cost of each processing at each size, for one episode on this process's first device.

    With 0 repeats nothing is run: only memory and time to compile are measured.
    """
    costs = []
    pairs = [(name, contexts) for contexts in sizes for name in compared]
    with track(len(pairs), "measuring") as bar:
        for name, contexts in pairs:
            bar.status(f"{name}, {contexts} contexts")
            model = replace(config.model, context=compared[name])
            costs.append(_cost(replace(config, model=model), name, contexts, repeats))
            bar.advance()
    return costs


def cost_table(title: str, costs: Sequence[Cost]) -> Table:
    """Temporary memory and time: a row for each size, two columns for each processing."""
    headings = [heading for name in _names(costs) for heading in (f"{name}: MB", "s")]
    return _table_by_size(title, headings, costs, _cells)


def compile_table(title: str, costs: Sequence[Cost]) -> Table:
    """Seconds to compile: a row for each size, a column for each processing."""
    return _table_by_size(
        title, _names(costs), costs, lambda cost: (f"{cost.compile_seconds:.1f}",)
    )


def _table_by_size(
    title: str,
    headings: Sequence[str],
    costs: Sequence[Cost],
    cells: Callable[[Cost], tuple[str, ...]],
) -> Table:
    table = Table(title=title)
    for heading in ("contexts", *headings):
        table.add_column(heading, justify="right")
    for contexts in dict.fromkeys(cost.contexts for cost in costs):
        row = {cost.processing: cost for cost in costs if cost.contexts == contexts}
        table.add_row(str(contexts), *(cell for name in _names(costs) for cell in cells(row[name])))
    return table


def _names(costs: Sequence[Cost]) -> list[str]:
    return list(dict.fromkeys(cost.processing for cost in costs))


def _cost(config: ExperimentConfig, processing: str, contexts: int, repeats: int) -> Cost:
    graph, abstract = nnx.split(DualBranch.abstract(config.model), nnx.Param)
    loss = make_loss(config.train)

    @jax.jit
    def value_and_gradient(parameters, target, truth, *context):
        return jax.value_and_grad(lambda p: loss(nnx.merge(graph, p)(target, *context), truth))(
            parameters
        )

    grid = config.volume.grid
    shapes = [(1, *grid, 1), (1, *grid, 1), *[(1, contexts, *grid, 1)] * 2]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    start = time.perf_counter()
    compiled = value_and_gradient.lower(abstract, *inputs).compile()
    compile_seconds = time.perf_counter() - start
    needed = compiled.memory_analysis().temp_size_in_bytes
    seconds = None
    if repeats and needed < _MAX_SHARE_OF_MEMORY * _free_memory():
        model = DualBranch(config.model, rngs=nnx.Rngs(config.seed))
        rng = np.random.default_rng(config.seed)
        arrays = [jnp.asarray(rng.random(shape, np.float32)) for shape in shapes]
        seconds = _fastest(compiled, (nnx.state(model, nnx.Param), *arrays), repeats)
    return Cost(processing, contexts, needed, compile_seconds, seconds)


def _fastest(compiled, arguments: tuple, repeats: int) -> float:
    jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _free_memory() -> int:
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cells(cost: Cost) -> tuple[str, str]:
    seconds = "-" if cost.seconds is None else f"{cost.seconds:.3g}"
    return f"{cost.temporary_bytes / 1e6:,.0f}", seconds
