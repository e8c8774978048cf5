"""The directory of a run: whether a configuration may start or go on there."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import wsicl_jax
from wsicl_jax.config import ExperimentConfig, config_to_dict, migrate_settings, read_settings
from wsicl_jax.errors import ConfigError
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.train.checkpoints import has_steps, newest_valid_step

CONFIG = "config.yaml"
LOCK = ".lock"
"""Held by the process that trains there, or leads those that do."""

_MAY_CHANGE = ("run", "evaluation", "train.log_every", "train.checkpoint_every")
_MAY_CHANGE += ("train.keep_checkpoints", "train.keep_best", "train.evaluate_every")
_MAY_CHANGE += ("train.workers", "volume.cache_gb", "train.max_skipped", "parallel")
_MAY_CHANGE += ("model.context.mini_context", "model.context.remat")
_MAY_CHANGE += ("episode.context_multiple", "data.*.store")
"""Settings that a resumed run may change: what is learnt stays the same, up to rounding. Stores
may lie elsewhere; their content is compared."""


_MAY_DIFFER = ("data.*.store", "train.initial_weights", "train.workers", "volume.cache_gb")
"""Settings that may differ between the processes of a run: where the same content lies on each
machine, and what only speed depends on."""


def run_directory(config: ExperimentConfig) -> Path:
    """Where a run is written.

    Raises:
        ConfigError: that is the working directory itself.
    """
    if Path(config.run) == Path():
        raise ConfigError(
            f"run = {config.run!r} is the working directory; give the run a directory of its own, "
            "run=DIRECTORY"
        )
    return Path(config.run)


def shared_settings(config: ExperimentConfig) -> dict[str, Any]:
    """All that must be the same in every process of a run, by name: settings and version."""
    settings = {
        key: value
        for key, value in _flat(config_to_dict(config))
        if not _is_among(_MAY_DIFFER, key)
    }
    return settings | {"the version of wsicl_jax": wsicl_jax.__version__}


def steps_done(run: Path, config: ExperimentConfig, *, resume: bool) -> int:
    """The step from which a run of this configuration would go on; 0: from the start.

    Raises:
        ConfigError: the run exists and `resume` is not set, or its configuration differs in
            more than what may change.
        CheckpointError: all its checkpoints are damaged.
    """
    if not has_steps(run):
        return 0
    if not resume:
        raise ConfigError(
            f"{run} holds a run already; go on with --resume, or give another run=DIRECTORY"
        )
    if differing := changed_settings(saved_settings(run), config):
        raise ConfigError(
            f"{run} was started with another {', '.join(differing)}; resume it with the same "
            "settings, or give another run=DIRECTORY"
        )
    return newest_valid_step(run)


def changed_settings(before: Mapping[str, Any], config: ExperimentConfig) -> list[str]:
    """Settings that a run was started with and may not change, but that differ here."""
    truncated = config.model.context.gradient == "truncated"
    differing = _differing(before, config_to_dict(config))
    return [key for key in differing if _binds(key, truncated)]


def write_config(run: Path, config: ExperimentConfig) -> None:
    """Make the run's directory and write the resolved configuration to it."""
    run.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config_to_dict(config), sort_keys=False)
    write_whole(run / CONFIG, text.encode())


def saved_settings(run: Path) -> dict[str, Any]:
    """Every setting that a run was last started with.

    Raises:
        ConfigError: its configuration is missing or damaged.
    """
    path = run / CONFIG
    if not path.exists():
        raise ConfigError(f"{run} has checkpoints but no {CONFIG}; it cannot be resumed")
    try:
        settings = read_settings(path)
    except ConfigError as error:
        raise ConfigError(f"{path} is damaged, so {run} cannot be resumed: {error}") from None
    if not settings:
        raise ConfigError(
            f"{path} is empty, so it is not known what {run} was started with: bring the file "
            "back, or give another run=DIRECTORY"
        )
    return migrate_settings(settings)


def _binds(key: str, truncated: bool) -> bool:
    if truncated and key == "model.context.mini_context":
        return True  # it decides what the gradient is taken from
    return not _is_among(_MAY_CHANGE, key)


def _is_among(names: Iterable[str], key: str) -> bool:
    patterns = (name.replace(".", r"\.").replace("*", r"\d+") for name in names)
    return any(re.match(rf"{pattern}(\.|$)", key) for pattern in patterns)


def _flat(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every single setting with its name, that of the first data set as `data.0.store`."""
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
            found
            for name in before | now
            for found in _differing(before.get(name), now.get(name), f"{key}.{name}".lstrip("."))
        ]
    if key == "data" and isinstance(before, list) and len(before) == len(now):
        numbered = (dict(enumerate(data_sets)) for data_sets in (before, now))
        return _differing(*numbered, key)
    return [] if before == now else [key]
