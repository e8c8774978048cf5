"""All settings as typed, frozen dataclasses: each has one name, type, default and meaning.

One file for each area of the YAML, and the loading and validation of settings. Nothing heavier
than PyYAML and pydantic may be imported here, and nothing that acts on settings lives here.
"""

from wsicl_jax.config.ablation import AblationConfig
from wsicl_jax.config.augmentation import AUGMENTATIONS, INTENSITY_AUGMENTATIONS, AugmentConfig
from wsicl_jax.config.data import DatasetConfig
from wsicl_jax.config.episodes import EpisodeConfig
from wsicl_jax.config.evaluation import EvaluationConfig, InteractiveConfig, SweepConfig
from wsicl_jax.config.experiment import ExperimentConfig
from wsicl_jax.config.fields import (
    SYNTHETIC,
    BaselineName,
    EvaluatedKind,
    InteractiveKind,
    Orientation,
    PromptKind,
    RestorationTask,
    Task,
)
from wsicl_jax.config.inference import InferenceConfig
from wsicl_jax.config.loading import (
    load_ablation,
    load_config,
    load_sweep,
    override_config,
    read_settings,
)
from wsicl_jax.config.migration import config_from_stored, migrate_settings
from wsicl_jax.config.model import ContextConfig, ModelConfig
from wsicl_jax.config.preparation import PreparationConfig
from wsicl_jax.config.prompts import PromptConfig
from wsicl_jax.config.reading import ReadingConfig
from wsicl_jax.config.serving import ServeConfig
from wsicl_jax.config.synthesis import KindsConfig, PriorConfig, ScannerConfig, SynthConfig
from wsicl_jax.config.training import ParallelConfig, TrainConfig
from wsicl_jax.config.validation import config_from_dict, config_to_dict, validated
from wsicl_jax.config.volume import VolumeConfig

__all__ = [
    "AUGMENTATIONS",
    "INTENSITY_AUGMENTATIONS",
    "SYNTHETIC",
    "AblationConfig",
    "AugmentConfig",
    "BaselineName",
    "ContextConfig",
    "DatasetConfig",
    "EpisodeConfig",
    "EvaluatedKind",
    "EvaluationConfig",
    "ExperimentConfig",
    "InferenceConfig",
    "InteractiveConfig",
    "InteractiveKind",
    "KindsConfig",
    "ModelConfig",
    "Orientation",
    "ParallelConfig",
    "PreparationConfig",
    "PriorConfig",
    "PromptConfig",
    "PromptKind",
    "ReadingConfig",
    "RestorationTask",
    "ScannerConfig",
    "ServeConfig",
    "SweepConfig",
    "SynthConfig",
    "Task",
    "TrainConfig",
    "VolumeConfig",
    "config_from_dict",
    "config_from_stored",
    "config_to_dict",
    "load_ablation",
    "load_config",
    "load_sweep",
    "migrate_settings",
    "override_config",
    "read_settings",
    "validated",
]
