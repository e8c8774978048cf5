"""The network of the service: one in memory, used by one thread."""

import hashlib
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from wsicl_jax.errors import DataError, PromptError, WsiclError
from wsicl_jax.inference import remarks
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.inputs.images import as_label_map
from wsicl_jax.inference.inputs.positions import box_in, point_in
from wsicl_jax.inference.prepared_images import (
    PreparedContext,
    PreparedImage,
    box_with_prompts,
    prepare_context,
)
from wsicl_jax.inference.result import Segmentation
from wsicl_jax.inference.segmenter import Segmenter
from wsicl_jax.inference.task import Task
from wsicl_jax.metrics.overlap import dice
from wsicl_jax.prompts import Prompt as AnyPrompt
from wsicl_jax.serve.documents import Image, Prompt, Result, State
from wsicl_jax.serve.folder import Folder, ImageFile
from wsicl_jax.serve.kept_images import Kept, KeptImages, bytes_of
from wsicl_jax.serve.session import Session
from wsicl_jax.serve.task_file import marked, prompts_of

_CONTEXTS_AT_ONCE = 4
"""Context sets are filled up to multiples of this with images of weight 0, since every size is
compiled anew."""

_ENCODING_BYTES = 10**9
"""Memory for the features of targets."""

_PROMPT_BYTES = 2 * 10**8
"""Memory for prompts as objects, mostly masks."""


class CancelledError(WsiclError):
    """The request was cancelled."""


class KeepingSegmenter(Segmenter):
    """A segmenter that keeps encodings, compiles few sizes, and can be interrupted."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self._encodings = Kept(_ENCODING_BYTES, _bytes_of_arrays)
        self.interrupt: Callable[[], None] = lambda: None
        """Called before each use of the network; may raise `CancelledError`."""

    def encode(self, target: Float[np.ndarray, "x y z"]) -> Any:
        self.interrupt()
        key = hashlib.blake2b(np.ascontiguousarray(target)).digest()
        encode = super().encode
        return self._encodings.get(key, lambda: encode(target))

    def predict(
        self,
        encoded: Any,
        images: Float[Array | np.ndarray, "context x y z"],
        prompts: Float[Array | np.ndarray, "context x y z"],
        weights: Float[np.ndarray, " context"] | None = None,
    ) -> Float[np.ndarray, "x y z"]:
        self.interrupt()
        missing = -len(images) % _CONTEXTS_AT_ONCE
        weights = np.ones(len(images), np.float32) if weights is None else weights
        filled = [np.pad(x, [(0, missing), *[(0, 0)] * 3], mode="edge") for x in (images, prompts)]
        return super().predict(encoded, *filled, np.pad(weights, (0, missing)))

    def warm_up(self) -> None:
        """Compile the network for a few context images, before anyone waits for it."""
        self.interrupt = lambda: None
        image = np.zeros(self.volume.grid, np.float32)
        context = np.zeros((1, *self.volume.grid), np.float32)
        self.predict(self.encode(image), context, context)


class Outcome(NamedTuple):
    """The result of a target, as label map and as what is kept of it."""

    segmentation: Segmentation
    result: Result


class Engine:
    """Segments targets of sessions. Only one thread may call `segment`."""

    def __init__(self, network: KeepingSegmenter, folder: Folder, images: KeptImages):
        self.network, self._folder, self._images = network, folder, images
        self._contexts = Kept(images.prepared_bytes, _bytes_of_context)
        self._prompts = Kept(_PROMPT_BYTES, _bytes_of_prompts)

    def segment(
        self, session: Session, id: str, *, doubt: bool, interrupt: Callable[[], None]
    ) -> Outcome:
        """Segment a target with the context images of its session and the prompts on itself.

        Raises:
            CancelledError: `interrupt` raised it.
            DataError: an image cannot be read.
            PromptError: no structure has a prompt on a context image or the target.
        """
        begin = time.monotonic()
        self.network.interrupt = interrupt
        interrupt()
        # Both before the work, so that a later prompt leaves the result outdated.
        inputs, state = session.inputs_of(id), session.state
        target = self._target(self._file(id))
        names = {structure.value: structure.name for structure in state.structures}
        contexts = self._contexts_of(session, state, id)
        own = state.images.get(id, Image())
        added = [
            (names[value], prompt)
            for value in marked(own)
            for prompt in self._loaded(session, id, own, value)[1]
        ]
        on_target = {name for name, _ in added}
        values = {n: v for v, n in names.items() if contexts[v] or n in on_target}
        if not values:
            raise PromptError(
                "no prompt marks a structure; mark one on a context image, or on this image"
            )

        def segmented(part: slice, refine: bool | None) -> Segmentation:
            chosen = {name: contexts[value][part] for name, value in values.items()}
            task = Task(self.network, values, chosen)
            return task.segment_prepared(target, added, refine=refine)

        found = segmented(slice(None), None)
        measured = None
        if doubt and all(len(contexts[value]) > 1 for value in values.values()):
            halves = (segmented(slice(half, None, 2), False) for half in (0, 1))
            measured = disagreement([half.label_map for half in halves], values)
        missing = [name for name in names.values() if name not in values]
        notes = [*found.remarks, *(f"{name} has no prompt, and was left out" for name in missing)]
        volumes = found.volumes_ml
        result = Result(
            volumes_ml={value: round(volumes[name], 6) for name, value in values.items()},
            doubt=measured,
            remarks=notes,
            seconds=round(time.monotonic() - begin, 3),
            inputs=inputs,
        )
        return Outcome(found, result)

    def check_prompt(self, id: str, prompt: Prompt) -> None:
        """Raises `PromptError` if a prompt does not fit its image."""
        volume = self._images.volume(self._file(id))
        for position in (prompt.point,) if prompt.point else prompt.scribble or ():
            point_in(volume, position, "voxel")
        if prompt.box is not None:
            box_in(volume, prompt.box, "voxel")

    def _file(self, id: str) -> ImageFile:
        try:
            return self._folder[id]
        except KeyError:
            raise DataError(
                f"{id} is not in the folder any more; put it back or leave it out"
            ) from None

    def _target(self, file: ImageFile) -> PreparedImage:
        volume, full = self._images.volume(file), self.network.may_refine
        image = self._images.prepared(file, full=full)
        notes = (*remarks.on_image(volume.image), *remarks.on_grid(image.grid))
        return image._replace(remarks=notes)

    def _contexts_of(
        self, session: Session, state: State, target: str
    ) -> dict[int, list[PreparedContext]]:
        """The context images of each structure."""
        contexts: dict[int, list[PreparedContext]] = {s.value: [] for s in state.structures}
        for id, image in state.images.items():
            if image.role == "context" and id != target:
                for value in marked(image):
                    contexts[value].append(self._context(session, id, image, value))
        return contexts

    def _context(self, session: Session, id: str, image: Image, value: int) -> PreparedContext:
        key, prompts = self._loaded(session, id, image, value)

        def prepare() -> PreparedContext:
            file = self._file(id)
            volume, content = self._images.volume(file), self._images.content(file)
            crop = box_with_prompts(content, prompts, volume.image.shape)
            prepared = self._images.prepared(file, full=self.network.may_refine, crop=crop)
            return prepare_context(prepared, prompts)

        return self._contexts.get(key, prepare)

    def _loaded(
        self, session: Session, id: str, image: Image, value: int
    ) -> tuple[Hashable, Sequence[AnyPrompt]]:
        """A structure's prompts on an image, and what they depend on."""
        file, given = self._file(id), prompts_of(image, value)
        mask = session.accepted_file(id) if value in image.accepted else None
        key = (file.state, repr(given), mask and (mask, mask.stat().st_mtime_ns), value)

        def load() -> Sequence[AnyPrompt]:
            volume = self._images.volume(file)
            labels = None if mask is None else [value]
            example = Example(file.path, mask=mask, labels=labels, name=file.name, **given)
            return example.load(lambda _: volume, as_label_map).prompts

        return key, self._prompts.get(key, load)


def disagreement(label_maps: Sequence[np.ndarray], structures: Mapping[str, int]) -> float:
    """1 - mean Dice of the structures in two label maps."""
    first, second = label_maps
    agreement = [dice(first == value, second == value) for value in structures.values()]
    return round(1 - sum(agreement) / len(agreement), 4)


def _bytes_of_arrays(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def _bytes_of_context(context: PreparedContext) -> int:
    return bytes_of(context.image) + _bytes_of_prompts(context.placed)


def _bytes_of_prompts(prompts: Sequence[AnyPrompt]) -> int:
    return 1000 * len(prompts) + sum(x.nbytes for x in prompts if isinstance(x, np.ndarray))
