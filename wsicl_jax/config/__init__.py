"""The experiment as typed, frozen dataclasses: each setting named, typed and defaulted once.

One file for each area of the YAML. Nothing heavier than PyYAML and pydantic may be imported here.
"""

from wsicl_jax.config.ablation import (
    AblationConfig,
)
from wsicl_jax.config.augmentation import (
    AUGMENTATIONS,
    INTENSITY_AUGMENTATIONS,
    AugmentConfig,
)
from wsicl_jax.config.data import (
    DatasetConfig,
)
from wsicl_jax.config.episodes import (
    EpisodeConfig,
)
from wsicl_jax.config.evaluation import (
    EvaluationConfig,
    InteractiveConfig,
    SweepConfig,
)
from wsicl_jax.config.experiment import (
    ExperimentConfig,
)
from wsicl_jax.config.fields import (
    SYNTHETIC,
    Amount,
    BaselineName,
    Count,
    EvaluatedKind,
    InteractiveKind,
    LocalPath,
    Orientation,
    Positive,
    PromptKind,
    RestorationTask,
    Shards,
    Share,
    Spacing,
    Task,
)
from wsicl_jax.config.inference import (
    InferenceConfig,
)
from wsicl_jax.config.loading import (
    config_from_dict,
    config_to_dict,
    inference_config,
    load_ablation,
    load_config,
    load_sweep,
    override_config,
    preparation_from_dict,
    read_settings,
    reading_config,
)
from wsicl_jax.config.migration import config_from_stored, migrate_settings
from wsicl_jax.config.model import (
    ContextConfig,
    ModelConfig,
)
from wsicl_jax.config.preparation import (
    PreparationConfig,
)
from wsicl_jax.config.prompts import (
    PromptConfig,
)
from wsicl_jax.config.reading import (
    AssumptionConfig,
    ReadingConfig,
)
from wsicl_jax.config.synthesis import (
    KindsConfig,
    PriorConfig,
    ScannerConfig,
    SynthConfig,
)
from wsicl_jax.config.training import (
    ParallelConfig,
    TrainConfig,
)
from wsicl_jax.config.volume import (
    VolumeConfig,
)

__all__ = [
    "AUGMENTATIONS",
    "INTENSITY_AUGMENTATIONS",
    "SYNTHETIC",
    "AblationConfig",
    "Amount",
    "AssumptionConfig",
    "AugmentConfig",
    "BaselineName",
    "ContextConfig",
    "Count",
    "DatasetConfig",
    "EpisodeConfig",
    "EvaluatedKind",
    "EvaluationConfig",
    "ExperimentConfig",
    "InferenceConfig",
    "InteractiveConfig",
    "InteractiveKind",
    "KindsConfig",
    "LocalPath",
    "ModelConfig",
    "Orientation",
    "ParallelConfig",
    "Positive",
    "PreparationConfig",
    "PriorConfig",
    "PromptConfig",
    "PromptKind",
    "ReadingConfig",
    "RestorationTask",
    "ScannerConfig",
    "Shards",
    "Share",
    "Spacing",
    "SweepConfig",
    "SynthConfig",
    "Task",
    "TrainConfig",
    "VolumeConfig",
    "config_from_dict",
    "config_from_stored",
    "config_to_dict",
    "inference_config",
    "load_ablation",
    "load_config",
    "load_sweep",
    "migrate_settings",
    "override_config",
    "preparation_from_dict",
    "read_settings",
    "reading_config",
]
