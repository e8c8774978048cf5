"""Runs an exported file in its own runtime and compares its outputs with the network's."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Float32

from wsicl_jax.config import ModelConfig
from wsicl_jax.errors import ExportError
from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.prompts import Point, to_channel
from wsicl_jax.terminal.progress import track

CONTEXTS = (1, 2, 5)
"""Sizes of the context set that are compared."""

_MAX_SIDE = 64


class Sample(NamedTuple):
    """Inputs of an exported network: a target with its context set."""

    target: Float32[np.ndarray, "x y z"]
    images: Float32[np.ndarray, "context x y z"]
    prompts: Float32[np.ndarray, "context x y z"]


Runner = Callable[[Path, Sequence[Sample]], Iterator[Float[np.ndarray, "x y z"]]]
"""Reads a file and yields the output for each sample, in the format's own runtime."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Deviations of an exported file's outputs from those of the network in float32."""

    runtime: str
    """Name of the runtime."""
    grid: Shape3
    """Voxels of the samples."""
    deviations: dict[int, float]
    """By size of the context set: the largest difference, as a share of the largest output."""
    bound: float
    """Largest allowed deviation."""

    @property
    def deviation(self) -> float:
        """The largest deviation."""
        return max(self.deviations.values())


def compare(
    path: Path, run: Runner, model: DualBranch, grid: Shape3, *, runtime: str, bound: float
) -> Comparison:
    """Run a file on samples and compare its outputs with the network's.

    Raises:
        ExportError: a deviation is above the bound, or an output is not finite.
    """
    samples = samples_on(grid)
    with track(2 * len(samples), "checking the file") as bar:
        bar.status("the network itself")
        expected = reference(model, samples[-1])
        bar.advance(len(samples))
        bar.status(runtime)
        deviations = {}
        outputs = run(path, samples)
        for sample, reference_output, output in zip(samples, expected, outputs, strict=True):
            deviations[len(sample.images)] = _deviation(output, reference_output)
            bar.advance()
    if not np.isfinite(expected).all():
        raise ExportError(
            "the network's outputs are not finite, so nothing can be compared; export another "
            "checkpoint"
        )
    comparison = Comparison(runtime=runtime, grid=grid, deviations=deviations, bound=bound)
    if not comparison.deviation <= bound:  # also refuses NaN
        raise ExportError(
            f"the file deviates by {comparison.deviation:.1e} of the largest output in {runtime}; "
            f"expected at most {bound:.0e}; it was removed"
        )
    return comparison


def checked_grid(grid: Shape3, multiple: int) -> Shape3:
    """A small grid for the comparison of a network that accepts any."""
    x, y, z = (max(min(side, _MAX_SIDE) // multiple, 1) * multiple for side in grid)
    return x, y, z


def samples_on(grid: Shape3) -> list[Sample]:
    """One sample for each of `CONTEXTS`: noisy images of a bright box, with a fixed seed.

    Each context image has a box or a point as prompt. A smaller context set is the first part of a
    larger one.
    """
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 0.5, (max(CONTEXTS) + 1, *grid)).astype(np.float32)
    boxes = [_box_in(grid, rng) for _ in images]
    for image, box in zip(images, boxes, strict=True):
        image[box.slices] += 0.5
    prompts = [
        box if number % 2 else Point(*(float(start) for start in box.start))
        for number, box in enumerate(boxes[1:], 1)
    ]
    channels = np.stack([to_channel([prompt], grid) for prompt in prompts])
    return [Sample(images[0], images[1 : 1 + size], channels[:size]) for size in CONTEXTS]


def reference(model: DualBranch, largest: Sample) -> Float32[np.ndarray, "size x y z"]:
    """The network's own outputs for each of `CONTEXTS`, in float32 whatever its precision."""
    target, images, prompts = (x[None, ..., None] for x in largest)
    is_compared = np.isin(np.arange(1, max(CONTEXTS) + 1), CONTEXTS)
    graph, parameters = nnx.split(in_float32(model))
    # On the host, because arrays on a device would need another compilation.
    parameters = jax.tree.map(np.asarray, parameters)
    with jax.default_matmul_precision("highest"):
        outputs = _after_each(graph, parameters, target, images, prompts, is_compared)
    return np.asarray(outputs)[is_compared, 0, ..., 0]


def in_float32(model: DualBranch) -> DualBranch:
    """The same parameters in a network that computes in float32, with default settings."""
    config = ModelConfig(channels=model.config.channels)
    if model.config == config:
        return model
    graph, _ = nnx.split(DualBranch.abstract(config))
    return nnx.merge(graph, nnx.state(model))


# One function for all networks, so that each architecture and shape is compiled once.
@functools.partial(jax.jit, static_argnums=0)
def _after_each(graph, parameters, target, images, prompts, is_compared):
    return nnx.merge(graph, parameters).after_each(target, images, prompts, is_compared)


def _deviation(output: np.ndarray, expected: np.ndarray) -> float:
    if output.shape != expected.shape:
        raise ExportError(f"the file gives outputs of {output.shape}; expected {expected.shape}")
    largest = np.abs(expected).max()
    difference = np.abs(np.asarray(output, np.float32) - expected).max()
    return float(difference / largest if largest else difference)


def _box_in(grid: Shape3, rng: np.random.Generator) -> Box:
    starts = [int(rng.integers(0, max(side // 2, 1))) for side in grid]
    stops = [start + max(side // 3, 1) for start, side in zip(starts, grid, strict=True)]
    return Box(tuple(starts), tuple(stops))
