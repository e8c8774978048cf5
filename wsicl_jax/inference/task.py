"""A task: structures, each with its context set, to segment in any number of targets."""

import os
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
from wsicl_jax.inference.inputs.example import UNNAMED, Example, scribble_in
from wsicl_jax.inference.inputs.images import ImageLike, as_volume
from wsicl_jax.inference.inputs.positions import (
    Coordinates,
    Number,
    Position,
    Ranges,
    box_in,
    point_in,
)
from wsicl_jax.inference.memory_plan import Plan, plan
from wsicl_jax.inference.network import CompiledNetwork
from wsicl_jax.inference.postprocessing import fill_holes, keep_largest_component
from wsicl_jax.inference.prepared_images import (
    PreparedContext,
    PreparedImage,
    content_of,
    prepare_context,
    prepare_contexts,
    prepare_image,
    prompts_on_grid,
)
from wsicl_jax.inference.refinement.composition import Composition, Scores
from wsicl_jax.inference.refinement.tiles import refine_structure
from wsicl_jax.inference.result import Segmentation
from wsicl_jax.model.dual_branch import THRESHOLD
from wsicl_jax.prompts import Negative, Prompt, context_inputs, enforced
from wsicl_jax.terminal.progress import track

T = TypeVar("T")

_MAX_VALUE = 2**16 - 1


class Task:
    """Segments any number of targets, or one target repeatedly; `Segmenter.task` makes it.

        task.segment("target.nii.gz")
        task.add_point((40, 32, 18))        # on that target, where the mask was wrong
        result = task.segment()

    Prompts that are added belong to the last target alone.
    """

    def __init__(
        self,
        network: CompiledNetwork,
        values: Mapping[str, int],
        contexts: Mapping[str, Sequence[PreparedContext]],
        remarks: Sequence[str] = (),
    ):
        """`values` and `contexts` have the same structures; `remarks` are on the contexts."""
        self._network = network
        self.structures = dict(values)
        """Value of each structure in label maps."""
        self._contexts = {name: list(contexts[name]) for name in values}
        self.remarks = tuple(remarks)
        self._target: PreparedImage | None = None
        self._added: list[tuple[str, Prompt]] = []

    def __repr__(self) -> str:
        contexts = ", ".join(
            f"{name}={value}: {len(self._contexts[name])} context images"
            for name, value in self.structures.items()
        )
        target = "no target"
        if self._target is not None:
            shape = " x ".join(map(str, self._target.shape))
            target = f"target {shape} with {len(self._added)} prompts"
        return f"Task({contexts}; {target})"

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
        """Segment a target; without one, the last target again, with the prompts added on it.

        `probabilities` keeps the network's output. `refine` overrides the segmenter's setting for
        this target. `show` draws a progress bar during refinement.

        Raises:
            DataError: the target cannot be read or used, memory does not suffice, or refinement
                is asked for, but the images are not kept at full resolution.
            PromptError: there is no target yet, or a structure has neither context images nor
                prompts on the target.
        """
        if target is not None:
            self._take(target, spacing_mm, affine, probabilities, refine)
        result = self.segment_prepared(
            self._last_target(), self._added, probabilities, refine, show=show
        )
        _warn(result.remarks)
        return result

    def open(
        self,
        target: ImageLike | Num[np.ndarray, "..."],
        *,
        spacing_mm: Sequence[Number] | None = None,
        affine: Num[np.ndarray, "4 4"] | None = None,
    ) -> None:
        """Read a target without segmenting it, to add prompts on it first.

        Raises:
            DataError: as `segment`.
        """
        self._take(target, spacing_mm, affine, False, None)

    def stream(
        self,
        targets: Sequence[T],
        *,
        read: Callable[[T], tuple[Volume, tuple[str, ...]]] | None = None,
        probabilities: bool = False,
        refine: bool | None = None,
        show: bool = True,
    ) -> Iterator[tuple[T, Segmentation | WsiclError]]:
        """Segment many targets; yield each with its result or with the error that prevented one.

        The next target is read while the network works, unless `max_memory_gb` bounds the memory.
        `read` reads a target that is no image itself, and returns remarks on it too. Added prompts
        are not used. `show` draws a progress bar.
        """

        def prepared(target: T) -> PreparedImage | WsiclError:
            try:
                if read is None:
                    volume, notes = as_volume(target, reading=self._network.config), ()
                else:
                    volume, notes = read(target)
                image = self._prepared(volume, probabilities, refine)
                return image._replace(remarks=(*notes, *image.remarks))
            except WsiclError as error:
                return error

        ahead = self._network.config.max_memory_gb is None
        with (
            track(len(targets), "segmenting", show=show) as bar,
            ThreadPoolExecutor(1) as reader,
        ):
            coming = None
            for number, target in enumerate(targets):
                bar.status(str(target) if isinstance(target, str | os.PathLike) else "")
                outcome = (coming or reader.submit(prepared, target)).result()
                coming = None
                if ahead and number + 1 < len(targets):
                    coming = reader.submit(prepared, targets[number + 1])
                if isinstance(outcome, PreparedImage):
                    try:
                        outcome = self.segment_prepared(outcome, [], probabilities, refine)
                    except WsiclError as error:
                        outcome = error
                yield target, outcome
                # Free its memory before waiting for the next target.
                del outcome
                bar.advance()

    def add_point(
        self,
        position: Position,
        *,
        coordinates: Coordinates = "voxel",
        structure: str | None = None,
        inside: bool = True,
    ) -> None:
        """Mark a position inside or outside a structure on the last target.

        Raises:
            PromptError: there is no target yet, the position is outside of it, or the structure
                is unknown, or missing where there are several.
        """
        point = point_in(self._frame(), position, coordinates)
        self._added.append((self._structure(structure), point if inside else Negative(point)))

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
        box = box_in(self._frame(), ranges, coordinates)
        self._added.append((self._structure(structure), box))

    def add_scribble(
        self,
        path: Sequence[Position] | np.ndarray,
        *,
        coordinates: Coordinates = "voxel",
        structure: str | None = None,
        inside: bool = True,
    ) -> None:
        """Mark a line inside or outside a structure on the last target.

        Raises:
            PromptError: as `add_point`, or there is no position.
        """
        line = scribble_in(self._frame(), path, coordinates)
        self._added.append((self._structure(structure), line if inside else Negative(line)))

    def undo(self) -> Prompt:
        """Remove the prompt that was added last, and return it.

        Raises:
            PromptError: there is none.
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
        """The steps and the memory of segmenting a target of this shape and affine."""
        network = self._network
        grid = WorkingGrid.of(shape, affine, network.volume.grid)
        tiles = network.config.refine_max_tiles if network.refines(grid, refine) else 0
        steps = "the whole image on a grid of {} x {} x {}".format(*grid.grid)
        if tiles:
            steps += f", then refinement in at most {tiles} tiles for each structure"
        contexts = max(map(len, self._contexts.values())) or 1
        return plan(
            grid.shape,
            structures=len(self.structures),
            tiles=tiles,
            tile_voxels=int(np.prod(grid.grid)),
            probabilities=probabilities,
            program_bytes=network.program_bytes(contexts),
            steps=steps,
            postprocessing=network.config.largest_component or network.config.fill_holes,
        )

    def _take(
        self,
        target: ImageLike | Num[np.ndarray, "..."],
        spacing_mm: Sequence[Number] | None,
        affine: Num[np.ndarray, "4 4"] | None,
        probabilities: bool,
        refine: bool | None,
    ) -> None:
        with located("target"):
            volume = as_volume(target, spacing_mm, affine, self._network.config)
            self._target = self._prepared(volume, probabilities, refine)
        self._added = []

    def _prepared(self, volume: Volume, probabilities: bool, refine: bool | None) -> PreparedImage:
        network = self._network
        if network.config.max_memory_gb is not None:
            planned = self.plan(
                volume.image.shape, volume.affine, probabilities=probabilities, refine=refine
            )
            planned.check(network.config.max_memory_gb)
        crop = content_of(volume, network.volume)
        grid = WorkingGrid.of(crop.extent, volume.affine, network.volume.grid)
        image = prepare_image(volume, network.volume, full=network.refines(grid, refine), crop=crop)
        return image._replace(remarks=(*remarks.on_image(volume.image), *remarks.on_grid(grid)))

    def segment_prepared(
        self,
        target: PreparedImage,
        added: Sequence[tuple[str, Prompt]],
        probabilities: bool = False,
        refine: bool | None = None,
        *,
        show: bool = False,
    ) -> Segmentation:
        """Segment a prepared target with prompts on it, each with its structure.

        Raises:
            DataError: refinement is asked for, but the target is not kept at full resolution.
            PromptError: a structure has neither context images nor prompts that mark it.
        """
        network = self._network
        refined = network.refines(target.grid, refine)
        if refined and target.full is None:
            raise DataError("the target was read without refinement; give it to `segment` again")
        encoded = network.encode(target.image)
        composition = Composition(
            target.shape,
            target.crop,
            target.grid,
            self.structures,
            network.config.refine_overlap,
            probabilities=probabilities,
        )
        notes = [*target.remarks, *self._remark_on_same_image(target)]
        for name in self.structures:
            own = [prompt for structure, prompt in added if structure == name]
            contexts = self._contexts_with(name, target, own)
            scores = self._scores(encoded, target, contexts)
            if network.config.enforce_prompts:
                scores = enforced(scores, prompts_on_grid(target, own), THRESHOLD)
            tiles = []
            if refined and (scores > THRESHOLD).any():
                tiles, remark = refine_structure(network, name, target, contexts, scores, show)
                notes += [f"{name}: {remark}"] if remark else []
            composition.add(name, Scores(scores, tiles))
        for value in self.structures.values():
            if network.config.largest_component:
                keep_largest_component(composition.label_map, value)
            if network.config.fill_holes:
                fill_holes(composition.label_map, value)
        notes += remarks.on_result(composition.label_map, self.structures)
        return Segmentation(
            composition.label_map,
            self.structures,
            target.affine,
            composition.probabilities,
            tuple(notes),
            target.crop,
        )

    def _contexts_with(
        self, name: str, target: PreparedImage, prompts: Sequence[Prompt]
    ) -> list[PreparedContext]:
        """The context images of a structure, and the target if it has prompts of the structure."""
        contexts = [*self._contexts[name]]
        if prompts:
            contexts.append(prepare_context(target, prompts))
        if not contexts:
            raise PromptError(
                f"{name!r} has no context image and no prompt; give context images, or add a point "
                "or a box on the target"
            )
        if not any(context.marks for context in contexts):
            raise PromptError(
                f"{name!r} has negative prompts only; mark the structure itself on an image"
            )
        return contexts

    def _scores(
        self, encoded, target: PreparedImage, contexts: Sequence[PreparedContext]
    ) -> np.ndarray:
        images, channels = context_inputs(
            target.image,
            [context.image.image for context in contexts],
            [context.placed for context in contexts],
            self._network.volume,
        )
        return self._network.predict(encoded, images, channels)

    def _remark_on_same_image(self, target: PreparedImage) -> Iterator[str]:
        for contexts in self._contexts.values():
            for number, context in enumerate(contexts, 1):
                if np.array_equal(context.image.image, target.image):
                    yield remarks.on_same_image(number)
                    return

    def _last_target(self) -> PreparedImage:
        if self._target is None:
            raise PromptError("there is no target yet; give one to `segment`")
        return self._target

    def _frame(self) -> Volume:
        """Shape and affine of the last target, for the placement of prompts."""
        target = self._last_target()
        return Volume(np.broadcast_to(np.float32(0), target.shape), target.affine)

    def _structure(self, name: str | None) -> str:
        names = list(self.structures)
        if name is None and len(names) == 1:
            return names[0]
        if name not in self.structures:
            problem = "is missing" if name is None else f"is {name!r}"
            raise PromptError(f"the structure {problem}; expected one of {', '.join(names)}")
        return name


def task_of(
    network: CompiledNetwork,
    structures: Sequence[Example] | Mapping[str, Sequence[Example]],
    values: Mapping[str, int] | None = None,
) -> Task:
    """A task with the context images of examples; see `Segmenter.task`."""
    named = structures if isinstance(structures, Mapping) else {UNNAMED: structures}
    values = _values(list(named), values)
    contexts, notes = prepare_contexts(
        named, network.volume, network.config, full=network.may_refine
    )
    _warn(notes)
    return Task(network, values, contexts, notes)


def _warn(texts: Sequence[str]) -> None:
    for text in texts:
        # Attributed to the caller of the task.
        warnings.warn(text, stacklevel=3)


def _values(names: Sequence[str], values: Mapping[str, int] | None) -> dict[str, int]:
    if not names:
        raise PromptError("there is no structure; name at least one, with its context images")
    if values is None:
        return {name: number for number, name in enumerate(names, 1)}
    if set(values) != set(names):
        raise PromptError(
            f"values are given for {sorted(values)}, but the structures are {sorted(names)}"
        )
    wrong = [v for v in values.values() if type(v) is not int or not 1 <= v <= _MAX_VALUE]
    if wrong or len(set(values.values())) < len(values):
        raise PromptError(
            f"values are {dict(values)}; expected different whole numbers from 1 to {_MAX_VALUE}"
        )
    return {name: values[name] for name in names}
