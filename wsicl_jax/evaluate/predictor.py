"""A network for evaluation: many episodes in batches, at all context sizes in one pass."""

import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from wsicl_jax.config import VolumeConfig
from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.distributed.placement import gathered
from wsicl_jax.model.dual_branch import DualBranch

_VOXELS_AT_ONCE = 4 * 32**3
"""Largest number of working-grid voxels of the targets in one batch on one device."""


class Predictor:
    """A trained network for inference, on one device or with episodes spread over several.

    With devices of several processes, all of them call it with the same episodes.
    """

    def __init__(
        self,
        model: DualBranch,
        volume: VolumeConfig,
        devices: Sequence[jax.Device] | None = None,
    ):
        self.volume = volume
        self._graph, parameters = nnx.split(model, nnx.Param)
        self._mesh = Mesh(np.array(devices), ("data",)) if devices and len(devices) > 1 else None
        if self._mesh:
            parameters = jax.device_put(parameters, NamedSharding(self._mesh, PartitionSpec()))
        self._parameters = parameters

    @property
    def at_once(self) -> int:
        """Episodes in one batch."""
        own = max(1, _VOXELS_AT_ONCE // int(np.prod(self.volume.grid)))
        return own * (self._mesh.size if self._mesh else 1)

    def parts(self, count: int) -> Iterator[range]:
        """Ranges of episodes, one for each batch, in order."""
        for first in range(0, count, self.at_once):
            yield range(first, min(first + self.at_once, count))

    def outputs(
        self, episodes: Sequence[Episode], sizes: Sequence[int]
    ) -> Float[np.ndarray, "size episode x y z"]:
        """The outputs for the first `sizes` contexts of every episode; float32.

        All sizes share one compilation and one pass, which processes each context image once. The
        outputs equal those of context sets of exactly these sizes, except for rounding. The last
        batch is padded to `at_once`, so that it needs no compilation of its own.
        """
        batch = [np.stack(part) for part in zip(*episodes, strict=True)][:4]
        if missing := -len(episodes) % self.at_once:
            batch = [np.concatenate([x, np.repeat(x[:1], missing, axis=0)]) for x in batch]
        target, _, images, prompts = batch
        last = max(sizes)
        inputs = target, images[:, :last], prompts[:, :last]
        if self._mesh:
            placed = NamedSharding(self._mesh, PartitionSpec("data"))
            inputs = [jax.make_array_from_callback(x.shape, placed, x.__getitem__) for x in inputs]
        requested = np.isin(np.arange(1, last + 1), sizes)
        outputs = _after_each(self._graph, self._parameters, *inputs, requested)
        if self._mesh:
            outputs = gathered(outputs, self._mesh)
        return np.asarray(outputs)[np.array(sizes) - 1][:, : len(episodes), ..., 0]


# One function for all networks, so that each architecture and shape is compiled once.
@functools.partial(jax.jit, static_argnums=0)
def _after_each(graph, parameters, target, images, prompts, requested):
    return nnx.merge(graph, parameters).after_each(target, images, prompts, requested)
