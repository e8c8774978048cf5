"""Context images made ready for any target."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.axes import Box, Shape3
from wsicl_jax.data.images import Volume
from wsicl_jax.errors import PromptError, located
from wsicl_jax.infer.example import UNNAMED, Example
from wsicl_jax.infer.given import as_label_map, as_path, as_volume
from wsicl_jax.infer.prepared import Prepared, prepare
from wsicl_jax.infer.segmenter import Segmenter
from wsicl_jax.infer.tiles import Faces, faces_of
from wsicl_jax.progress import track
from wsicl_jax.prompts import Prompt, holds_mask, on_grid, to_channel, with_halo


class HeldMask(NamedTuple):
    """A mask, held without the empty space around it: of a large image most is that."""

    shape: Shape3
    box: Box
    inside: Bool[np.ndarray, "_ _ _"]

    def whole(self) -> Bool[np.ndarray, "x y z"]:
        """The mask again."""
        mask = np.zeros(self.shape, bool)
        mask[self.box.slices] = self.inside
        return mask


class Shown(NamedTuple):
    """A context image that is ready for any target."""

    image: Prepared
    prompts: Sequence[Prompt | HeldMask]
    """In voxels of the image's own grid; none if there will be no second look."""
    channel: Float[np.ndarray, "X Y Z"]
    """The prompts painted on the working grid, without a halo."""
    is_mask: bool
    """Whether a mask of the whole structure is among the prompts."""
    prompted: Faces | None
    """Where the prompts are."""


def prepared_contexts(
    segmenter: Segmenter, structures: Mapping[str, Sequence[Example]]
) -> dict[str, list[Shown]]:
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
    prepared: tuple[Volume, Prepared] | None = None
    found: dict[tuple[str, int], Shown] = {}
    with track(len(jobs), "reading context", show=len(jobs) > 0) as bar:
        for name, place, example in jobs:
            with located("" if example.name else _called(name, place)):
                # Paths alone are worth keeping, and can be told apart.
                by_path = as_path(example.mask) is not None
                volume, prompts = example.load(
                    read_image, read_label if by_path else as_label_map, reading
                )
                if prepared is None or prepared[0] is not volume:
                    # However coarse they are themselves: a target may be finer.
                    held = prepare(volume, segmenter.volume, own=segmenter.may_look_again)
                    prepared = volume, held
                image = prepared[1]
                found[name, place] = shown_on(image, prompts)
            bar.advance()
    return {name: [found[name, i] for i in range(len(e))] for name, e in structures.items()}


def shown_on(image: Prepared, prompts: Sequence[Prompt]) -> Shown:
    """An image with its prompts, in voxels of its own grid, as a context image.

    Raises:
        PromptError: a prompt lies outside the image, is empty, or a mask has another shape.
    """
    placed = [on_grid(prompt, image.grid) for prompt in prompts]
    channel, is_mask = to_channel(placed, image.grid.grid), holds_mask(prompts)
    if image.own is None:
        return Shown(image, (), channel, is_mask, None)
    held = [_held(prompt) if isinstance(prompt, np.ndarray) else prompt for prompt in prompts]
    return Shown(image, held, channel, is_mask, faces_of(prompts, image.grid))


def channels_of(shown: Sequence[Shown], halo: float) -> Float[np.ndarray, "context X Y Z"]:
    """The prompt channels of a context set, as the network takes them."""
    painted = np.stack([context.channel for context in shown])
    return with_halo(painted, [context.is_mask for context in shown], halo)


def _identity(image: object) -> object:
    path = as_path(image)
    return id(image) if path is None else path


def _called(structure: str, place: int) -> str:
    return f"context {place + 1}" if structure == UNNAMED else f"{structure}: context {place + 1}"


def _held(mask: Bool[np.ndarray, "x y z"]) -> HeldMask:
    box = Box.around(mask)
    if box is None:
        raise PromptError("mask is empty")
    return HeldMask(mask.shape, box, mask[box.slices].copy())
