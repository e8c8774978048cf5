"""A trained network as a segmenter: images on any grid in, label maps on the targets' grids out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsicl_jax.config import InferenceConfig, validated
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.network import CompiledNetwork
from wsicl_jax.inference.task import Task, task_of
from wsicl_jax.weights.networks import find_network


class Segmenter(CompiledNetwork):
    """Segments the structures that context images and prompts define, in any number of targets.

    seg = Segmenter.load("runs/hippocampus")
    task = seg.task([Example("sub1.nii.gz", points_mm=[(12.5, -30.0, 8.0)])])
    task.segment("target.nii.gz").save("mask.nii.gz")
    """

    @classmethod
    def load(cls, path: str | Path, **settings: Any) -> "Segmenter":
        """Load a network: a run, a checkpoint, an exported file, or a shipped one such as "small".

        `settings` are those of `config.InferenceConfig`, such as `max_memory_gb=8`.

        Raises:
            CheckpointError: there is no such network, it is damaged, or does not fit.
            ConfigError: a setting is unknown or out of range.
        """
        config = validated(InferenceConfig, settings)
        network = find_network(path)
        experiment = network.experiment
        return cls(
            network.load(),
            experiment.volume,
            config,
            trained_on_crops=experiment.episode.crop_share > 0,
            digest=network.digest,
        )

    def task(
        self,
        structures: Sequence[Example] | Mapping[str, Sequence[Example]] = (),
        values: Mapping[str, int] | None = None,
    ) -> Task:
        """What to segment: the context images of one structure, or of several by name.

        Structures get the values 1, 2, ... in label maps, or those of `values`. Without context
        images, prompts on the target itself define the structure.

        Raises:
            DataError: an image or a label map cannot be read or used.
            PromptError: an example has no prompt, an empty one, or one outside its image; two
                structures have the same value.
        """
        return task_of(self, structures, values)
