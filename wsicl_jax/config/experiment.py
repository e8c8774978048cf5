"""All settings of an experiment, and the rules between areas."""

from typing import Annotated, Any

from pydantic import (
    Field,
    model_validator,
)
from pydantic.dataclasses import dataclass

from wsicl_jax.config.augmentation import INTENSITY_AUGMENTATIONS, AugmentConfig
from wsicl_jax.config.data import DatasetConfig
from wsicl_jax.config.episodes import EpisodeConfig
from wsicl_jax.config.evaluation import EvaluationConfig
from wsicl_jax.config.fields import _RULES, Count, LocalPath
from wsicl_jax.config.model import ModelConfig
from wsicl_jax.config.prompts import PromptConfig
from wsicl_jax.config.synthesis import SynthConfig
from wsicl_jax.config.training import ParallelConfig, TrainConfig
from wsicl_jax.config.volume import VolumeConfig


@dataclass(frozen=True, kw_only=True, config=_RULES)
class ExperimentConfig:
    """A whole experiment."""

    run: LocalPath = "runs/experiment"
    """Directory that the run writes: configuration, log, checkpoints."""
    seed: Annotated[Count, Field(lt=2**32)] = 0
    """Seed of initialisation, episodes and validation split."""
    data: Annotated[tuple[DatasetConfig, ...], Field(min_length=1)] = (DatasetConfig(),)
    """Data sets; a single store's path, or `synthetic`, may stand for a list."""
    volume: VolumeConfig = VolumeConfig()
    """Working grid and intensities."""
    synth: SynthConfig = SynthConfig()
    """Synthetic cohorts, where a data set is `synthetic`."""
    episode: EpisodeConfig = EpisodeConfig()
    """Episodes of training."""
    prompts: PromptConfig = PromptConfig()
    """Prompts of training."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation in training."""
    model: ModelConfig = ModelConfig()
    """Network."""
    train: TrainConfig = TrainConfig()
    """Optimisation."""
    parallel: ParallelConfig = ParallelConfig()
    """Devices."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation."""

    @model_validator(mode="before")
    @classmethod
    def _short_data(cls, arguments: Any) -> Any:
        settings = arguments.kwargs if hasattr(arguments, "kwargs") else arguments
        if settings and isinstance(settings.get("data"), str):
            settings["data"] = [{"store": settings["data"]}]
        return arguments

    @model_validator(mode="after")
    def _check(self):
        multiple = self.model.size_multiple
        if any(side % multiple for side in self.volume.grid):
            raise ValueError(
                f"volume.grid {self.volume.grid} is no multiple of {multiple}, as "
                f"{len(self.model.channels)} stages of model.channels need"
            )
        for name, (low, high) in {
            "episode.contexts": self.episode.contexts,
            "prompts.count": self.prompts.count,
            "augment.subsample_factor": self.augment.subsample_factor,
            "augment.gin_blend": self.augment.gin_blend,
        }.items():
            if low > high:
                raise ValueError(f"{name} is ({low}, {high}); give the smaller number first")
        if self.episode.common_contexts > self.episode.contexts[1]:
            raise ValueError(
                f"episode.common_contexts = {self.episode.common_contexts} is more than "
                f"episode.contexts {self.episode.contexts} allows"
            )
        if self.model.context.gradient == "truncated" and self.episode.context_multiple != 1:
            raise ValueError(
                "model.context.gradient = truncated would be drawn from images of weight 0 too: "
                "set episode.context_multiple to 1"
            )
        if self.model.context.gradient == "truncated" and self.parallel.context != 1:
            raise ValueError(
                "model.context.gradient = truncated takes its gradient from one mini-context, so "
                "there is nothing to spread: set parallel.context to 1"
            )
        if not any(dataset.weight for dataset in self.data):
            raise ValueError("every data set has weight 0; one needs more")
        restored = [task for task, share in self.episode.tasks.items() if share]
        if restored != ["segmentation"] and self.train.loss == "dice_ce":
            raise ValueError(
                "train.loss = dice_ce is for masks, but episode.tasks have images to restore: set "
                "it to l1 or smooth_l3_l1"
            )
        changed = [name for name in INTENSITY_AUGMENTATIONS if getattr(self.augment, name)]
        if restored != ["segmentation"] and changed:
            raise ValueError(
                f"augment.{changed[0]} changes what the network sees but not what it should "
                f"become, as episode.tasks with images need: set {', '.join(changed)} to 0"
            )
        for number, dataset in enumerate(self.data):
            if dataset.structure_weights and self.episode.structures != "named":
                raise ValueError(
                    f"data.{number}.structure_weights are of named structures: set "
                    "episode.structures to named, or leave them out"
                )
        if self.evaluation.part == "held_out" and not self.episode.held_out_share:
            raise ValueError(
                "evaluation.part = held_out, but episode.held_out_share is 0: nothing is held out"
            )
        return self
