"""The settings of a network as JSON inside a file of weights: written, and read with validation."""

import json
from dataclasses import replace
from typing import Any, NamedTuple

import wsicl_jax
from wsicl_jax.config import (
    ContextConfig,
    ExperimentConfig,
    ModelConfig,
    VolumeConfig,
    config_from_stored,
    config_to_dict,
)
from wsicl_jax.data.seen import Seen
from wsicl_jax.errors import CheckpointError, ConfigError, reason
from wsicl_jax.storage.documents import parse_json

KEY = "wsicl_jax"
"""Key of this JSON in the metadata of every format."""

_FORMAT = 1
_MAX_TEXT = 2**20
_MAX_SIDE = 1024
_PUBLISHED_GRID = (128, 128, 128)


class Settings(NamedTuple):
    """Everything that a network needs besides its weights."""

    experiment: ExperimentConfig
    step: int | None
    """Optimiser steps of its training. None: the training is unknown, and only the sections model
    and volume of the experiment are true."""
    seen: Seen | None = None
    """The data that it has seen; None: there is no record."""


def settings_text(settings: Settings, *, has_digest: bool = False) -> str:
    """The JSON that `read_settings` reads; `has_digest`: the file must have a digest."""
    content: dict[str, Any] = {
        "format": _FORMAT,
        "version": wsicl_jax.__version__,
        "step": settings.step,
        "config": config_to_dict(settings.experiment),
    }
    if settings.seen is not None:
        content["seen"] = settings.seen.to_json()
    if has_digest:
        content["digest"] = True
    return json.dumps(content, allow_nan=False)


def read_settings(text: str | None, network: ModelConfig, *, checked: bool = False) -> Settings:
    """The settings in a file of this network; `checked`: the content fits the file's digest.

    A file without settings counts as one of the authors: the published working grid of
    128 x 128 x 128 over the whole image, without a crop. Context images are processed one at a
    time, so that memory does not grow with the context set.

    Raises:
        CheckpointError: the text has no valid settings, or those of another network.
    """
    if text is None:
        config = replace(network, context=ContextConfig(mini_context=1))
        volume = VolumeConfig(grid=_PUBLISHED_GRID, crop=False)
        return Settings(ExperimentConfig(model=config, volume=volume), None)
    try:
        content = _parsed(text)
        settings = _checked(content)
        if content.get("digest") and not checked:
            raise ValueError("the digest of the file is missing")
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"its settings ({KEY!r}) cannot be used: {reason(error)}; export the network again"
        ) from None
    model, grid = settings.experiment.model, settings.experiment.volume.grid
    if model.channels != network.channels:
        raise CheckpointError(
            f"its settings ({KEY!r}) have {len(model.channels)} stages of channels "
            f"{str(model.channels)[:60]}, but its tensors have {network.channels}; export it again"
        )
    if max(grid) > _MAX_SIDE:
        raise CheckpointError(
            f"its settings ({KEY!r}) have a working grid of {str(grid)[:60]} voxels; expected at "
            f"most {_MAX_SIDE} a side"
        )
    return settings


def _parsed(text: str) -> Any:
    if len(text) > _MAX_TEXT:
        raise ValueError(f"they have {len(text)} characters; expected at most {_MAX_TEXT}")
    return parse_json(text)


def _checked(content: Any) -> Settings:
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise ValueError("they have no configuration")
    if content.get("format") != _FORMAT:
        raise ValueError(f"this version reads format {_FORMAT} alone, and they have another")
    step = content.get("step")
    if step is not None and not (type(step) is int and 0 <= step < 2**48):
        raise ValueError("step is not a number of steps")
    seen = Seen.from_json(content["seen"]) if "seen" in content else None
    return Settings(config_from_stored(content["config"]), step, seen)
