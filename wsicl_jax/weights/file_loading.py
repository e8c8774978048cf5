"""Loads a network from a file of any supported format, which its content shows, not its name."""

import warnings
from pathlib import Path
from typing import NamedTuple

from wsicl_jax.config import ExperimentConfig, config_to_dict
from wsicl_jax.errors import CheckpointError
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.storage.lock import locked
from wsicl_jax.weights.file_contents import Weights, refusing
from wsicl_jax.weights.lightning_reader import read_lightning
from wsicl_jax.weights.network_checkpoint import save_model
from wsicl_jax.weights.onnx_reader import read_onnx
from wsicl_jax.weights.safetensors_reader import read_safetensors
from wsicl_jax.weights.stored_settings import Settings, read_settings
from wsicl_jax.weights.tensor_names import fill_from_state_dict

_HEAD_BYTES = 4096
_STABLEHLO = b"ML\xefR"
"""First bytes of the program in a StableHLO file, after a short header of JAX."""
_EXPECTED = (
    "weights: a Lightning checkpoint (.ckpt) or other torch.save file, .safetensors, or .onnx of "
    "`wsicl export`"
)


class Loaded(NamedTuple):
    """A network with its settings."""

    model: DualBranch
    settings: Settings


def load_weights(path: str | Path) -> tuple[DualBranch, ExperimentConfig]:
    """The network in a file of weights, with its settings.

    Reads PyTorch (`.ckpt`, `.pt`), safetensors and ONNX; neither PyTorch nor ONNX has to be
    installed. Parameters become float32. A file without settings of this package counts as one of
    the authors: working grid 128 x 128 x 128, one context image at a time. Nothing in the file is
    executed.

    Raises:
        CheckpointError: the file is missing, damaged, malicious, of another network, or a program
            (StableHLO), whose weights cannot be extracted.
    """
    model, settings = load_with_settings(path)
    return model, settings.experiment


def load_with_settings(path: str | Path) -> Loaded:
    """As `load_weights`, with the number of training steps too."""
    path = Path(path)
    weights = _read(path)
    with refusing(path, _EXPECTED):
        try:
            settings = read_settings(weights.settings, weights.config, checked=weights.checked)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        if not weights.checked:
            warnings.warn(
                f"{path} has no digest, so that damage to it cannot be detected; files of this "
                "version's `wsicl export` have one",
                stacklevel=2,
            )
        model = DualBranch.abstract(settings.experiment.model)
        fill_from_state_dict(model, weights.tensors)
    return Loaded(model, settings)


def import_weights(path: str | Path, output: str | Path) -> Loaded:
    """Turn a file that `load_weights` reads into one of our checkpoints, a new directory.

    Raises:
        CheckpointError: as `load_weights`, or `output` exists already or cannot be written.
        LockedError: another process writes it.
    """
    output = Path(output)
    if output.exists():
        raise CheckpointError(f"{output} exists already; give a new directory or remove it")
    loaded = load_with_settings(path)
    metadata = {"config": config_to_dict(loaded.settings.experiment), "source": Path(path).name}
    if loaded.settings.seen is not None:
        metadata["seen"] = loaded.settings.seen.to_json()
    if loaded.settings.step is not None:
        metadata["step"] = loaded.settings.step
    with locked(output.absolute().parent / f".{output.name}.lock", str(output)):
        save_model(output, loaded.model, metadata)
    return loaded


def _read(path: Path) -> Weights:
    with refusing(path, _EXPECTED):
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if _STABLEHLO in head:
            raise CheckpointError(
                f"{path} is a StableHLO program, whose weights cannot be extracted; import the "
                ".safetensors, .ckpt or .onnx of the same network"
            )
        if head.startswith(b"PK\x03\x04"):
            return read_lightning(path)
        # A length of eight bytes, then JSON.
        if head[8:9] == b"{":
            return read_safetensors(path)
        # The version of the format is the first field of every ONNX file.
        if head.startswith(b"\x08"):
            return read_onnx(path)
        raise ValueError("its format is unknown")
