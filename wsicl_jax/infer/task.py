"""A task: structures, context sets that show them, and targets to find them in."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Num

from wsicl_jax.axes import Box, Shape3
from wsicl_jax.config import InferenceConfig
from wsicl_jax.data.images import Volume, voxels_in
from wsicl_jax.errors import DataError, PromptError, WsiclError
from wsicl_jax.geometry import WorkingGrid
from wsicl_jax.infer.compose import Composition, Scores, TileScore, seen_before
from wsicl_jax.infer.example import ContextImage, Example, located
from wsicl_jax.infer.given import ImageLike, as_label_map, as_path, as_volume
from wsicl_jax.infer.memory import Plan, check_reading, plan
from wsicl_jax.infer.positions import Coordinates, Number, Position, Ranges, box_in, point_in
from wsicl_jax.infer.prepared import Prepared, prepare
from wsicl_jax.infer.result import Segmentation
from wsicl_jax.infer.segmenter import Segmenter
from wsicl_jax.infer.tiles import Faces, Tiles, faces_of, tiles_around, view_of_context
from wsicl_jax.metrics import dice
from wsicl_jax.model.dual_branch import CUT
from wsicl_jax.progress import track
from wsicl_jax.prompts import Prompt, Scribble, on_crop, on_grid, to_channel

T = TypeVar("T")

_ONE = "structure"
"""Name of the structure of a task that names none."""
_LARGEST_VALUE = 2**16 - 1


class _Mask(NamedTuple):
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
    prompts: Sequence[Prompt | _Mask]
    """In voxels of the image's own grid; none if there will be no second look."""
    channel: Float[np.ndarray, "X Y Z"]
    """The prompts on the working grid."""
    prompted: Faces | None
    """Where the prompts are."""


class Task:
    """Made by `Segmenter.task`; segments any number of targets, or one again and again.

    task.segment("target.nii.gz")
    task.add_point((40, 32, 18))        # on that target, where the mask was wrong
    result = task.segment()
    """

    def __init__(
        self,
        segmenter: Segmenter,
        structures: Sequence[Example] | Mapping[str, Sequence[Example]],
        values: Mapping[str, int] | None = None,
    ):
        self._segmenter = segmenter
        given = structures if isinstance(structures, Mapping) else {_ONE: structures}
        self.structures = _values(list(given), values)
        """Value of each structure in label maps."""
        self._contexts = _prepared_contexts(segmenter, given)
        self._target: Prepared | None = None
        self._added: list[tuple[str, Prompt]] = []

    def segment(
        self,
        target: ImageLike | Num[np.ndarray, "..."] | None = None,
        *,
        spacing_mm: Sequence[Number] | None = None,
        affine: Num[np.ndarray, "4 4"] | None = None,
        probabilities: bool = False,
        fine: bool | None = None,
        show: bool = True,
    ) -> Segmentation:
        """Find the structures in a target; without one, in the last target again, with the
        prompts that were added on it.

        `fine` takes the place of the segmenter's setting for this target. `show` draws a progress
        bar for a second look.

        Raises:
            DataError: the target cannot be read or used, memory would not suffice, or a second
                look is asked for of images that are not held for it.
            PromptError: there is no target yet, or a structure has neither context images nor
                prompts on the target.
        """
        if target is not None:
            with located("target"):
                self.check_file(target)
                volume = as_volume(target, spacing_mm, affine)
                self._target = self._prepared(volume, probabilities, fine)
            self._added = []
        return self._found(self._current(), self._added, probabilities, fine, show=show)

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
            self.check_file(target)
            self._target = self._prepared(as_volume(target, spacing_mm, affine), False, None)
        self._added = []

    def stream(
        self,
        targets: Sequence[T],
        *,
        read: Callable[[T], Volume] = as_volume,
        probabilities: bool = False,
        fine: bool | None = None,
        show: bool = True,
    ) -> Iterator[tuple[T, Segmentation | WsiclError]]:
        """Segment many targets, each given back with what was found or with why it was not.

        The next target is read while the network is at work, but not where `max_memory_gb` bounds
        what is held. `read` makes an image of a target that is none itself. Prompts that were
        added on a target have no part in it. `show` draws a progress bar.
        """

        def prepared(target: T) -> Prepared | WsiclError:
            try:
                self.check_file(target)
                return self._prepared(read(target), probabilities, fine)
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
                if isinstance(outcome, Prepared):
                    try:
                        outcome = self._found(outcome, [], probabilities, fine, show=False)
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
        fine: bool | None = None,
    ) -> Plan:
        """How a target of this shape and affine would be segmented, and with how much memory."""
        segmenter = self._segmenter
        grid = WorkingGrid.of(shape, affine, segmenter.volume.grid)
        again = self._looks_again(grid, fine)
        tiles = segmenter.config.fine_tiles if again else 0
        whole = "the whole image on a grid of {} x {} x {}".format(*grid.grid)
        looks = f"{whole}, then at most {tiles} tiles of each structure" if tiles else whole
        contexts = max(map(len, self._contexts.values())) or 1
        return plan(
            grid.shape,
            structures=len(self.structures),
            tiles=tiles,
            tile_voxels=int(np.prod(grid.grid)),
            probabilities=probabilities,
            fine=again,
            program_bytes=segmenter.program_bytes(contexts),
            looks=looks,
        )

    def check_file(self, given: object) -> None:
        """Raises `DataError` if a file, by its header, is too large for `max_memory_gb`."""
        _check_file(given, self._segmenter.config)

    def _prepared(self, volume: Volume, probabilities: bool, fine: bool | None) -> Prepared:
        config = self._segmenter.config
        shape, affine = volume.image.shape, volume.affine
        if config.max_memory_gb is not None:
            planned = self.plan(shape, affine, probabilities=probabilities, fine=fine)
            planned.check(config.max_memory_gb)
        grid = WorkingGrid.of(shape, affine, self._segmenter.volume.grid)
        return prepare(volume, self._segmenter.volume, own=self._looks_again(grid, fine))

    def _looks_again(self, grid: WorkingGrid, fine: bool | None) -> bool:
        segmenter = self._segmenter
        if fine and not segmenter.may_look_again:
            raise DataError(
                "a second look needs context images that are held for it; load the segmenter with "
                "fine=True"
            )
        cells = float((np.array(grid.turned_shape) / grid.grid).max())
        fine = segmenter.config.fine if fine is None else fine
        if fine is None:
            return segmenter.may_look_again and cells >= segmenter.config.fine_worth
        return fine and cells > 1

    def _found(
        self,
        target: Prepared,
        added: Sequence[tuple[str, Prompt]],
        probabilities: bool,
        fine: bool | None,
        *,
        show: bool,
    ) -> Segmentation:
        config = self._segmenter.config
        again = self._looks_again(target.grid, fine)
        if again and target.own is None:
            raise DataError(
                "the target was taken without a second look; give it to `segment` again"
            )
        encoded = self._segmenter.encode(target.image)
        found = Composition(
            target.grid, self.structures, config.fine_overlap, probabilities=probabilities
        )
        remarks: list[str] = []
        for name, contexts in self._contexts.items():
            own = [prompt for structure, prompt in added if structure == name]
            shown = [*contexts, _shown_on(target, own)] if own else contexts
            if not shown:
                raise PromptError(
                    f"nothing shows what {name!r} is; give context images, or add a point or a "
                    "box on the target"
                )
            whole = self._segmenter.answer(
                encoded,
                np.stack([context.image.image for context in shown]),
                np.stack([context.channel for context in shown]),
            )
            tiles: list[TileScore] = []
            if again and (whole > CUT).any():
                tiles, remark = self._closer(name, target, shown, whole, show)
                remarks += [f"{name}: {remark}"] if remark else []
            found.add(name, Scores(whole, tiles))
        return Segmentation(
            found.label_map, self.structures, target.affine, found.probabilities, tuple(remarks)
        )

    def _closer(
        self,
        name: str,
        target: Prepared,
        shown: Sequence[Shown],
        whole: Float[np.ndarray, "X Y Z"],
        show: bool,
    ) -> tuple[list[TileScore], str]:
        """The second look: scores of the tiles that agree with the first, and what to say of it."""
        config = self._segmenter.config
        tiles = tiles_around(whole > CUT, target, config)
        if tiles is None:
            return [], "too large for a second look that would show more"
        kept = []
        with track(len(tiles.boxes), f"second look, {name}", show=show) as bar:
            for box in tiles.boxes:
                score = self._tile(target, shown, box, tiles)
                if score is not None:
                    first = seen_before(whole, target.grid.turned_shape, box)
                    if dice(score > CUT, first > CUT) >= config.fine_agreement:
                        kept.append(TileScore(box, score))
                bar.advance()
        left = len(tiles.boxes) - len(kept)
        if not left:
            return kept, ""
        return kept, (
            f"{left} of {len(tiles.boxes)} tiles of the second look were left out, where the "
            "network saw no prompt or contradicted its first look"
        )

    def _tile(
        self, target: Prepared, shown: Sequence[Shown], box: Box, tiles: Tiles
    ) -> Float[np.ndarray, "X Y Z"] | None:
        size = target.grid.grid
        images, channels, weights = [], [], []
        own = target.grid.cropped(box, size)
        for context in shown:
            view = own
            if context.image is not target:
                view = view_of_context(context.image, context.prompted, box, tiles, target)
            prompts = (p.whole() if isinstance(p, _Mask) else p for p in context.prompts)
            placed = [on_crop(prompt, view) for prompt in prompts]
            placed = [prompt for prompt in placed if prompt is not None]
            channels.append(to_channel(placed, size))
            images.append(context.image.view(view))
            weights.append(float(bool(placed)))
        if not any(weights):
            return None
        encoded = self._segmenter.encode(target.view(own))
        return self._segmenter.answer(
            encoded, np.stack(images), np.stack(channels), np.array(weights, np.float32)
        )

    def _current(self) -> Prepared:
        if self._target is None:
            raise PromptError("there is no target yet; give one to `segment`")
        return self._target

    def _place(self) -> Volume:
        target = self._current()
        # Of the image only the shape is asked.
        return Volume(np.broadcast_to(np.float32(0), target.grid.shape), target.affine)

    def _named(self, structure: str | None) -> str:
        names = list(self.structures)
        if structure is None and len(names) == 1:
            return names[0]
        if structure not in self.structures:
            given = "is not said" if structure is None else f"is {structure!r}"
            raise PromptError(f"the structure {given}; expected one of {', '.join(names)}")
        return structure


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


def _prepared_contexts(
    segmenter: Segmenter, structures: Mapping[str, Sequence[Example]]
) -> dict[str, list[Shown]]:
    """All context images prepared; each is read once, however many structures it shows."""
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
    read_image = functools.lru_cache(maxsize=1)(as_volume)
    read_label = functools.lru_cache(maxsize=1)(as_label_map)
    prepared: tuple[Volume, Prepared] | None = None
    found: dict[tuple[str, int], Shown] = {}
    with track(len(jobs), "reading context", show=len(jobs) > 0) as bar:
        for name, place, example in jobs:
            with located("" if example.name else _called(name, place)):
                for file in example.files[:1]:
                    _check_file(file, segmenter.config)
                volume, prompts = _loaded(example, read_image, read_label)
                if prepared is None or prepared[0] is not volume:
                    # However coarse they are themselves: a target may be finer.
                    held = prepare(volume, segmenter.volume, own=segmenter.may_look_again)
                    prepared = volume, held
                image = prepared[1]
                found[name, place] = _shown_on(image, prompts)
            bar.advance()
    return {name: [found[name, i] for i in range(len(e))] for name, e in structures.items()}


def _check_file(given: object, config: InferenceConfig) -> None:
    path = as_path(given)
    if config.max_memory_gb is not None and path is not None and path.is_file():
        voxels = voxels_in(path)
        if voxels is not None:
            check_reading(voxels, config.max_memory_gb)


def _loaded(example: Example, read_image, read_label) -> ContextImage:
    # Paths alone are worth keeping, and can be told apart.
    by_path = as_path(example.mask) is not None
    return example.load(read_image, read_label if by_path else as_label_map)


def _identity(image: object) -> object:
    path = as_path(image)
    return id(image) if path is None else path


def _called(structure: str, place: int) -> str:
    return f"context {place + 1}" if structure == _ONE else f"{structure}: context {place + 1}"


def _shown_on(image: Prepared, prompts: Sequence[Prompt]) -> Shown:
    placed = [on_grid(prompt, image.grid) for prompt in prompts]
    channel = to_channel(placed, image.grid.grid)
    if image.own is None:
        return Shown(image, (), channel, None)
    held = [_held(prompt) if isinstance(prompt, np.ndarray) else prompt for prompt in prompts]
    return Shown(image, held, channel, faces_of(prompts, image.grid))


def _held(mask: Bool[np.ndarray, "x y z"]) -> _Mask:
    box = Box.around(mask)
    if box is None:
        raise PromptError("mask is empty")
    return _Mask(mask.shape, box, mask[box.slices].copy())
