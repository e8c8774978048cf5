"""Settings that earlier versions stored, under their present names.

Runs, checkpoints and exported files keep the settings that they were made with. YAML files that
users write must have the present names.
"""

from collections.abc import Mapping
from typing import Any

from wsicl_jax.config.experiment import ExperimentConfig
from wsicl_jax.config.validation import config_from_dict

_RENAMED: Mapping[str, Mapping[str, str]] = {
    "volume": {"prompt_halo": "prompt_smoothing"},
    "episode": {
        "close_share": "crop_share",
        "own_context_share": "self_context_share",
        "shuffled_from": "shuffled_prompts_from",
        "shuffled_share": "shuffled_prompts_share",
        "usual_contexts": "common_contexts",
        "usual_share": "common_contexts_share",
    },
    "synth": {
        "alike": "same_appearance",
        "contrast": "intensity_sd",
        "levels": "intensity_levels",
        "prior_close": "prior_crop",
        "smallest_share": "min_structure_share",
        "territories": "parcellation",
    },
    "synth.scanner": {"cut": "cut_field_of_view"},
    "augment": {
        "largest_scale": "max_scale",
        "largest_shift": "max_shift",
        "turn": "rotate90",
        "turn_each": "rotate90_each",
    },
    "train": {"beginning": "initialization", "weights": "initial_weights"},
    "evaluation": {"looks": "target_dependence"},
}
"""Section to its old names and their present ones."""


def config_from_stored(settings: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment that was stored with a run, a checkpoint or a file.

    Raises:
        ConfigError: as `config_from_dict`.
    """
    return config_from_dict(migrate_settings(settings))


def migrate_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings with every old name replaced; present names stay."""
    return {name: _migrated(value, name) for name, value in settings.items()}


def _migrated(value: Any, section: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    names = _RENAMED.get(section, {})
    migrated = {
        names.get(name, name): _migrated(below, f"{section}.{name}")
        for name, below in value.items()
    }
    if section == "synth" and "prior" in migrated:
        # One store, or "" for none, has become a list of stores.
        store = migrated.pop("prior")
        migrated.setdefault("priors", [{"store": store}] if store else [])
    return migrated
