"""Our settings as JSON inside a file of another format, and read from one without trust."""

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
"""Under which every format keeps this JSON."""

_FORMAT = 1
_LARGEST_TEXT = 2**20
_LONGEST_SIDE = 1024
_PUBLISHED_GRID = (128, 128, 128)


class Settings(NamedTuple):
    """What a network needs beside its weights."""

    experiment: ExperimentConfig
    step: int | None
    """Optimiser steps that it was trained for; None: how it was trained is not known, and the
    experiment tells no more than the network and its inputs."""
    seen: Seen | None = None
    """The data that it has seen; None: there is no record."""


def settings_text(settings: Settings, *, has_digest: bool = False) -> str:
    """The JSON that `read_settings` reads; it says whether the file carries a digest."""
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
    """The settings that came with weights of this network; `checked`: the file's digest was right.

    Without any, the weights are the authors': the published working grid of 128 x 128 x 128, and
    one context image at a time, so that memory does not grow with the context set.

    Raises:
        CheckpointError: they are no settings of this package, are out of all bounds, or are those
            of another network.
    """
    if text is None:
        config = replace(network, context=ContextConfig(mini_context=1))
        volume = VolumeConfig(grid=_PUBLISHED_GRID)
        return Settings(ExperimentConfig(model=config, volume=volume), None)
    try:
        content = _parsed(text)
        settings = _checked(content)
        if content.get("digest") and not checked:
            raise ValueError("the digest that they speak of is not there")
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"its settings ({KEY!r}) cannot be used: {reason(error)}; export the network again"
        ) from None
    model, grid = settings.experiment.model, settings.experiment.volume.grid
    if model.channels != network.channels:
        raise CheckpointError(
            f"its settings ({KEY!r}) are of a network of {len(model.channels)} stages, "
            f"{str(model.channels)[:60]}, but its tensors of {network.channels}; export it again"
        )
    if max(grid) > _LONGEST_SIDE:
        raise CheckpointError(
            f"its settings ({KEY!r}) have a working grid of {str(grid)[:60]} voxels; expected at "
            f"most {_LONGEST_SIDE} a side"
        )
    return settings


def _parsed(text: str) -> Any:
    if len(text) > _LARGEST_TEXT:
        raise ValueError(f"they have {len(text)} characters; expected at most {_LARGEST_TEXT}")
    return parse_json(text)


def _checked(content: Any) -> Settings:
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise ValueError("there is no configuration in them")
    if content.get("format") != _FORMAT:
        raise ValueError(f"they have another format than {_FORMAT}, which this version reads")
    step = content.get("step")
    if step is not None and not (type(step) is int and 0 <= step < 2**48):
        raise ValueError("step is no number of steps")
    seen = Seen.from_json(content["seen"]) if "seen" in content else None
    return Settings(config_from_stored(content["config"]), step, seen)
