"""Finds networks by path or name: a run, a checkpoint, a file of weights, or a shipped network."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from wsicl_jax.config import ExperimentConfig, config_to_dict
from wsicl_jax.errors import CheckpointError
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.storage.checkpoints import find_checkpoint, read_metadata
from wsicl_jax.storage.object_path import Place, place_of
from wsicl_jax.storage.transfer import on_disk
from wsicl_jax.weights.file_loading import Loaded, load_with_settings
from wsicl_jax.weights.network_checkpoint import (
    checkpoint_digest,
    experiment_config,
    load_checkpoint,
    model_digest,
)

_LICENCES = {
    "small-nc": "CC BY-NC-SA 4.0: no commercial use, and weights trained from it carry the same "
    "licence"
}
"""Licences of shipped networks that differ from that of the package."""

SEEN = "seen"
"""Key of the data that a network has seen, in its metadata; not every file has it."""


@dataclass(frozen=True, eq=False)
class StoredNetwork:
    """A network on disk, or in an object store, with its metadata; `load` reads its parameters."""

    path: Place
    """The checkpoint's directory, or the file."""
    metadata: Mapping[str, Any]
    """Such as `config` and `step`; weights of unknown origin have no step."""
    digest: str
    """Hash of everything that its predictions depend on."""

    @cached_property
    def experiment(self) -> ExperimentConfig:
        """The configuration of its training.

        Raises:
            CheckpointError: this version does not know it.
        """
        return experiment_config(self.metadata)

    def load(self) -> DualBranch:
        """The network, in float32.

        Raises:
            CheckpointError: it is damaged, or was changed since it was found.
        """
        if not self.path.is_file():
            return load_checkpoint(self.path)
        model = _load_file(self.path).model
        if model_digest(model, self.experiment) != self.digest:
            raise CheckpointError(f"{self.path} was changed while in use; start again")
        return model


def find_network(path: str | Place) -> StoredNetwork:
    """The network at a path or URL, or the shipped network of this name.

    The name of a shipped network has priority over a file or folder of the same name; write
    `./NAME` or give a `Path` for the latter.

    Raises:
        CheckpointError: there is none, it is damaged, or the file holds no weights.
    """
    location = network_path(path)
    if not location.exists():
        raise CheckpointError(
            f"no checkpoint at {location.absolute()}: there is no such file or directory, and the "
            f"networks that come with wsicl_jax are {', '.join(sorted(shipped_networks()))}"
        )
    if location.is_dir():
        # Resolved once, because a run in training may save a newer checkpoint at any time.
        checkpoint = find_checkpoint(location)
        metadata = read_metadata(checkpoint)
        return StoredNetwork(checkpoint, metadata, checkpoint_digest(metadata))
    loaded = _load_file(location)
    experiment, step, seen = loaded.settings
    metadata: dict[str, Any] = {"config": config_to_dict(experiment)}
    if step is not None:
        metadata["step"] = step
    if seen is not None:
        metadata[SEEN] = seen.to_json()
    return StoredNetwork(location.absolute(), metadata, model_digest(loaded.model, experiment))


def load_model(path: str | Place) -> DualBranch:
    """The network of a run (its newest checkpoint), a checkpoint, a file of weights, or a shipped
    network by its name, such as `small`.

    Raises:
        CheckpointError: there is none, it is damaged, or its parameters do not fit.
    """
    return find_network(path).load()


def network_path(path: str | Place) -> Place:
    """The path of a network by path, URL or name, whether it exists or not.

    A warning names a file or folder that the name of a shipped network hides, and another states a
    licence that restricts use.
    """
    shipped = shipped_networks()
    if str(path) not in shipped or (isinstance(path, Path) and path.exists()):
        return place_of(path)
    _state_licence(str(path))
    if Path(path).exists():
        warnings.warn(
            f"{path} is the network that comes with wsicl_jax; for the file or folder of this "
            f"name write ./{path}",
            stacklevel=3,
        )
    return shipped[str(path)]


@cache
def _state_licence(name: str) -> None:
    """State the licence of a shipped network if it restricts use; once in a process."""
    if name in _LICENCES:
        warnings.warn(f"the licence of {name} is {_LICENCES[name]}", stacklevel=4)


def _load_file(path: Place) -> Loaded:
    with on_disk(path) as file:
        return load_with_settings(file)


def shipped_networks() -> dict[str, Path]:
    """The networks that come with this package, by name."""
    folder = Path(str(files("wsicl_jax.weights"))) / "shipped"
    return {file.stem: file for file in sorted(folder.glob("*.safetensors"))}
