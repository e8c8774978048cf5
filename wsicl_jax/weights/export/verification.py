"""Whether an exported file, run in its own runtime, gives the network's numbers."""

import functools
import time
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

_LONGEST_SIDE = 64


class Sample(NamedTuple):
    """A target with its context set, as an exported network takes them."""

    target: Float32[np.ndarray, "x y z"]
    images: Float32[np.ndarray, "context x y z"]
    prompts: Float32[np.ndarray, "context x y z"]


Runner = Callable[[Path, Sequence[Sample]], Iterator[Float[np.ndarray, "x y z"]]]
"""Reads a file and gives the output for each sample, in the format's own runtime."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far the outputs of an exported file are from those of the network in float32."""

    runtime: str
    """What ran the file."""
    grid: Shape3
    """Voxels of the samples."""
    deviations: dict[int, float]
    """By size of the context set: the largest difference, in shares of the largest output."""
    bound: float
    """What no deviation may exceed."""
    seconds: float
    """Wall time of reading and running the file."""

    @property
    def deviation(self) -> float:
        """The largest."""
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
        begun, deviations = time.monotonic(), {}
        outputs = run(path, samples)
        for sample, wanted, given in zip(samples, expected, outputs, strict=True):
            deviations[len(sample.images)] = _deviation(given, wanted)
            bar.advance()
        seconds = time.monotonic() - begun
    if not np.isfinite(expected).all():
        raise ExportError(
            "the network gives outputs that are not finite, so nothing can be compared; its "
            "parameters are of no use"
        )
    found = Comparison(
        runtime=runtime, grid=grid, deviations=deviations, bound=bound, seconds=seconds
    )
    if not found.deviation <= bound:  # a deviation that is no number is above it, too
        raise ExportError(
            f"the file deviates by {found.deviation:.1e} of the largest output in {runtime}, more "
            f"than {bound:.0e}; it was removed"
        )
    return found


def checked_grid(grid: Shape3, multiple: int) -> Shape3:
    """A grid for comparing a network that takes any: no larger than is needed."""
    x, y, z = (max(min(side, _LONGEST_SIDE) // multiple, 1) * multiple for side in grid)
    return x, y, z


def samples_on(grid: Shape3) -> list[Sample]:
    """One sample for each of `CONTEXTS`: noisy images of a bright box, by a fixed seed.

    Each has a box or a point as prompt. A smaller context set is the first part of a larger one.
    """
    rng = np.random.default_rng(0)
    most = max(CONTEXTS)
    images = rng.uniform(0, 0.5, (most + 1, *grid)).astype(np.float32)
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
    """The network's own outputs for each of `CONTEXTS`, in float32 whatever it was trained in."""
    target, images, prompts = (x[None, ..., None] for x in largest)
    wanted = np.isin(np.arange(1, max(CONTEXTS) + 1), CONTEXTS)
    graph, parameters = nnx.split(in_float32(model))
    # On the host, for arrays that are bound to a device would need a compilation of their own.
    parameters = jax.tree.map(np.asarray, parameters)
    with jax.default_matmul_precision("highest"):
        found = _after_each(graph, parameters, target, images, prompts, wanted)
    return np.asarray(found)[wanted, 0, ..., 0]


def in_float32(model: DualBranch) -> DualBranch:
    """The same parameters in a network that computes in float32, all else being the default."""
    config = ModelConfig(channels=model.config.channels)
    if model.config == config:
        return model
    graph, _ = nnx.split(DualBranch.abstract(config))
    return nnx.merge(graph, nnx.state(model))


# One function for all networks, so that each architecture and shape is compiled once.
@functools.partial(jax.jit, static_argnums=0)
def _after_each(graph, parameters, target, images, prompts, wanted):
    return nnx.merge(graph, parameters).after_each(target, images, prompts, wanted)


def _deviation(given: np.ndarray, expected: np.ndarray) -> float:
    if given.shape != expected.shape:
        raise ExportError(f"the file gives outputs of {given.shape}; expected {expected.shape}")
    largest = np.abs(expected).max()
    difference = np.abs(np.asarray(given, np.float32) - expected).max()
    return float(difference / largest if largest else difference)


def _box_in(grid: Shape3, rng: np.random.Generator) -> Box:
    starts = [int(rng.integers(0, max(side // 2, 1))) for side in grid]
    stops = [start + max(side // 3, 1) for start, side in zip(starts, grid, strict=True)]
    return Box(tuple(starts), tuple(stops))
