"""The kinds of prompts, and the time that a person needs for each."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.config import PromptKind
from wsicl_jax.geometry.axes import Box, Index3

SECONDS: dict[PromptKind, float] = {
    "point": 5.0,
    "box": 10.0,
    "scribble": 10.0,
    "box3d": 20.0,
    "mask2d": 80.0,
    "mask": 1600.0,
}
"""Annotation time of one prompt. Points, boxes and masks: the paper's approximation. Our
assumptions: a scribble takes as long as a box, a 3D box as long as two boxes."""

ONCE_PER_IMAGE: tuple[PromptKind, ...] = ("mask", "box3d")
"""Kinds that describe the whole structure: one per image, for any requested number."""


class Point(NamedTuple):
    """A position inside the structure, in voxels (centres at whole numbers)."""

    x: float
    y: float
    z: float


class Scribble(NamedTuple):
    """A line inside the structure: positions in voxels, joined by straight segments."""

    path: tuple[tuple[float, float, float], ...]


class SliceMask(NamedTuple):
    """The structure on one slice. It contains an array, so `==` does not work."""

    axis: int
    """Axis across the slice."""
    index: int
    """The slice's index along that axis."""
    mask: Bool[np.ndarray, "a b"]
    """Mask of the slice, the other two axes in their order."""

    @property
    def box(self) -> Box:
        """The whole slice, one voxel thick."""
        start, stop = [0, 0, 0], list(np.insert(self.mask.shape, self.axis, 1).tolist())
        start[self.axis], stop[self.axis] = self.index, self.index + 1
        return Box(_index(start), _index(stop))


class Negative(NamedTuple):
    """A point or a scribble outside the structure: what it marks does not belong to it."""

    prompt: Point | Scribble


Mask = Bool[np.ndarray, "x y z"]
Prompt = Point | Box | Scribble | SliceMask | Negative | Mask


def kind_of(prompt: Prompt) -> PromptKind:
    """The kind of a prompt; a box with an extent of one voxel along an axis is on a slice.

    A negative prompt is of the kind of the point or scribble that it is.
    """
    if isinstance(prompt, Negative):
        return kind_of(prompt.prompt)
    if isinstance(prompt, Box):
        return "box" if 1 in prompt.extent else "box3d"
    kinds: dict[type, PromptKind] = {Point: "point", Scribble: "scribble", SliceMask: "mask2d"}
    return kinds.get(type(prompt), "mask")


def positions_of(prompt: Point | Scribble) -> Float[np.ndarray, "n 3"]:
    """The positions of a point or a scribble, in voxels."""
    return np.array([prompt] if isinstance(prompt, Point) else prompt.path, np.float64)


def has_positive(prompts: Iterable[Prompt]) -> bool:
    """Whether any of the prompts marks the structure itself."""
    return any(not isinstance(prompt, Negative) for prompt in prompts)


def annotation_seconds(prompts: Iterable[Prompt]) -> float:
    """Annotation time of prompts in seconds."""
    return sum((SECONDS[kind_of(prompt)] for prompt in prompts), 0.0)


def _index(values: list[int]) -> Index3:
    x, y, z = values
    return x, y, z
