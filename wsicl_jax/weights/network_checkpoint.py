"""Saves and loads networks as checkpoint directories, and computes their digests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx

from wsicl_jax.config import ExperimentConfig, config_from_stored
from wsicl_jax.errors import CheckpointError, ConfigError
from wsicl_jax.geometry.registration import VERSION as REGISTRATION_VERSION
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.storage import digests
from wsicl_jax.storage.checkpoints import (
    FINGERPRINTS,
    PARAMETERS,
    arrays_by_name,
    composite,
    damage,
    find_checkpoint,
    one_device,
    read_metadata,
    reason_of,
    remove_unfinished,
    restore_arrays,
    weights_item,
)
from wsicl_jax.storage.fingerprints import fingerprint_arrays
from wsicl_jax.storage.object_path import Place, place_of


def save_model(path: str | Path, model: DualBranch, metadata: Mapping[str, Any]) -> None:
    """Write a network without a training state as a checkpoint directory, in one piece.

    Raises:
        CheckpointError: `path` exists already, or cannot be written.
    """
    path = Path(path).absolute()
    if path.exists():
        raise CheckpointError(f"{path} exists already; give a new directory or remove it")
    remove_unfinished(path.parent, path.name)
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(path, composite({PARAMETERS: nnx.state(model, nnx.Param)}, metadata))
    except Exception as error:  # Orbax and TensorStore raise many kinds
        remove_unfinished(path.parent, path.name)
        raise CheckpointError(f"{path} cannot be written: {reason_of(error)}") from error


def load_checkpoint(path: str | Place) -> DualBranch:
    """The network of a checkpoint: an imported one, the newest of a run, or one step of a run.

    If the newest checkpoint of a run is damaged, a warning names it and the previous one is
    loaded.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or its parameters do not fit.
    """
    checkpoint = find_checkpoint(path)
    # `find_checkpoint` has verified what it chose among the checkpoints of a run.
    is_named = checkpoint == place_of(path).absolute()
    if is_named and (reason := damage(checkpoint, weights_only=True)):
        raise CheckpointError(f"{checkpoint}: {reason}")
    metadata = read_metadata(checkpoint)
    graph, shapes = nnx.split(DualBranch.abstract(experiment_config(metadata).model), nnx.Param)
    device = one_device()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes)
    return nnx.merge(graph, restore_arrays(checkpoint, weights_item(metadata), shapes, metadata))


def checkpoint_digest(metadata: Mapping[str, Any]) -> str:
    """Hash of everything that a checkpoint's predictions depend on, from its metadata."""
    return _digest(metadata[FINGERPRINTS][weights_item(metadata)], experiment_config(metadata))


def model_digest(model: DualBranch, config: ExperimentConfig) -> str:
    """The same hash of a loaded network: equal to that of its checkpoint."""
    return _digest(fingerprint_arrays(arrays_by_name(nnx.state(model, nnx.Param))), config)


def _digest(fingerprints: Mapping[str, int], config: ExperimentConfig) -> str:
    model, volume = config.model, config.volume
    rules = [model.channels, model.precision, volume.grid, volume.percentiles]
    # Settings that are off add nothing, so that networks from before these settings keep their
    # digest. "of the set": an earlier version smoothed the prompts of each image by itself.
    smoothing = ["of the set", volume.prompt_smoothing] if volume.prompt_smoothing else []
    crop = ["crop"] if volume.crop else []
    registration = ["registration", REGISTRATION_VERSION] if volume.registration else []
    return digests.digest_of([fingerprints, *rules, *smoothing, *crop, *registration])


def experiment_config(metadata: Mapping[str, Any]) -> ExperimentConfig:
    """The configuration of a checkpoint's training, from its metadata.

    Raises:
        CheckpointError: the metadata has none, or one that this version does not know.
    """
    try:
        return config_from_stored(metadata["config"])
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"the checkpoint's configuration cannot be used: {error}") from error
