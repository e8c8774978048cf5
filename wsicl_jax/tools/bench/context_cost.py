"""What a context set costs: memory and time of value and gradient against its size."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import RenderableType
from rich.table import Table

from wsicl_jax.config import ContextConfig, ExperimentConfig, config_to_dict
from wsicl_jax.errors import WsiclError
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.model.losses import make_loss
from wsicl_jax.terminal.progress import track
from wsicl_jax.tools.bench.device_exchange import EXCHANGED_CONTEXTS, exact, fitting_meshes
from wsicl_jax.tools.bench.machine import machine

_SHARE_OF_MEMORY = 0.6
"""What needs more of the free memory than this is compiled, but not run."""

_REMAT_CONTEXTS = 8
"""Size of the context set with which the levels of remat are compared."""


@dataclass(frozen=True)
class Cost:
    """One way of computing loss and gradient at one size of the context set."""

    way: str
    contexts: int
    temporary_bytes: int
    """As XLA reports it: everything but parameters, gradients and inputs."""
    compile_seconds: float
    seconds: float | None
    """Of one evaluation, the fastest of the repeats; None if it was not run."""


def bench_context(
    config: ExperimentConfig,
    sizes: Sequence[int],
    devices: int,
    *,
    repeats: int,
    show: Callable[[RenderableType], None],
) -> dict[str, Any]:
    """The tables of a context set's cost on this machine, shown; and their numbers.

    What devices exchange is found by a process of its own, which simulates them.
    """
    context = config.model.context
    fitting_meshes(exact(config), EXCHANGED_CONTEXTS, devices)  # told before the measuring
    by_size = measure(config, ways(context), sizes, repeats=repeats)
    show(machine())
    show(cost_table("Loss and gradient of one episode, by size of the context set", by_size))
    show(compile_table("Seconds to compile it", by_size))
    by_remat = measure(config, remat_levels(context), [_REMAT_CONTEXTS], repeats=repeats)
    show(cost_table("The same, by what the backward pass computes anew", by_remat))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "exchange.json"
        overrides = [f"{key}={json.dumps(value)}" for key, value in _flat(config)]
        command = [sys.executable, "-m", "wsicl_jax", "bench", "exchange", *overrides]
        done = subprocess.run([*command, "--devices", str(devices), "--json", str(file)])
        if done.returncode:
            raise WsiclError("what devices exchange could not be found out, see above")
        exchange = json.loads(file.read_text())["exchange"]
    return {
        "machine": machine(),
        "by_size": [asdict(cost) for cost in by_size],
        "by_remat": [asdict(cost) for cost in by_remat],
        "exchange": exchange,
    }


def ways(config: ContextConfig) -> dict[str, ContextConfig]:
    """What is compared over sizes of the context set; exact is given as it is configured."""
    size = config.mini_context or 1
    return {
        f"exact, {size} at a time": replace(config, mini_context=size, gradient="exact"),
        f"truncated, {size} at a time": replace(config, mini_context=size, gradient="truncated"),
        "exact, no remat": replace(config, mini_context=size, gradient="exact", remat="none"),
        "exact, all at once": replace(config, mini_context=0, gradient="exact", remat="none"),
    }


def remat_levels(config: ContextConfig) -> dict[str, ContextConfig]:
    """The three levels of recomputation, at the configured size of a mini-context."""
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
    """The cost of each way at each size, for one episode on this process's first device.

    With 0 repeats nothing is run, and memory and time to compile are all that is found.
    """
    costs = []
    pairs = [(way, contexts) for contexts in sizes for way in compared]
    with track(len(pairs), "measuring") as bar:
        for way, contexts in pairs:
            bar.status(f"{way}, {contexts} contexts")
            model = replace(config.model, context=compared[way])
            costs.append(_cost(replace(config, model=model), way, contexts, repeats))
            bar.advance()
    return costs


def cost_table(title: str, costs: Sequence[Cost]) -> Table:
    """Temporary memory and time: a row for each size, two columns for each way."""
    names = list(dict.fromkeys(cost.way for cost in costs))
    table = Table(title=title)
    table.add_column("contexts", justify="right")
    for name in names:
        table.add_column(f"{name}: MB", justify="right")
        table.add_column("s", justify="right")
    for contexts in dict.fromkeys(cost.contexts for cost in costs):
        row = {cost.way: cost for cost in costs if cost.contexts == contexts}
        cells = (cell for name in names for cell in _cells(row[name]))
        table.add_row(str(contexts), *cells)
    return table


def compile_table(title: str, costs: Sequence[Cost]) -> Table:
    """Seconds to compile: a row for each size, a column for each way."""
    names = list(dict.fromkeys(cost.way for cost in costs))
    table = Table(title=title)
    for heading in ("contexts", *names):
        table.add_column(heading, justify="right")
    for contexts in dict.fromkeys(cost.contexts for cost in costs):
        row = {cost.way: cost.compile_seconds for cost in costs if cost.contexts == contexts}
        table.add_row(str(contexts), *(f"{row[name]:.1f}" for name in names))
    return table


def _flat(config: ExperimentConfig) -> Iterator[tuple[str, Any]]:
    settings = config_to_dict(config)
    for section in ("model", "volume", "train"):
        for key, value in settings[section].items():
            yield f"{section}.{key}", value


def _cost(config: ExperimentConfig, way: str, contexts: int, repeats: int) -> Cost:
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
    if repeats and needed < _SHARE_OF_MEMORY * _free_memory():
        model = DualBranch(config.model, rngs=nnx.Rngs(config.seed))
        rng = np.random.default_rng(config.seed)
        arrays = [jnp.asarray(rng.random(shape, np.float32)) for shape in shapes]
        seconds = _fastest(compiled, (nnx.state(model, nnx.Param), *arrays), repeats)
    return Cost(way, contexts, needed, compile_seconds, seconds)


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
