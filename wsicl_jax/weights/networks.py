"""Networks by where they are kept: a run, a checkpoint, a file of weights, or the name of one that
comes with this package.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from wsicl_jax.config import ExperimentConfig, config_to_dict
from wsicl_jax.errors import CheckpointError
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.storage.checkpoints import find_checkpoint, read_metadata
from wsicl_jax.weights.file_loading import load_with_settings
from wsicl_jax.weights.network_checkpoint import checkpoint_digest, experiment_config, model_digest
from wsicl_jax.weights.network_checkpoint import load_model as load_checkpoint

SEEN = "seen"
"""In what a network says of itself, the data that it has seen, where a file has the record."""

_ENDING = ".safetensors"


@dataclass(frozen=True, eq=False)
class StoredNetwork:
    """A network on disk, and what is known of it; its parameters are read when they are asked
    for, at the latest."""

    path: Path
    """The checkpoint's directory, or the file."""
    metadata: Mapping[str, Any]
    """What it says of itself, such as `config` and `step`; of weights of unknown origin no step."""
    digest: str
    """Hash of all that its answers depend on."""

    @cached_property
    def experiment(self) -> ExperimentConfig:
        """The configuration that it was made with.

        Raises:
            CheckpointError: this version does not know it.
        """
        return experiment_config(self.metadata)

    def load(self) -> DualBranch:
        """The network, in float32.

        Raises:
            CheckpointError: it is damaged, or has become another one since it was found.
        """
        if self.path.is_dir():
            return load_checkpoint(self.path)
        model = load_with_settings(self.path).model
        if model_digest(model, self.experiment) != self.digest:
            raise CheckpointError(f"{self.path} was changed while it was used; start again")
        return model


def find_network(path: str | Path) -> StoredNetwork:
    """The network that a path means, or the name of one that comes with this package.

    A name comes before what is on disk under it; `./NAME` means that, and so does a `Path`.

    Raises:
        CheckpointError: there is none, it is damaged, or is a file that carries no weights.
    """
    place = network_path(path)
    if not place.exists():
        raise CheckpointError(
            f"no checkpoint at {place.absolute()}: there is no such file or directory, and the "
            f"networks that come with wsicl_jax are {', '.join(sorted(shipped_networks()))}"
        )
    if place.is_dir():
        # Once: a run in training may save, and then its directory means another checkpoint.
        checkpoint = find_checkpoint(place)
        metadata = read_metadata(checkpoint)
        return StoredNetwork(checkpoint, metadata, checkpoint_digest(metadata))
    loaded = load_with_settings(place)
    experiment, step, seen = loaded.settings
    metadata: dict[str, Any] = {"config": config_to_dict(experiment)}
    if step is not None:
        metadata["step"] = step
    if seen is not None:
        metadata[SEEN] = seen.to_json()
    return StoredNetwork(place.absolute(), metadata, model_digest(loaded.model, experiment))


def load_model(path: str | Path) -> DualBranch:
    """The network of a run (its newest checkpoint), a checkpoint, a file of weights, or a name such
    as `small` that comes with this package.

    Raises:
        CheckpointError: there is none, it is damaged, or its parameters do not fit.
    """
    return find_network(path).load()


def network_path(path: str | Path) -> Path:
    """Where the network lies that a path or a name means, be it there or not.

    A warning says so if a name hides a file or folder.
    """
    shipped = shipped_networks()
    if str(path) not in shipped or (isinstance(path, Path) and path.exists()):
        return Path(path)
    if Path(path).exists():
        warnings.warn(
            f"{path} is the network of this name that comes with wsicl_jax; for what lies in this "
            f"directory say ./{path}",
            stacklevel=3,
        )
    return shipped[str(path)]


def shipped_networks() -> dict[str, Path]:
    """The networks that come with this package, by name."""
    found = sorted(
        files("wsicl_jax.weights").joinpath("shipped").iterdir(), key=lambda file: file.name
    )
    return {
        file.name.removesuffix(_ENDING): Path(str(file))
        for file in found
        if file.name.endswith(_ENDING)
    }
