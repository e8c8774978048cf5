"""Context images made ready for any target."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.data.images import Volume
from wsicl_jax.errors import PromptError, located
from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.inference.inputs.example import UNNAMED, Example
from wsicl_jax.inference.inputs.images import as_label_map, as_path, as_volume
from wsicl_jax.inference.prepared_image import PreparedImage, content_of, prepare_image
from wsicl_jax.inference.refinement.tiles import PromptExtent, extent_of_prompts
from wsicl_jax.inference.segmenter import Segmenter
from wsicl_jax.prompts import (
    Prompt,
    box_around,
    contains_mask,
    kind_of,
    on_crop,
    on_grid,
    smoothed_prompts,
    to_channel,
)
from wsicl_jax.terminal.progress import track


class CroppedMask(NamedTuple):
    """A mask, held without the empty space around it: of a large image most is that."""

    shape: Shape3
    box: Box
    inside: Bool[np.ndarray, "_ _ _"]

    def whole(self) -> Bool[np.ndarray, "x y z"]:
        """The mask again."""
        mask = np.zeros(self.shape, bool)
        mask[self.box.slices] = self.inside
        return mask


class PreparedContext(NamedTuple):
    """A context image that is ready for any target."""

    image: PreparedImage
    prompts: Sequence[Prompt | CroppedMask]
    """In voxels of the image as it is cropped; none if there will be no second look."""
    channel: Float[np.ndarray, "X Y Z"]
    """The prompts painted on the working grid, without a smoothing."""
    is_mask: bool
    """Whether a mask of the whole structure is among the prompts."""
    prompted: PromptExtent | None
    """Where the prompts are."""
    remarks: tuple[str, ...] = ()
    """What looks like a mistake in it."""


def prepare_contexts(
    segmenter: Segmenter, structures: Mapping[str, Sequence[Example]]
) -> dict[str, list[PreparedContext]]:
    """All context images prepared; each is read once, however many structures it shows.

    Raises:
        DataError: an image or a label map cannot be read or used, or is too large for memory.
        PromptError: an example has no prompt, or one that does not fit its image.
    """
    jobs = [
        (name, place, example)
        for name, examples in structures.items()
        for place, example in enumerate(examples)
    ]
    # What shares an image, and then a mask, comes together.
    first: dict[object, int] = {}
    for job in jobs:
        first.setdefault(_identity(job[2].image), len(first))
    jobs.sort(key=lambda job: first[_identity(job[2].image)])
    reading = segmenter.config
    read_image = functools.lru_cache(maxsize=1)(functools.partial(as_volume, reading=reading))
    read_label = functools.lru_cache(maxsize=1)(functools.partial(as_label_map, reading=reading))
    prepared: tuple[Volume, Box, PreparedImage] | None = None
    found: dict[tuple[str, int], PreparedContext] = {}
    with track(len(jobs), "reading context", show=len(jobs) > 0) as bar:
        for name, place, example in jobs:
            called = example.name or _called(name, place)
            with located("" if example.name else called):
                # Paths alone are worth keeping, and can be told apart.
                by_path = as_path(example.mask) is not None
                volume, prompts, said = example.load(
                    read_image, read_label if by_path else as_label_map, reading
                )
                content = (
                    prepared[1]
                    if prepared is not None and prepared[0] is volume
                    else content_of(volume, segmenter.volume)
                )
                crop = _with_prompts(content, prompts, volume.image.shape)
                if prepared is None or prepared[0] is not volume or prepared[2].crop != crop:
                    # However coarse they are themselves: a target may be finer.
                    image = prepare_image(
                        volume, segmenter.volume, own=segmenter.may_refine, crop=crop
                    )
                    prepared = volume, content, image
                shown = prepare_context(prepared[2], prompts)
                remarks = tuple(f"{called}: {remark}" for remark in said)
                found[name, place] = shown._replace(remarks=remarks)
            bar.advance()
    return {name: [found[name, i] for i in range(len(e))] for name, e in structures.items()}


def prepare_context(image: PreparedImage, prompts: Sequence[Prompt]) -> PreparedContext:
    """An image with its prompts, in voxels of the whole image, as a context image.

    Of prompts that reach into the margins that are cut off, the rest is taken.

    Raises:
        PromptError: a prompt lies outside the image or in its margins, is empty, or a mask has
            another shape.
    """
    prompts = prompts if image.is_whole else _in_crop(prompts, image)
    placed = [on_grid(prompt, image.grid) for prompt in prompts]
    channel, is_mask = to_channel(placed, image.grid.grid), contains_mask(prompts)
    if image.own is None:
        return PreparedContext(image, (), channel, is_mask, None)
    held = [_held(prompt) if isinstance(prompt, np.ndarray) else prompt for prompt in prompts]
    return PreparedContext(image, held, channel, is_mask, extent_of_prompts(prompts, image.grid))


def prompt_channels(
    shown: Sequence[PreparedContext], smoothing: float
) -> Float[np.ndarray, "context X Y Z"]:
    """The prompt channels of a context set, as the network takes them."""
    painted = np.stack([context.channel for context in shown])
    return smoothed_prompts(painted, [context.is_mask for context in shown], smoothing)


def _with_prompts(content: Box, prompts: Sequence[Prompt], shape: Shape3) -> Box:
    """The box around what is taken of an image and all of its prompts."""
    whole = Box((0, 0, 0), shape)
    if content == whole:
        return content
    for prompt in prompts:
        _check_inside(prompt, shape)
    around = box_around(prompts, shape)
    return content if around is None else content.joined(around)


def _in_crop(prompts: Sequence[Prompt], image: PreparedImage) -> list:
    """Prompts on the whole image as prompts on what is taken of it, whose masks are smaller."""
    crop = WorkingGrid(image.shape, image.crop.extent, crop=image.crop)
    found = []
    for prompt in prompts:
        _check_inside(prompt, image.shape)
        placed = on_crop(prompt, crop)
        if placed is None:
            raise PromptError(
                f"a {kind_of(prompt)} lies in the margin of the image, which is of one value; "
                f"there is something from {image.crop.start} to {image.crop.stop} only"
            )
        found.append(placed)
    return found


def _check_inside(prompt: Prompt, shape: Shape3) -> None:
    """Raises `PromptError` unless a prompt fits an image of this shape."""
    if isinstance(prompt, np.ndarray) and prompt.shape == shape:
        return
    on_grid(prompt, WorkingGrid(shape, shape))


def _identity(image: object) -> object:
    path = as_path(image)
    return id(image) if path is None else path


def _called(structure: str, place: int) -> str:
    return f"context {place + 1}" if structure == UNNAMED else f"{structure}: context {place + 1}"


def _held(mask: Bool[np.ndarray, "x y z"]) -> CroppedMask:
    box = Box.around(mask)
    if box is None:
        raise PromptError("mask is empty")
    return CroppedMask(mask.shape, box, mask[box.slices].copy())
