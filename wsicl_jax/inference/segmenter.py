"""A network as a segmenter: images of any grid in, label maps on the targets' own grids out."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from wsicl_jax.config import InferenceConfig, VolumeConfig, inference_config
from wsicl_jax.model import ops
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.weights.networks import find_network

if TYPE_CHECKING:
    from wsicl_jax.inference.inputs.example import Example
    from wsicl_jax.inference.task import Task


_ONEDNN_SHARE = 0.15
"""What oneDNN takes for itself beside what XLA plans, as a share: 9 % were seen at 128^3."""


class Segmenter:
    """Segments what the prompts of a context set show, in any number of targets.

        seg = Segmenter.load("runs/hippocampus")
        task = seg.task([Example("sub1.nii.gz", points_mm=[(12.5, -30.0, 8.0)])])
        task.segment("target.nii.gz").save("mask.nii.gz")

    The network is compiled once for each number of context images. It runs on one device of this
    process, one context image at a time: memory does not grow with the context set.
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
        self.volume = volume
        self.digest = digest
        """Hash of all that the network's answers depend on; empty if that is not known."""
        self.config = config or InferenceConfig()
        self.trained_on_crops = trained_on_crops
        """Whether the network was trained on views such as a second look takes."""
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

    @classmethod
    def load(cls, path: str | Path, **settings: Any) -> "Segmenter":
        """The network of a run, a checkpoint or an exported file, or one that comes with this
        package by its name, such as "small"; with its working grid and the like.

        `settings` are those of `config.InferenceConfig`, such as `max_memory_gb=8`.

        Raises:
            CheckpointError: there is no such network, it is damaged, or does not fit.
            ConfigError: a setting is unknown or out of range.
        """
        config = inference_config(**settings)
        network = find_network(path)
        experiment = network.experiment
        close = experiment.episode.crop_share > 0
        return cls(
            network.load(),
            experiment.volume,
            config,
            trained_on_crops=close,
            digest=network.digest,
        )

    def task(
        self,
        structures: "Sequence[Example] | Mapping[str, Sequence[Example]]" = (),
        values: Mapping[str, int] | None = None,
    ) -> "Task":
        """What to segment: context images that show a structure, or several structures by name.

        Structures get the values 1, 2, ... in label maps, or those of `values`. Without any
        context image the prompts on the target itself say what is meant.

        Raises:
            DataError: an image or a label map cannot be read or used.
            PromptError: an example has no prompt, or one outside its image, or one that is empty;
                two structures have the same value.
        """
        from wsicl_jax.inference.task import Task

        return Task(self, structures, values)

    @property
    def may_refine(self) -> bool:
        """Whether there may be second looks, for which context images are held."""
        return self.trained_on_crops if self.config.refine is None else self.config.refine

    def encode(self, target: Float[np.ndarray, "x y z"]) -> Any:
        """The target's half of the network's work, for `predict`; images on the working grid."""
        return self._encode(self._parameters, target)

    def predict(
        self,
        encoded: Any,
        images: Float[Array | np.ndarray, "context x y z"],
        prompts: Float[Array | np.ndarray, "context x y z"],
        weights: Float[np.ndarray, " context"] | None = None,
    ) -> Float[np.ndarray, "x y z"]:
        """The network's output, regressed towards 1 inside and 0 outside; float32.

        A context image of weight 0 counts as if it were not there; None weighs all alike.
        """
        if weights is None:
            weights = np.ones(len(images), np.float32)
        return np.asarray(self._predict(self._parameters, encoded, images, prompts, weights))

    def program_bytes(self, contexts: int) -> int:
        """What the compiled network holds of the host's memory while it runs; 0 on an accelerator.

        It is compiled for this number of context images, which the first target needs anyway.
        """
        if contexts not in self._program_bytes:
            self._program_bytes[contexts] = self._measured(contexts)
        return self._program_bytes[contexts]

    def _measured(self, contexts: int) -> int:
        if jax.default_backend() != "cpu":
            return 0
        target = jax.ShapeDtypeStruct(self.volume.grid, np.float32)
        shown = jax.ShapeDtypeStruct((contexts, *self.volume.grid), np.float32)
        weights = jax.ShapeDtypeStruct((contexts,), np.float32)
        encoded = jax.eval_shape(self._encode, self._parameters, target)
        programs = (
            self._encode.lower(self._parameters, target),
            self._predict.lower(self._parameters, encoded, shown, shown, weights),
        )
        held = 0
        for program in programs:
            needs = program.compile().memory_analysis()
            held = max(held, needs.temp_size_in_bytes + needs.output_size_in_bytes)
        library = _ONEDNN_SHARE if ops.cpu_convolution() == "oneDNN" else 0.0
        return int(held * (1 + library)) + sum(
            x.size * x.dtype.itemsize for x in jax.tree.leaves((encoded, shown, shown))
        )


def _one_context_at_a_time(model: DualBranch) -> DualBranch:
    graph, parameters = nnx.split(model, nnx.Param)
    model = nnx.merge(graph, parameters)
    context = dataclasses.replace(model.config.context, mini_context=1, remat="none")
    model.config = dataclasses.replace(model.config, context=context)
    return model
