"""Context images and targets on the working grid, and at full resolution for refinement."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt16

from wsicl_jax.config import ReadingConfig, VolumeConfig
from wsicl_jax.data.images import Volume
from wsicl_jax.errors import PromptError, located
from wsicl_jax.geometry.axes import Box, Shape3, spacing_of
from wsicl_jax.geometry.grids import WorkingGrid, content_box
from wsicl_jax.geometry.intensity import normalise
from wsicl_jax.inference.inputs.example import UNNAMED, Example
from wsicl_jax.inference.inputs.images import as_label_map, as_path, as_volume
from wsicl_jax.prompts import (
    Prompt,
    box_around,
    kind_of,
    on_crop,
    on_grid,
    to_channel,
    turned_bounds,
)
from wsicl_jax.terminal.progress import track

_STEPS = np.iinfo(np.uint16).max
"""Steps of intensities at full resolution; percentiles cut off a thousand times as much."""

BYTES_PER_VOXEL = 4 + 4 + 4
"""Peak memory of `prepare_image`: the image, its normalised copy, and a smoothed copy."""


class PreparedImage(NamedTuple):
    """One image, context image or target."""

    shape: Shape3
    """Voxels of the whole image, along its own axes."""
    affine: Float[np.ndarray, "4 4"]
    """From voxels of the whole image to RAS+ mm."""
    crop: Box
    """The box without margins, in voxels of the whole image. All fields below are of this box."""
    grid: WorkingGrid
    """From the image to the network's input."""
    image: Float[np.ndarray, "X Y Z"]
    """On the working grid, in [0, 1]."""
    full: UInt16[np.ndarray, "x y z"] | None
    """At full resolution, 0 to 1 in 65,536 steps; None without refinement."""
    remarks: tuple[str, ...] = ()
    """Likely mistakes in the image."""

    @property
    def is_whole(self) -> bool:
        """Whether no margins were cut off."""
        return self.crop.extent == self.shape

    @property
    def spacing_mm(self) -> Float[np.ndarray, "3"]:
        """Spacing of the image turned to RAS+."""
        return np.array(spacing_of(self.affine))[list(self.grid.order)]

    def on(self, grid: WorkingGrid) -> Float[np.ndarray, "X Y Z"]:
        """The image on a grid over a part of it, from full resolution, in [0, 1]."""
        if self.full is None:
            raise ValueError("the image was prepared without full resolution")
        return grid.image(self.full) / np.float32(_STEPS)


class CroppedMask(NamedTuple):
    """A mask without its empty surroundings, which are most of a large image."""

    shape: Shape3
    box: Box
    inside: Bool[np.ndarray, "_ _ _"]

    def whole(self) -> Bool[np.ndarray, "x y z"]:
        """The mask in the shape of its image."""
        mask = np.zeros(self.shape, bool)
        mask[self.box.slices] = self.inside
        return mask


class PreparedContext(NamedTuple):
    """A context image with its prompts, for any target."""

    image: PreparedImage
    prompts: Sequence[Prompt | CroppedMask]
    """In voxels of the cropped image; empty without refinement."""
    placed: Sequence[Prompt]
    """The prompts in voxels of the working grid."""
    marks: bool
    """Whether any voxel of the working grid is marked as inside."""
    prompt_bounds: tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]] | None
    """The box around all prompts, in voxels of the turned image; None without refinement."""


def content_of(volume: Volume, config: VolumeConfig) -> Box:
    """The box of an image without its margins; the whole image if the setting says so."""
    whole = Box((0, 0, 0), volume.image.shape)
    return content_box(volume.image) if config.crop else whole


def prepare_image(
    volume: Volume, config: VolumeConfig, *, full: bool, crop: Box | None = None
) -> PreparedImage:
    """Crop an image to a box (default: its content), normalise it and resize it.

    `full` keeps it at full resolution too.
    """
    crop = crop or content_of(volume, config)
    grid = WorkingGrid.of(crop.extent, volume.affine, config.grid)
    image = normalise(volume.image[crop.slices], config.percentiles)
    on_grid = grid.image(image)
    kept = None
    if full:
        image *= _STEPS
        kept = np.rint(image, out=image).astype(np.uint16)
    return PreparedImage(volume.image.shape, volume.affine, crop, grid, on_grid, kept)


def prepare_contexts(
    structures: Mapping[str, Sequence[Example]],
    config: VolumeConfig,
    reading: ReadingConfig,
    *,
    full: bool,
) -> tuple[dict[str, list[PreparedContext]], tuple[str, ...]]:
    """Prepare the context images of all structures, and list likely mistakes in them.

    Each image is read once, however many structures use it.

    Raises:
        DataError: an image or a label map cannot be read or used, or is too large for memory.
        PromptError: an example has no prompt, or one that does not fit its image.
    """
    jobs = [
        (name, place, example)
        for name, examples in structures.items()
        for place, example in enumerate(examples)
    ]
    # Examples that share an image, and then a mask, follow each other.
    first: dict[object, int] = {}
    for job in jobs:
        first.setdefault(_identity(job[2].image), len(first))
    jobs.sort(key=lambda job: first[_identity(job[2].image)])
    read_image = functools.lru_cache(maxsize=1)(functools.partial(as_volume, reading=reading))
    read_label = functools.lru_cache(maxsize=1)(functools.partial(as_label_map, reading=reading))
    last: tuple[Volume, Box, PreparedImage] | None = None
    contexts: dict[tuple[str, int], PreparedContext] = {}
    remarks: dict[tuple[str, int], list[str]] = {}
    with track(len(jobs), "reading context", show=len(jobs) > 0) as bar:
        for name, place, example in jobs:
            label = example.name or _label(name, place)
            with located("" if example.name else label):
                # Only paths can be compared, so only their content is kept.
                by_path = as_path(example.mask) is not None
                volume, prompts, notes = example.load(
                    read_image, read_label if by_path else as_label_map, reading
                )
                is_same = last is not None and last[0] is volume
                content = last[1] if is_same else content_of(volume, config)
                crop = box_with_prompts(content, prompts, volume.image.shape)
                if not is_same or last[2].crop != crop:
                    # At full resolution even if it is coarse: a target may be finer.
                    last = volume, content, prepare_image(volume, config, full=full, crop=crop)
                contexts[name, place] = prepare_context(last[2], prompts)
                remarks[name, place] = [f"{label}: {remark}" for remark in notes]
            bar.advance()
    by_structure = {n: [contexts[n, i] for i in range(len(e))] for n, e in structures.items()}
    # In the order of the structures, not of the reading.
    ordered = [
        remark for n, e in structures.items() for i in range(len(e)) for remark in remarks[n, i]
    ]
    return by_structure, tuple(ordered)


def prepare_context(image: PreparedImage, prompts: Sequence[Prompt]) -> PreparedContext:
    """A prepared image with prompts, in voxels of the whole image, as a context image.

    Prompts that reach into the margins are cut there.

    Raises:
        PromptError: a prompt lies outside the image or in its margins, is empty, or a mask has
            another shape.
    """
    placed = prompts_on_grid(image, prompts)
    marks = bool((to_channel(placed, image.grid.grid) > 0).any())
    if image.full is None:
        return PreparedContext(image, (), placed, marks, None)
    prompts = prompts if image.is_whole else _in_crop(prompts, image)
    kept = [_cropped(prompt) if isinstance(prompt, np.ndarray) else prompt for prompt in prompts]
    return PreparedContext(image, kept, placed, marks, turned_bounds(prompts, image.grid))


def prompts_on_grid(image: PreparedImage, prompts: Sequence[Prompt]) -> list:
    """Prompts in voxels of the whole image on its working grid.

    Raises:
        PromptError: as `prepare_context`.
    """
    prompts = prompts if image.is_whole else _in_crop(prompts, image)
    return [on_grid(prompt, image.grid) for prompt in prompts]


def box_with_prompts(content: Box, prompts: Sequence[Prompt], shape: Shape3) -> Box:
    """The box around the content of an image and all of its prompts.

    Raises:
        PromptError: a prompt does not fit an image of this shape.
    """
    if content == Box((0, 0, 0), shape):
        return content
    for prompt in prompts:
        _check_inside(prompt, shape)
    around = box_around(prompts, shape)
    return content if around is None else content.joined(around)


def _in_crop(prompts: Sequence[Prompt], image: PreparedImage) -> list:
    """Prompts on the whole image as prompts on its crop; masks get the crop's shape."""
    crop = WorkingGrid(image.shape, image.crop.extent, crop=image.crop)
    inside = []
    for prompt in prompts:
        _check_inside(prompt, image.shape)
        placed = on_crop(prompt, crop)
        if placed is None:
            raise PromptError(
                f"a {kind_of(prompt)} lies in the margin of the image, which has one value; place "
                f"it between voxels {image.crop.start} and {image.crop.stop}"
            )
        inside.append(placed)
    return inside


def _check_inside(prompt: Prompt, shape: Shape3) -> None:
    """Raises `PromptError` unless a prompt fits an image of this shape."""
    if isinstance(prompt, np.ndarray) and prompt.shape == shape:
        return
    on_grid(prompt, WorkingGrid(shape, shape))


def _identity(image: object) -> object:
    path = as_path(image)
    return id(image) if path is None else path


def _label(structure: str, place: int) -> str:
    return f"context {place + 1}" if structure == UNNAMED else f"{structure}: context {place + 1}"


def _cropped(mask: Bool[np.ndarray, "x y z"]) -> CroppedMask:
    box = Box.around(mask)
    if box is None:
        raise PromptError("mask is empty")
    return CroppedMask(mask.shape, box, mask[box.slices].copy())
