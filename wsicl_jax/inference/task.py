"""A task: structures, context sets that show them, and targets to find them in."""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Num

from wsicl_jax.data.images import Volume
from wsicl_jax.errors import DataError, PromptError, WsiclError, located
from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.inference import remarks
from wsicl_jax.inference.contexts import prepare_context, prepare_contexts, prompt_channels
from wsicl_jax.inference.inputs.example import UNNAMED, Example
from wsicl_jax.inference.inputs.images import ImageLike, as_path, as_volume
from wsicl_jax.inference.inputs.positions import (
    Coordinates,
    Number,
    Position,
    Ranges,
    box_in,
    point_in,
)
from wsicl_jax.inference.memory_plan import Plan, plan
from wsicl_jax.inference.prepared_image import PreparedImage, content_of, prepare_image
from wsicl_jax.inference.refinement.composition import Composition, Scores, TileScore
from wsicl_jax.inference.refinement.refine import refine_structure
from wsicl_jax.inference.result import Segmentation
from wsicl_jax.inference.segmenter import Segmenter
from wsicl_jax.model.dual_branch import THRESHOLD
from wsicl_jax.prompts import Prompt, Scribble
from wsicl_jax.terminal.progress import track

T = TypeVar("T")

_LARGEST_VALUE = 2**16 - 1

_FEW_SLICES = 4
"""An image with fewer along an axis is hardly a volume."""


class Task:
    """Made by `Segmenter.task`; segments any number of targets, or one again and again.

        task.segment("target.nii.gz")
        task.add_point((40, 32, 18))        # on that target, where the mask was wrong
        result = task.segment()

    Prompts that are added hold for the last target alone.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        structures: Sequence[Example] | Mapping[str, Sequence[Example]],
        values: Mapping[str, int] | None = None,
    ):
        self._segmenter = segmenter
        given = structures if isinstance(structures, Mapping) else {UNNAMED: structures}
        self.structures = _values(list(given), values)
        """Value of each structure in label maps."""
        self._contexts = prepare_contexts(segmenter, given)
        self.remarks = tuple(
            remark for shown in self._contexts.values() for one in shown for remark in one.remarks
        )
        """What looks like a mistake in the context images, and what to do about it."""
        _warn(self.remarks)
        self._target: PreparedImage | None = None
        self._added: list[tuple[str, Prompt]] = []

    def segment(
        self,
        target: ImageLike | Num[np.ndarray, "..."] | None = None,
        *,
        spacing_mm: Sequence[Number] | None = None,
        affine: Num[np.ndarray, "4 4"] | None = None,
        probabilities: bool = False,
        refine: bool | None = None,
        show: bool = True,
    ) -> Segmentation:
        """Find the structures in a target; without one, in the last target again, with the
        prompts that were added on it.

        `refine` takes the place of the segmenter's setting for this target. `show` draws a progress
        bar for a second look.

        Raises:
            DataError: the target cannot be read or used, memory would not suffice, or a second
                look is asked for of images that are not held for it.
            PromptError: there is no target yet, or a structure has neither context images nor
                prompts on the target.
        """
        if target is not None:
            with located("target"):
                volume = as_volume(target, spacing_mm, affine, self._segmenter.config)
                self._target = self._prepared(volume, probabilities, refine)
            self._added = []
        found = self._found(self._current(), self._added, probabilities, refine, show=show)
        _warn(found.remarks)
        return found

    def open(
        self,
        target: ImageLike | Num[np.ndarray, "..."],
        *,
        spacing_mm: Sequence[Number] | None = None,
        affine: Num[np.ndarray, "4 4"] | None = None,
    ) -> None:
        """Take a target without segmenting it yet, to add prompts on it first.

        Raises:
            DataError: as `segment`.
        """
        with located("target"):
            volume = as_volume(target, spacing_mm, affine, self._segmenter.config)
            self._target = self._prepared(volume, False, None)
        self._added = []

    def stream(
        self,
        targets: Sequence[T],
        *,
        read: Callable[[T], Volume] | None = None,
        probabilities: bool = False,
        refine: bool | None = None,
        show: bool = True,
    ) -> Iterator[tuple[T, Segmentation | WsiclError]]:
        """Segment many targets, each given back with what was found or with why it was not.

        The next target is read while the network is at work, but not where `max_memory_gb` bounds
        what is held. `read` makes an image of a target that is none itself. Prompts that were
        added on a target have no part in it. `show` draws a progress bar.
        """

        read = read or functools.partial(as_volume, reading=self._segmenter.config)

        def prepared(target: T) -> PreparedImage | WsiclError:
            try:
                return self._prepared(read(target), probabilities, refine)
            except WsiclError as error:
                return error

        ahead = self._segmenter.config.max_memory_gb is None
        with (
            track(len(targets), "segmenting", show=show) as bar,
            ThreadPoolExecutor(1) as reader,
        ):
            coming = None
            for number, target in enumerate(targets):
                bar.status(str(as_path(target) or ""))
                outcome = (coming or reader.submit(prepared, target)).result()
                coming = None
                if ahead and number + 1 < len(targets):
                    coming = reader.submit(prepared, targets[number + 1])
                if isinstance(outcome, PreparedImage):
                    try:
                        outcome = self._found(outcome, [], probabilities, refine, show=False)
                    except WsiclError as error:
                        outcome = error
                yield target, outcome
                # Or else it is held while the next one is waited for.
                del outcome
                bar.advance()

    def add_point(
        self,
        position: Position,
        *,
        coordinates: Coordinates = "voxel",
        structure: str | None = None,
    ) -> None:
        """Mark a position inside a structure on the last target.

        Raises:
            PromptError: there is no target yet, the position is outside of it, or the structure
                is unknown, or not said where there are several.
        """
        point = point_in(self._place(), position, coordinates)
        self._added.append((self._named(structure), point))

    def add_box(
        self,
        ranges: Ranges | Box,
        *,
        coordinates: Coordinates = "voxel",
        structure: str | None = None,
    ) -> None:
        """Mark a structure on the last target by a box, on one slice or in 3D.

        Raises:
            PromptError: as `add_point`.
        """
        if isinstance(ranges, Box):
            ranges = list(zip(ranges.start, ranges.stop, strict=True))
        box = box_in(self._place(), ranges, coordinates)
        self._added.append((self._named(structure), box))

    def add_scribble(
        self,
        path: Sequence[Position] | np.ndarray,
        *,
        coordinates: Coordinates = "voxel",
        structure: str | None = None,
    ) -> None:
        """Mark a line inside a structure on the last target.

        Raises:
            PromptError: as `add_point`, or there is no position.
        """
        if not len(path):
            raise PromptError("a scribble needs at least one position")
        place = self._place()
        scribble = Scribble(tuple(tuple(point_in(place, p, coordinates)) for p in path))
        self._added.append((self._named(structure), scribble))

    def undo(self) -> Prompt:
        """Take back the prompt that was added last, and return it.

        Raises:
            PromptError: none is left.
        """
        if not self._added:
            raise PromptError("there is no prompt on the target to take back")
        return self._added.pop()[1]

    def plan(
        self,
        shape: Shape3,
        affine: Num[np.ndarray, "4 4"],
        *,
        probabilities: bool = False,
        refine: bool | None = None,
    ) -> Plan:
        """How a target of this shape and affine would be segmented, and with how much memory."""
        segmenter = self._segmenter
        grid = WorkingGrid.of(shape, affine, segmenter.volume.grid)
        again = self._is_refined(grid, refine)
        tiles = segmenter.config.refine_max_tiles if again else 0
        whole = "the whole image on a grid of {} x {} x {}".format(*grid.grid)
        looks = f"{whole}, then at most {tiles} tiles of each structure" if tiles else whole
        contexts = max(map(len, self._contexts.values())) or 1
        return plan(
            grid.shape,
            structures=len(self.structures),
            tiles=tiles,
            tile_voxels=int(np.prod(grid.grid)),
            probabilities=probabilities,
            refine=again,
            program_bytes=segmenter.program_bytes(contexts),
            looks=looks,
        )

    def _prepared(self, volume: Volume, probabilities: bool, refine: bool | None) -> PreparedImage:
        config = self._segmenter.config
        shape, affine = volume.image.shape, volume.affine
        if config.max_memory_gb is not None:
            planned = self.plan(shape, affine, probabilities=probabilities, refine=refine)
            planned.check(config.max_memory_gb)
        crop = content_of(volume, self._segmenter.volume)
        grid = WorkingGrid.of(crop.extent, affine, self._segmenter.volume.grid)
        prepared = prepare_image(
            volume, self._segmenter.volume, own=self._is_refined(grid, refine), crop=crop
        )
        return prepared._replace(remarks=remarks.on_image(volume.image))

    def _is_refined(self, grid: WorkingGrid, refine: bool | None) -> bool:
        segmenter = self._segmenter
        if refine and not segmenter.may_refine:
            raise DataError(
                "a second look needs context images that are held for it; load the segmenter with "
                "refine=True"
            )
        cells = float((np.array(grid.turned_shape) / grid.grid).max())
        refine = segmenter.config.refine if refine is None else refine
        if refine is None:
            return segmenter.may_refine and cells >= segmenter.config.refine_min_downsampling
        return refine and cells > 1

    def _found(
        self,
        target: PreparedImage,
        added: Sequence[tuple[str, Prompt]],
        probabilities: bool,
        refine: bool | None,
        *,
        show: bool,
    ) -> Segmentation:
        config, smoothing = self._segmenter.config, self._segmenter.volume.prompt_smoothing
        again = self._is_refined(target.grid, refine)
        if again and target.own is None:
            raise DataError(
                "the target was taken without a second look; give it to `segment` again"
            )
        encoded = self._segmenter.encode(target.image)
        found = Composition(
            target.shape,
            target.crop,
            target.grid,
            self.structures,
            config.refine_overlap,
            probabilities=probabilities,
        )
        said = [*target.remarks, *self._own_contexts(target), *_thin(target.grid)]
        for name, contexts in self._contexts.items():
            own = [prompt for structure, prompt in added if structure == name]
            shown = [*contexts, prepare_context(target, own)] if own else contexts
            if not shown:
                raise PromptError(
                    f"nothing shows what {name!r} is; give context images, or add a point or a "
                    "box on the target"
                )
            whole = self._segmenter.predict(
                encoded,
                np.stack([context.image.image for context in shown]),
                prompt_channels(shown, smoothing),
            )
            tiles: list[TileScore] = []
            if again and (whole > THRESHOLD).any():
                tiles, remark = refine_structure(self._segmenter, name, target, shown, whole, show)
                said += [f"{name}: {remark}"] if remark else []
            found.add(name, Scores(whole, tiles))
        said += remarks.on_result(found.label_map, self.structures)
        return Segmentation(
            found.label_map,
            self.structures,
            target.affine,
            found.probabilities,
            tuple(said),
            target.crop,
        )

    def _own_contexts(self, target: PreparedImage) -> Iterator[str]:
        for contexts in self._contexts.values():
            for place, context in enumerate(contexts, 1):
                if np.array_equal(context.image.image, target.image):
                    yield remarks.on_own_context(place)
                    return

    def _current(self) -> PreparedImage:
        if self._target is None:
            raise PromptError("there is no target yet; give one to `segment`")
        return self._target

    def _place(self) -> Volume:
        target = self._current()
        # Of the image only the shape is asked.
        return Volume(np.broadcast_to(np.float32(0), target.shape), target.affine)

    def _named(self, structure: str | None) -> str:
        names = list(self.structures)
        if structure is None and len(names) == 1:
            return names[0]
        if structure not in self.structures:
            given = "is not said" if structure is None else f"is {structure!r}"
            raise PromptError(f"the structure {given}; expected one of {', '.join(names)}")
        return structure


def _thin(grid: WorkingGrid) -> list[str]:
    """What is to be said of an image with so few slices that it is hardly a volume."""
    thinnest = min(grid.turned_shape)
    if thinnest >= _FEW_SLICES:
        return []
    along = grid.grid[grid.turned_shape.index(thinnest)]
    return [
        f"only {thinnest} slice{'s' * (thinnest > 1)} along an axis, where the working grid has "
        f"{along}: a structure needs more than {along // (2 * thinnest)} slices of that grid to be "
        "seen, and the network knows volumes only; do not rely on this result"
    ]


def _warn(said: Sequence[str]) -> None:
    for remark in said:
        # Attributed to who called the task.
        warnings.warn(remark, stacklevel=3)


def _values(names: Sequence[str], values: Mapping[str, int] | None) -> dict[str, int]:
    if not names:
        raise PromptError("there is no structure; name at least one, with its context images")
    if values is None:
        return {name: number for number, name in enumerate(names, 1)}
    if set(values) != set(names):
        raise PromptError(
            f"values are given for {sorted(values)}, but the structures are {sorted(names)}"
        )
    wrong = [v for v in values.values() if type(v) is not int or not 1 <= v <= _LARGEST_VALUE]
    if wrong or len(set(values.values())) < len(values):
        raise PromptError(
            f"values are {dict(values)}; expected different whole numbers from 1 to "
            f"{_LARGEST_VALUE}"
        )
    return {name: values[name] for name in names}
