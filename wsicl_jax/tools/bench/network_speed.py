"""Times a training step and a forward pass of the network and of the same in PyTorch."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from rich.console import RenderableType
from rich.table import Table

from wsicl_jax.config import ExperimentConfig, ModelConfig, TrainConfig
from wsicl_jax.geometry.axes import Shape3
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.model.losses import make_loss
from wsicl_jax.terminal.progress import track
from wsicl_jax.tools.bench.machine import machine
from wsicl_jax.tools.bench.timed_episode import LEARNING_RATE, TimedEpisode, random_episode

SMALL = (8, 16, 32, 64)
PUBLISHED = (32, 64, 128, 256, 512)
CASES = ((SMALL, (32, 32, 32)), (SMALL, (64, 64, 64)), (PUBLISHED, (64, 64, 64)))
"""Channels and working grid of the cases that are compared unless one is given."""


@dataclass(frozen=True)
class Comparison:
    """One case: seconds of every run, taken in turns."""

    operation: str
    """`training step` (loss, exact gradient, Adam) or `forward`."""
    channels: tuple[int, ...]
    grid: Shape3
    contexts: int
    jax_seconds: tuple[float, ...]
    jax_processor_seconds: tuple[float, ...]
    """Of all threads: comparable on a busy machine too."""
    pytorch_seconds: tuple[float, ...]
    """Of the faster memory format."""
    pytorch_format: str
    """The faster memory format."""

    @property
    def ratio(self) -> float:
        """Median seconds in JAX as a share of those in PyTorch."""
        return statistics.median(self.jax_seconds) / statistics.median(self.pytorch_seconds)


def bench_model(
    config: ExperimentConfig,
    cases: Sequence[tuple[tuple[int, ...], Shape3]],
    *,
    contexts: int,
    repeats: int,
    show: Callable[[RenderableType], None],
) -> dict[str, Any]:
    """Show the times of both networks for each case, and return them for JSON.

    JAX uses this process's first device, PyTorch the CPU or its CUDA device. Both do the same
    arithmetic on the same episode, in turns. The first turn, which compiles, is not counted.
    PyTorch runs in two memory formats, of which the faster is compared.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    from wsicl_jax.tools.bench.pytorch_runner import pytorch_device

    comparisons: list[Comparison] = []
    with track(2 * len(cases), "measuring") as bar:
        for channels, grid in cases:
            model = replace(config.model, channels=channels)
            for operation in ("training step", "forward"):
                bar.status(f"{operation}, {channels[0]} to {channels[-1]} channels, {grid[0]}^3")
                comparisons.append(
                    _compare(operation, model, config.train, grid, contexts, repeats)
                )
                gc.collect()
                bar.advance()
    devices = f"{machine()}; PyTorch on {pytorch_device()}"
    show(devices)
    show(_table(comparisons))
    faster = sum(one.pytorch_format == "channels last" for one in comparisons)
    show(f"PyTorch was faster with channels last in {faster} of {len(comparisons)} cases")
    return {
        "machine": devices,
        "contexts": contexts,
        "cases": [{**asdict(one), "ratio": one.ratio} for one in comparisons],
    }


def _compare(
    operation: str,
    model: ModelConfig,
    train: TrainConfig,
    grid: Shape3,
    contexts: int,
    repeats: int,
) -> Comparison:
    from wsicl_jax.tools.bench.pytorch_runner import FORMATS, pytorch_runner

    network = DualBranch(model, rngs=nnx.Rngs(0))
    episode = random_episode(grid, contexts)
    runners = {"jax": _jax_runner(operation, network, train, episode)}
    for format in FORMATS:
        runners[format] = pytorch_runner(operation, network, train, episode, format)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    processor: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(repeats + 1):
        for name, run in runners.items():
            start, of_processor = time.perf_counter(), time.process_time()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - of_processor)
    best = min(FORMATS, key=lambda format: statistics.median(seconds[format]))
    times = tuple(seconds["jax"]), tuple(processor["jax"]), tuple(seconds[best])
    return Comparison(operation, model.channels, grid, contexts, *times, best)


def _jax_runner(
    operation: str, model: DualBranch, train: TrainConfig, episode: TimedEpisode
) -> Callable[[], object]:
    graph, parameters = nnx.split(model, nnx.Param)
    target, images, prompts, truth = map(jnp.asarray, episode)
    if operation == "forward":
        forward = jax.jit(lambda p, *inputs: nnx.merge(graph, p)(*inputs))
        return lambda: jax.block_until_ready(forward(parameters, target, images, prompts))
    loss, optimizer = make_loss(train), optax.adam(LEARNING_RATE)

    def step(parameters, state, target, images, prompts, truth):
        def value(p):
            return loss(nnx.merge(graph, p)(target, images, prompts), truth)

        loss_value, gradients = jax.value_and_grad(value)(parameters)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, loss_value

    compiled = jax.jit(step, donate_argnums=(0, 1))
    state = [jax.tree.map(jnp.copy, parameters), optimizer.init(parameters)]

    def run() -> None:
        *state[:], loss_value = compiled(*state, target, images, prompts, truth)
        jax.block_until_ready((state, loss_value))

    return run


def _table(comparisons: Sequence[Comparison]) -> Table:
    table = Table("operation", "channels", "grid", title="One episode in JAX and in PyTorch")
    for name in ("JAX (s)", "spread", "PyTorch (s)", "spread", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in comparisons:
        table.add_row(
            one.operation,
            f"{one.channels[0]} to {one.channels[-1]}",
            " x ".join(map(str, one.grid)),
            *_cells(one.jax_seconds),
            *_cells(one.pytorch_seconds),
            f"{one.ratio:.2f}",
        )
    return table


def _cells(seconds: Sequence[float]) -> tuple[str, str]:
    return f"{statistics.median(seconds):.3f}", f"{min(seconds):.3f} to {max(seconds):.3f}"
