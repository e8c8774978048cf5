"""Weights as a safetensors file, under the authors' names, and back."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from jax import numpy as jnp
from jaxtyping import Float
from safetensors.numpy import save

from wsicl_jax.config import config_to_dict
from wsicl_jax.model.dual_branch import THRESHOLD, DualBranch
from wsicl_jax.weights.export.verification import Sample, reference
from wsicl_jax.weights.file_contents import Weights, config_of, refusing
from wsicl_jax.weights.file_digest import DIGEST, check_digest, digest_of
from wsicl_jax.weights.names import (
    check_shapes,
    fill_from_state_dict,
    state_dict_shapes,
    to_state_dict,
)
from wsicl_jax.weights.settings import KEY, Settings, settings_text

_KINDS = {"F64", "F32", "F16", "BF16"}
# That of the published network has some 20 kB, and settings may have as many.
_LARGEST_HEADER = 4 * 2**20
_EXPECTED = "a safetensors file of this network, as `wsicl export` writes it"


def write_safetensors(path: Path, model: DualBranch, settings: Settings, dtype: str) -> None:
    """All parameters in a number format, such as float16, with our settings as metadata."""
    stored = {name: x.astype(jnp.dtype(dtype)) for name, x in to_state_dict(model).items()}
    metadata = {KEY: settings_text(settings, has_digest=True)}
    metadata[DIGEST] = digest_of(_parts(stored, metadata))
    # Written here: the library would make a file for its owner's eyes alone.
    path.write_bytes(with_metadata(save(stored), metadata))


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with these metadata, sorted, in place of its own.

    The library gives them another order in each process, so that no two files were alike.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items()))} | {
        name: entry for name, entry in json.loads(content[8:start]).items() if name[:2] != "__"
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # as the format has it, so that tensors are aligned
    return len(text).to_bytes(8, "little") + text + content[start:]


def _parts(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Iterator[bytes]:
    """All that a file says, whatever the order of its header."""
    for name, value in sorted(metadata.items()):
        if name != DIGEST:
            yield from (name.encode(), value.encode())
    for name, tensor in sorted(tensors.items()):
        yield f"{name} {tensor.dtype.name} {tensor.shape}".encode()
        yield tensor.tobytes()


def config_json(settings: Settings) -> bytes:
    """What the file's metadata say, for programs that look for a `config.json` beside it."""
    experiment = settings.experiment
    content: dict[str, Any] = {
        "model_type": "wsicl_dual_branch",
        "channels": list(experiment.model.channels),
        "working_grid": list(experiment.volume.grid),
        "crop": experiment.volume.crop,
        "percentiles": list(experiment.volume.percentiles),
        "prompt_smoothing": experiment.volume.prompt_smoothing,
        "cut": THRESHOLD,
        "step": settings.step,
        "experiment": config_to_dict(experiment),
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def read_safetensors(path: str | Path) -> Weights:
    """The network in a safetensors file with the authors' names; tensors come as float32.

    Raises:
        CheckpointError: the file is missing, damaged, or of another network.
    """
    path = Path(path)
    with refusing(path, _EXPECTED):
        _check_header(path)
        with safetensors.safe_open(path, "np") as file:
            # Slices know their shape and type, but hold nothing yet.
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
            config = config_of(shapes)
            check_shapes(state_dict_shapes(config), shapes, str(path))
            for name, one in slices.items():
                if one.get_dtype() not in _KINDS:
                    raise ValueError(f"{name} is of type {one.get_dtype()}; expected floats")
            tensors = {name: file.get_tensor(name) for name in slices}
            metadata = file.metadata() or {}
        checked = check_digest(metadata.get(DIGEST), _parts(tensors, metadata))
        as_float32 = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
        return Weights(config, as_float32, metadata.get(KEY), checked)


def run_safetensors(path: Path, samples: Sequence[Sample]) -> Iterator[Float[np.ndarray, "x y z"]]:
    """The network's outputs with the weights of a file, by JAX: the format has no runtime."""
    weights = read_safetensors(path)
    model = DualBranch.abstract(weights.config)
    fill_from_state_dict(model, weights.tensors)
    yield from reference(model, samples[-1])


def _check_header(path: Path) -> None:
    # The library allows 100 MB, which its parser turns into many times as much.
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    rest = path.stat().st_size - 8
    if length > min(rest, _LARGEST_HEADER):
        raise ValueError(
            f"its header is said to have {length} bytes; expected at most "
            f"{max(min(rest, _LARGEST_HEADER), 0)}"
        )
