"""The directory of a run: whether a configuration may start or resume there."""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import wsicl_jax
from wsicl_jax.config import (
    ExperimentConfig,
    TrainConfig,
    config_from_dict,
    config_to_dict,
    migrate_settings,
    read_settings,
)
from wsicl_jax.errors import CheckpointError, ConfigError, DataError
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.checkpoints import STEPS, read_metadata, step_directories
from wsicl_jax.storage.object_path import Place, place_of
from wsicl_jax.train.run_checkpoints import has_steps, newest_valid_step
from wsicl_jax.train.state import learning_rate
from wsicl_jax.weights.network_checkpoint import experiment_config

CONFIG = "config.yaml"
LOCK = ".lock"
"""Lock file, held by the leading process of the training."""

_MAY_CHANGE = (
    *("run", "evaluation", "parallel", "volume.cache_gb", "episode.context_multiple"),
    "train.accumulate",
    *("model.context.mini_context", "model.context.remat", "data.*.store"),
    *("train.log_every", "train.checkpoint_every", "train.evaluate_every", "train.workers"),
    *("train.keep_checkpoints", "train.keep_best", "train.max_skipped"),
    *("train.profile", "train.trackers", "train.pictures"),
)
"""Settings that a resumed run may change: the result stays equal, up to rounding. Stores may move;
their content is compared."""

_TRAINED_ON = {"train.steps", "train.schedule", "train.decay_steps"}
"""Settings that a resumed run may change if the learning rates up to a checkpoint stay the same."""

_MAY_DIFFER = ("data.*.store", "train.initial_weights", "train.workers", "volume.cache_gb")
"""Settings that may differ between the processes of a run: local paths of the same content, and
settings that only affect speed."""


def run_directory(config: ExperimentConfig) -> Place:
    """The directory of a run, on a disk or in an object store.

    Raises:
        ConfigError: it is the working directory itself, or a URL of no object store.
    """
    try:
        run = place_of(config.run)
    except DataError as error:
        raise ConfigError(f"run = {error}") from None
    if run == Path():
        raise ConfigError(
            f"run = {config.run!r} is the working directory; give the run a directory of its own, "
            "run=DIRECTORY"
        )
    return run


def shared_settings(config: ExperimentConfig) -> dict[str, Any]:
    """Everything that must be equal in all processes of a run: settings and version, by name."""
    settings = {
        key: value
        for key, value in _flat(config_to_dict(config))
        if not _is_among(_MAY_DIFFER, key)
    }
    return settings | {"the version of wsicl_jax": wsicl_jax.__version__}


def steps_done(run: Place, config: ExperimentConfig, *, resume: bool) -> int:
    """The step from which a run of this configuration continues; 0: from the start.

    The number of steps and the schedule may change, as long as the learning rates up to a
    checkpoint stay the same: the newest such checkpoint counts.

    Raises:
        ConfigError: the run exists and `resume` is not set, or settings differ that may not
            change.
        CheckpointError: all its checkpoints are damaged.
    """
    if not has_steps(run):
        return 0
    if not resume:
        raise ConfigError(
            f"{run} holds a run already; continue with --resume, or give another run=DIRECTORY"
        )
    differing = set(changed_settings(saved_settings(run), config))
    if differing and not (differing <= _TRAINED_ON and _has_no_share_of_steps(config)):
        raise ConfigError(
            f"{run} was started with another {', '.join(sorted(differing))}; resume it with the "
            "same settings, or give another run=DIRECTORY"
        )
    return _newest_that_leads_to(run, config)


def changed_settings(before: Mapping[str, Any], config: ExperimentConfig) -> list[str]:
    """Settings that differ from those that a run was started with, and may not."""
    binding = [
        *(["model.context.mini_context"] if config.model.context.gradient == "truncated" else []),
        # The learning rate depends on them.
        *(["evaluation", "train.evaluate_every"] if config.train.schedule == "plateau" else []),
    ]
    differing = _differing(_with_defaults(before), config_to_dict(config))
    return [k for k in differing if _is_among(binding, k) or not _is_among(_MAY_CHANGE, k)]


def write_config(run: Place, config: ExperimentConfig) -> None:
    """Make the run's directory and write the resolved configuration there."""
    run.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config_to_dict(config), sort_keys=False)
    write_whole(run / CONFIG, text.encode())


def saved_settings(run: Place) -> dict[str, Any]:
    """The settings that a run was last started with.

    Raises:
        ConfigError: its configuration is missing or damaged.
    """
    path = run / CONFIG
    if not path.is_file():
        raise ConfigError(f"{run} has checkpoints but no {CONFIG}; it cannot be resumed")
    try:
        settings = read_settings(path)
    except ConfigError as error:
        raise ConfigError(f"{path} is damaged, so {run} cannot be resumed: {error}") from None
    if not settings:
        raise ConfigError(
            f"{path} is empty, so the settings of {run} are unknown: restore the file, or give "
            "another run=DIRECTORY"
        )
    return migrate_settings(settings)


def _has_no_share_of_steps(config: ExperimentConfig) -> bool:
    """Whether nothing but the learning rate depends on the number of steps of the whole run."""
    return not (config.episode.shuffled_prompts_share and config.episode.shuffled_prompts_from)


def _newest_that_leads_to(run: Place, config: ExperimentConfig) -> int:
    """The newest valid checkpoint with the learning rates of this configuration up to its step."""
    all_steps = [int(directory.name) for directory in step_directories(run / STEPS)]
    leading = {step for step in all_steps if _leads_to(run / STEPS / str(step), config)}
    skipped, settings = sorted(set(all_steps) - leading), config.train
    if not leading or (skipped and skipped[-1] > settings.steps):
        raise ConfigError(
            f"{run} has made {skipped[-1]} steps, which a run with train.steps = {settings.steps} "
            f"and schedule = {settings.schedule} does not make: resume it with the same settings; "
            "schedules constant and warmup_stable_decay can be trained on to more steps, and any "
            f"run is a start for another one by train.initial_weights={run}"
        )
    if skipped:
        warnings.warn(
            f"{run} is trained on from before step {skipped[0]}, where its learning rate had begun "
            "to decay; later checkpoints are replaced when the run reaches their steps",
            stacklevel=2,
        )
    return newest_valid_step(run, lambda directory: int(directory.name) in leading)


def _schedule(settings: TrainConfig) -> tuple[int, str, int]:
    return settings.steps, settings.schedule, settings.decay_steps


def _leads_to(checkpoint: Place, config: ExperimentConfig) -> bool:
    """Whether a run of this configuration has the learning rates that led to a checkpoint."""
    try:
        metadata = read_metadata(checkpoint)
        trained = experiment_config(metadata).train
    except CheckpointError:
        return True  # whoever restores it says what is wrong
    if _schedule(trained) == _schedule(config.train):
        return True
    if int(checkpoint.name) > config.train.steps:
        return False
    if (trained.schedule == "plateau") != (config.train.schedule == "plateau"):
        return False  # the rates of a plateau follow from its evaluations
    updates = np.arange(int(checkpoint.name) - metadata.get("skipped", 0))
    rates = [
        np.broadcast_to(learning_rate(settings)(updates), updates.shape)
        for settings in (trained, config.train)
    ]
    return np.array_equal(*rates)


def _with_defaults(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Stored settings, with defaults for those that are newer than the run."""
    try:
        return config_to_dict(config_from_dict(settings))
    except ConfigError:
        return settings  # of a version that knew others: they differ


def _is_among(names: Iterable[str], key: str) -> bool:
    patterns = (name.replace(".", r"\.").replace("*", r"\d+") for name in names)
    return any(re.match(rf"{pattern}(\.|$)", key) for pattern in patterns)


def _flat(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting with its dotted name, such as `data.0.store`."""
    if key == "data" and isinstance(settings, list):
        settings = dict(enumerate(settings))
    if isinstance(settings, dict) and settings:
        for name, value in settings.items():
            yield from _flat(value, f"{key}.{name}".lstrip("."))
    else:
        yield key, settings


def _differing(before: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            setting
            for name in before | now
            for setting in _differing(before.get(name), now.get(name), f"{key}.{name}".lstrip("."))
        ]
    if key == "data" and isinstance(before, list) and len(before) == len(now):
        numbered = (dict(enumerate(data_sets)) for data_sets in (before, now))
        return _differing(*numbered, key)
    return [] if before == now else [key]
