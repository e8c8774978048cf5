"""A network compiled for inference on one device, with the settings that a task needs of it."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from wsicl_jax.config import InferenceConfig, VolumeConfig
from wsicl_jax.errors import DataError
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.model import ops
from wsicl_jax.model.dual_branch import DualBranch

_ONEDNN_SHARE = 0.15
"""Memory of oneDNN itself, as a share of what XLA plans; 9 % were measured at 128^3."""


class CompiledNetwork:
    """Predicts masks on the working grid, one context image at a time.

    The network is compiled once for each number of context images. Memory does not grow with the
    context set.
    """

    def __init__(
        self,
        model: DualBranch,
        volume: VolumeConfig,
        config: InferenceConfig | None = None,
        *,
        trained_on_crops: bool = False,
        digest: str = "",
    ):
        """`trained_on_crops`: whether training had crops, as tiles of refinement are."""
        self.volume = volume
        self.config = config or InferenceConfig()
        self.trained_on_crops = trained_on_crops
        self.digest = digest
        """Hash of all that predictions depend on; empty if unknown."""
        graph, self._parameters = nnx.split(_one_context_at_a_time(model), nnx.Param)

        def encode(parameters, target):
            return nnx.merge(graph, parameters).encode(target[None, ..., None])

        def predict(parameters, encoded, images, prompts, weights):
            contexts = (x[None, ..., None] for x in (images, prompts))
            network = nnx.merge(graph, parameters)
            return network.predict(encoded, *contexts, weights[None])[0, ..., 0]

        self._encode = jax.jit(encode)
        self._predict = jax.jit(predict)
        self._program_bytes: dict[int, int] = {}

    @property
    def may_refine(self) -> bool:
        """Whether refinement is possible; context images are then kept at full resolution."""
        return self.trained_on_crops if self.config.refine is None else self.config.refine

    def refines(self, grid: WorkingGrid, refine: bool | None) -> bool:
        """Whether a target is refined; `refine` overrides the setting, None keeps it.

        Raises:
            DataError: `refine` asks for refinement, but context images are not kept for it.
        """
        if refine and not self.may_refine:
            raise DataError(
                "refinement needs context images at full resolution, which are not kept; load the "
                "segmenter with refine=True"
            )
        downsampling = float((np.array(grid.turned_shape) / grid.grid).max())
        refine = self.config.refine if refine is None else refine
        if refine is None:
            return self.may_refine and downsampling >= self.config.refine_min_downsampling
        return refine and downsampling > 1

    def encode(self, target: Float[np.ndarray, "x y z"]) -> Any:
        """The target's features, for `predict`; the image is on the working grid, in [0, 1]."""
        return self._encode(self._parameters, target)

    def predict(
        self,
        encoded: Any,
        images: Float[Array | np.ndarray, "context x y z"],
        prompts: Float[Array | np.ndarray, "context x y z"],
        weights: Float[np.ndarray, " context"] | None = None,
    ) -> Float[np.ndarray, "x y z"]:
        """The network's output, near 1 inside and 0 outside; float32, on the working grid.

        `weights` of the context images in their mean: 0 leaves one out, None weighs all alike.
        """
        if weights is None:
            weights = np.ones(len(images), np.float32)
        return np.asarray(self._predict(self._parameters, encoded, images, prompts, weights))

    def program_bytes(self, contexts: int) -> int:
        """Host memory of the compiled network while it runs; 0 on an accelerator.

        This compiles it for a number of context images, which the first target needs anyway.
        """
        if contexts not in self._program_bytes:
            self._program_bytes[contexts] = self._measured_bytes(contexts)
        return self._program_bytes[contexts]

    def _measured_bytes(self, contexts: int) -> int:
        if jax.default_backend() != "cpu":
            return 0
        target = jax.ShapeDtypeStruct(self.volume.grid, np.float32)
        context = jax.ShapeDtypeStruct((contexts, *self.volume.grid), np.float32)
        weights = jax.ShapeDtypeStruct((contexts,), np.float32)
        encoded = jax.eval_shape(self._encode, self._parameters, target)
        programs = (
            self._encode.lower(self._parameters, target),
            self._predict.lower(self._parameters, encoded, context, context, weights),
        )
        size = 0
        for program in programs:
            memory = program.compile().memory_analysis()
            size = max(size, memory.temp_size_in_bytes + memory.output_size_in_bytes)
        library = _ONEDNN_SHARE if ops.cpu_convolution() == "oneDNN" else 0.0
        return int(size * (1 + library)) + sum(
            x.size * x.dtype.itemsize for x in jax.tree.leaves((encoded, context, context))
        )


def _one_context_at_a_time(model: DualBranch) -> DualBranch:
    graph, parameters = nnx.split(model, nnx.Param)
    model = nnx.merge(graph, parameters)
    context = dataclasses.replace(model.config.context, mini_context=1, remat="none")
    model.config = dataclasses.replace(model.config, context=context)
    return model
