"""Measures what an average of the weights and gradient accumulation add to a training step."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import RenderableType
from rich.table import Table

from wsicl_jax.config import ExperimentConfig, ParallelConfig
from wsicl_jax.distributed.placement import make_mesh
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.terminal.progress import track
from wsicl_jax.tools.bench.machine import machine
from wsicl_jax.train.lowering import abstract_batch, abstract_state, lower_step
from wsicl_jax.train.state import init_state, make_optimizer

_EMA = 0.999
_PARTS = (2, 4)


@dataclass(frozen=True)
class StepOption:
    """A training step with one option."""

    name: str
    seconds: tuple[float, ...]
    """Of every run, taken in turns with those of the other options."""
    temporary_bytes: int
    """As XLA plans them: activations and gradients."""
    argument_bytes: int
    """Parameters, optimizer, average and one batch."""


def options_of(config: ExperimentConfig) -> dict[str, ExperimentConfig]:
    """The compared settings by name; the first has neither option.

    Only parts that the batch can be split into are compared.
    """

    def changed(**train: Any) -> ExperimentConfig:
        return replace(config, train=replace(config.train, **{"ema": 0.0, "accumulate": 1} | train))

    options = {"neither": changed(), f"train.ema={_EMA}": changed(ema=_EMA)}
    for parts in _PARTS:
        if config.train.batch % parts == 0:
            options[f"train.accumulate={parts}"] = changed(accumulate=parts)
    return options


def bench_step(
    config: ExperimentConfig,
    *,
    contexts: int,
    repeats: int,
    show: Callable[[RenderableType], None],
) -> dict[str, Any]:
    """Show the time and memory of whole training steps on this process's first device.

    Returns the numbers for JSON. The first turn is not counted. With 0 repeats only memory is
    measured.
    """
    config = replace(config, parallel=ParallelConfig())
    options = options_of(config)
    compiled, runs = {}, {}
    with track(len(options) + repeats, "measuring") as bar:
        for name, option in options.items():
            compiled[name], runs[name] = _compiled(option, contexts)
            bar.advance()
        seconds: dict[str, list[float]] = {name: [] for name in options}
        for turn in range(repeats + 1 if repeats else 0):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if turn:
                    seconds[name].append(time.perf_counter() - start)
            bar.advance(min(turn, 1))
    found = []
    for name in options:
        memory = compiled[name].memory_analysis()
        found.append(
            StepOption(
                name,
                tuple(seconds[name]),
                memory.temp_size_in_bytes,
                memory.argument_size_in_bytes,
            )
        )
    show(machine())
    show(options_table(found, config, contexts))
    about = {"machine": machine(), "batch": config.train.batch, "contexts": contexts}
    return about | {"options": [asdict(one) for one in found]}


def options_table(found: Sequence[StepOption], config: ExperimentConfig, contexts: int) -> Table:
    """Times with their spread, and memory; the share is that of the first option's time."""
    grid = " x ".join(map(str, config.volume.grid))
    title = f"A training step: {config.train.batch} episodes, {contexts} context images, {grid}"
    table = Table("option", title=title)
    for name in ("s", "spread", "share", "temporary MB", "arguments MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        times = ("-", "-", "-")
        if one.seconds:
            median = statistics.median(one.seconds)
            times = (
                f"{median:.3f}",
                f"{min(one.seconds):.3f} to {max(one.seconds):.3f}",
                f"{median / statistics.median(found[0].seconds):.2f}",
            )
        memory = (f"{b / 1e6:,.1f}" for b in (one.temporary_bytes, one.argument_bytes))
        table.add_row(one.name, *times, *memory)
    return table


def _compiled(
    config: ExperimentConfig, contexts: int
) -> tuple[jax.stages.Compiled, Callable[[], None]]:
    """The compiled step, and a function that makes one."""
    mesh = make_mesh(config, jax.local_devices()[:1])
    compiled = lower_step(config, mesh, contexts).compile()
    _, placement = abstract_state(config, mesh)
    parameters = nnx.state(DualBranch(config.model, rngs=nnx.Rngs(config.seed)), nnx.Param)
    state = init_state(parameters, make_optimizer(config.train), config.train)
    kept = [jax.device_put(state, placement)]
    rng = np.random.default_rng(config.seed)
    batch = jax.tree.map(
        lambda x: jax.device_put(rng.random(x.shape, np.float32).astype(x.dtype), x.sharding),
        abstract_batch(config, mesh, contexts),
    )
    stop = np.zeros(1, np.int32)

    def run() -> None:
        kept[0], metrics = compiled(kept[0], batch, stop)
        jax.block_until_ready((kept[0], metrics))

    return compiled, run
