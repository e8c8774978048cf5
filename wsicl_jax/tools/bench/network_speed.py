"""The network against its PyTorch twin: a training step and a forward pass, side by side."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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

SMALL = (8, 16, 32, 64)
PUBLISHED = (32, 64, 128, 256, 512)
CASES = ((SMALL, (32, 32, 32)), (SMALL, (64, 64, 64)), (PUBLISHED, (64, 64, 64)))
"""Channels and working grid of the cases that are compared unless one is given."""

_LEARNING_RATE = 1e-5


class Inputs(NamedTuple):
    """One episode, channels last; float32."""

    target: np.ndarray
    images: np.ndarray
    prompts: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """One case: seconds of every run, taken in turns."""

    what: str
    """`training step` (loss, exact gradient, Adam) or `forward`."""
    channels: tuple[int, ...]
    grid: Shape3
    contexts: int
    ours: tuple[float, ...]
    twin: tuple[float, ...]
    """Of the faster of its two memory formats."""
    pytorch_format: str
    """Which that was."""

    @property
    def ratio(self) -> float:
        """Our median time as a share of the twin's."""
        return statistics.median(self.ours) / statistics.median(self.twin)


def bench_model(
    config: ExperimentConfig,
    cases: Sequence[tuple[tuple[int, ...], Shape3]],
    *,
    contexts: int,
    repeats: int,
    show: Callable[[RenderableType], None],
) -> dict[str, Any]:
    """Times of both networks for each case, on this process's first device and PyTorch's CPU or
    CUDA device, shown.

    Both do the same arithmetic on the same episode, one after the other in each turn; the first
    turn, which compiles, is not counted. PyTorch runs with its tensors as they are and channels
    last, and the faster of the two is compared with.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    from wsicl_jax.tools.bench.pytorch_runner import pytorch_device

    found: list[Comparison] = []
    with track(2 * len(cases), "measuring") as bar:
        for channels, grid in cases:
            model = replace(config.model, channels=channels)
            for what in ("training step", "forward"):
                bar.status(f"{what}, {channels[0]} to {channels[-1]} channels, {grid[0]}^3")
                found.append(_compared(what, model, config.train, grid, contexts, repeats))
                gc.collect()
                bar.advance()
    where = f"{machine()}; PyTorch on {pytorch_device()}"
    show(where)
    show(_table(found))
    faster = sum(one.pytorch_format == "channels last" for one in found)
    show(f"PyTorch was faster with channels last in {faster} of {len(found)} cases")
    return {
        "machine": where,
        "contexts": contexts,
        "cases": [{**asdict(one), "ratio": one.ratio} for one in found],
    }


def _compared(
    what: str, model: ModelConfig, train: TrainConfig, grid: Shape3, contexts: int, repeats: int
) -> Comparison:
    from wsicl_jax.tools.bench.pytorch_runner import FORMATS, pytorch_runner

    network = DualBranch(model, rngs=nnx.Rngs(0))
    inputs = _episode(grid, contexts)
    runners = {"ours": _runner(what, network, train, inputs)}
    for form in FORMATS:
        runners[form] = pytorch_runner(what, network, train, inputs, form)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(repeats + 1):
        for name, run in runners.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    best = min(FORMATS, key=lambda form: statistics.median(seconds[form]))
    return Comparison(
        what,
        model.channels,
        grid,
        contexts,
        tuple(seconds["ours"]),
        tuple(seconds[best]),
        best,
    )


def _runner(
    what: str, model: DualBranch, train: TrainConfig, inputs: Inputs
) -> Callable[[], object]:
    graph, parameters = nnx.split(model, nnx.Param)
    target, images, prompts, truth = map(jnp.asarray, inputs)
    if what == "forward":
        forward = jax.jit(lambda p, *given: nnx.merge(graph, p)(*given))
        return lambda: jax.block_until_ready(forward(parameters, target, images, prompts))
    loss, optimizer = make_loss(train), optax.adam(_LEARNING_RATE)

    def step(parameters, state, target, images, prompts, truth):
        def value(p):
            return loss(nnx.merge(graph, p)(target, images, prompts), truth)

        found, gradients = jax.value_and_grad(value)(parameters)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, found

    compiled = jax.jit(step, donate_argnums=(0, 1))
    held = [jax.tree.map(jnp.copy, parameters), optimizer.init(parameters)]

    def run() -> None:
        *held[:], found = compiled(*held, target, images, prompts, truth)
        jax.block_until_ready((held, found))

    return run


def _episode(grid: Shape3, contexts: int) -> Inputs:
    rng = np.random.default_rng(0)
    shapes = [(1, *grid, 1), *[(1, contexts, *grid, 1)] * 2, (1, *grid, 1)]
    target, images, prompts, truth = (rng.random(shape, np.float32) for shape in shapes)
    return Inputs(target, images, (prompts > 0.9).astype(np.float32), truth.round())


def _table(found: Sequence[Comparison]) -> Table:
    table = Table("what", "channels", "grid", title="One episode against the PyTorch twin")
    for name in ("ours (s)", "spread", "PyTorch (s)", "spread", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        table.add_row(
            one.what,
            f"{one.channels[0]} to {one.channels[-1]}",
            " x ".join(map(str, one.grid)),
            *_cells(one.ours),
            *_cells(one.twin),
            f"{one.ratio:.2f}",
        )
    return table


def _cells(seconds: Sequence[float]) -> tuple[str, str]:
    return f"{statistics.median(seconds):.3f}", f"{min(seconds):.3f} to {max(seconds):.3f}"
