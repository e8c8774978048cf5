"""A network as a segmenter: images of any grid in, a mask on the target's own grid out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from wsicl_jax.checkpoint import experiment_config, find_checkpoint, load_model, read_metadata
from wsicl_jax.config import VolumeConfig
from wsicl_jax.data.images import Volume
from wsicl_jax.errors import DataError, PromptError, WsiclError
from wsicl_jax.geometry import WorkingGrid
from wsicl_jax.intensity import normalise
from wsicl_jax.model.dual_branch import CUT, DualBranch
from wsicl_jax.prompts import Prompt, on_grid, to_channel


@dataclass(frozen=True, eq=False)
class Example:
    """One context image with its prompts."""

    volume: Volume
    prompts: Sequence[Prompt]
    """Points and boxes in voxels of this image's own grid, masks of its shape; kinds may mix."""
    files: Sequence[Path] = ()
    """What it was read from, so that no mask is written over it."""


@dataclass(frozen=True, eq=False)
class ContextSet:
    """Context images and their prompt channels on the working grid, ready for any target."""

    images: Float[Array, "context x y z"]
    prompts: Float[Array, "context x y z"]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What the network found in one target, on the target's own grid."""

    mask: Bool[np.ndarray, "x y z"]
    """Where the score is above `model.dual_branch.CUT`."""
    score: Float[np.ndarray, "x y z"]
    """The network's output, regressed towards 1 inside and 0 outside; float32."""


class Segmenter:
    """Segments what the prompts of a context set show, in any number of targets.

        segmenter = Segmenter.load("demo/run")
        context = segmenter.context([Example(read_volume("a.nii.gz"), [Point(40.0, 32.0, 18.0)])])
        mask = segmenter.segment(read_volume("b.nii.gz"), context).mask

    The network is compiled once for each number of context images.
    """

    def __init__(self, model: DualBranch, volume: VolumeConfig):
        graph, self._parameters = nnx.split(model, nnx.Param)
        self._volume = volume

        def forward(parameters, target, images, prompts):
            inputs = (x[None, ..., None] for x in (target, images, prompts))
            return nnx.merge(graph, parameters)(*inputs)[0, ..., 0]

        self._forward = jax.jit(forward)

    @classmethod
    def load(cls, path: str | Path) -> "Segmenter":
        """The network of a checkpoint, with the working grid and percentiles of its training.

        Raises:
            CheckpointError: there is no checkpoint, it is damaged, or does not fit.
        """
        # Once: a run in training may save, and then `path` means another checkpoint.
        checkpoint = find_checkpoint(path)
        return cls(load_model(checkpoint), experiment_config(read_metadata(checkpoint)).volume)

    def context(self, examples: Sequence[Example]) -> ContextSet:
        """The examples on the working grid; use the result for as many targets as there are.

        Raises:
            PromptError: there is no example, or one (named by its number, from 1) has no
                prompt, one outside its image, or a mask that is empty or of another shape.
            DataError: an image is not 3D, not finite, or has a useless affine.
        """
        if not examples:
            raise PromptError("no context image; at least one with a prompt is needed")
        images, channels = [], []
        for number, example in enumerate(examples, 1):
            with located(f"context {number}"):
                grid = self._grid(example.volume)
                images.append(self._image(example.volume, grid))
                channels.append(_channel(example.prompts, grid))
        return ContextSet(jnp.asarray(np.stack(images)), jnp.asarray(np.stack(channels)))

    def segment(self, target: Volume, context: ContextSet) -> Segmentation:
        """Find in the target what the context set shows.

        Raises:
            DataError: the target is not 3D, not finite, or has a useless affine.
            ShapeError: the context set is of another working grid.
        """
        with located("target"):
            grid = self._grid(target)
            image = self._image(target, grid)
        output = self._forward(self._parameters, image, context.images, context.prompts)
        score = grid.restore(np.asarray(output))
        return Segmentation(score > CUT, score)

    def _grid(self, volume: Volume) -> WorkingGrid:
        shape, affine = volume.image.shape, volume.affine
        if len(shape) != 3 or not volume.image.size:
            raise DataError(f"image has shape {shape}; expected a 3D volume")
        if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
            raise DataError("affine is singular or not finite, so the axes have no direction")
        return WorkingGrid.of(shape, affine, self._volume.grid)

    def _image(self, volume: Volume, grid: WorkingGrid) -> Float[np.ndarray, "x y z"]:
        # Percentiles of an image with NaN are NaN, which would pass for a constant image.
        if not np.isfinite(volume.image).all():
            raise DataError("image has voxels that are NaN or infinite; replace them first")
        return grid.image(normalise(volume.image, self._volume.percentiles))


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put `where` in front of the message of any error of use that is raised inside."""
    try:
        yield
    except WsiclError as error:
        raise type(error)(f"{where}: {error}") from error


def _channel(prompts: Sequence[Prompt], grid: WorkingGrid) -> Float[np.ndarray, "X Y Z"]:
    if not prompts:
        raise PromptError("image has no prompt; give a point, a box or a mask")
    return to_channel([on_grid(prompt, grid) for prompt in prompts], grid.grid)
