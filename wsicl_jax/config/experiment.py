"""All settings of an experiment, and the rules between areas."""

from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from wsicl_jax.config.augmentation import INTENSITY_AUGMENTATIONS, AugmentConfig
from wsicl_jax.config.data import DatasetConfig
from wsicl_jax.config.episodes import EpisodeConfig
from wsicl_jax.config.evaluation import EvaluationConfig
from wsicl_jax.config.fields import RULES, LocalPath, Seed
from wsicl_jax.config.model import ModelConfig
from wsicl_jax.config.prompts import PromptConfig
from wsicl_jax.config.synthesis import SynthConfig
from wsicl_jax.config.training import ParallelConfig, TrainConfig
from wsicl_jax.config.volume import VolumeConfig


@dataclass(frozen=True, kw_only=True, config=RULES)
class ExperimentConfig:
    """A whole experiment."""

    run: LocalPath = "runs/experiment"
    """Directory of the run, or its `s3://` or `gs://` URL: configuration, log and checkpoints."""
    seed: Seed = 0
    """Seed of initialization, episodes and the split."""
    data: Annotated[tuple[DatasetConfig, ...], Field(min_length=1)] = (DatasetConfig(),)
    """Data sets; or the path of a single store, or `synthetic`."""
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
    """Optimization."""
    parallel: ParallelConfig = ParallelConfig()
    """Device mesh."""
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
    def _check_volume(self):
        multiple = self.model.size_multiple
        if any(side % multiple for side in self.volume.grid):
            raise ValueError(
                f"volume.grid {self.volume.grid} is no multiple of {multiple}, as "
                f"{len(self.model.channels)} stages of model.channels need"
            )
        return self

    @model_validator(mode="after")
    def _check_contexts(self):
        episode = self.episode
        if episode.common_contexts > episode.contexts[1]:
            raise ValueError(
                f"episode.common_contexts = {episode.common_contexts} is more than "
                f"episode.contexts {episode.contexts} allows"
            )
        truncated = self.model.context.gradient == "truncated"
        if truncated and episode.context_multiple != 1:
            raise ValueError(
                "model.context.gradient = truncated could select images of weight 0: set "
                "episode.context_multiple to 1"
            )
        if truncated and self.parallel.context != 1:
            raise ValueError(
                "model.context.gradient = truncated uses a single mini-context, which cannot be "
                "shared by devices: set parallel.context to 1"
            )
        return self

    @model_validator(mode="after")
    def _check_tasks(self):
        if [task for task, share in self.episode.tasks.items() if share] == ["segmentation"]:
            return self
        if self.train.loss == "dice_ce":
            raise ValueError(
                "train.loss = dice_ce is for masks, but episode.tasks has image-to-image tasks: "
                "set it to l1 or smooth_l3_l1"
            )
        changed = [name for name in INTENSITY_AUGMENTATIONS if getattr(self.augment, name)]
        if changed:
            raise ValueError(
                f"augment.{changed[0]} changes the input but not the expected image of the "
                f"image-to-image tasks in episode.tasks: set {', '.join(changed)} to 0"
            )
        return self

    @model_validator(mode="after")
    def _check_schedule(self):
        if self.train.schedule == "plateau" and not (
            self.evaluation.kinds or self.evaluation.restoration
        ):
            raise ValueError(
                "train.schedule = plateau follows the validation loss, which interactive sessions "
                "do not have: set evaluation.kinds"
            )
        return self

    @model_validator(mode="after")
    def _check_data(self):
        if not any(dataset.weight for dataset in self.data):
            raise ValueError("every data set has weight 0; give one of them a larger weight")
        for number, dataset in enumerate(self.data):
            if dataset.structure_weights and self.episode.structures != "named":
                raise ValueError(
                    f"data.{number}.structure_weights needs named structures: set "
                    "episode.structures to named, or remove the weights"
                )
        if self.evaluation.part == "held_out" and not self.episode.held_out_share:
            raise ValueError(
                "evaluation.part = held_out, but episode.held_out_share is 0: no subject is held "
                "out"
            )
        return self
