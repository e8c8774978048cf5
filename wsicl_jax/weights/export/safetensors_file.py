"""Writes a network as a safetensors file under the authors' tensor names, and runs such a file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jax import numpy as jnp
from jaxtyping import Float
from safetensors.numpy import save

from wsicl_jax.config import config_to_dict
from wsicl_jax.model.dual_branch import THRESHOLD, DualBranch
from wsicl_jax.weights.export.verification import Sample, reference
from wsicl_jax.weights.file_digest import DIGEST, digest_of
from wsicl_jax.weights.safetensors_reader import digest_parts, read_safetensors
from wsicl_jax.weights.stored_settings import KEY, Settings, settings_text
from wsicl_jax.weights.tensor_names import fill_from_state_dict, to_state_dict


def write_safetensors(path: Path, model: DualBranch, settings: Settings, dtype: str) -> None:
    """Write all parameters in a number format, such as float16, with the settings as metadata."""
    stored = {name: x.astype(jnp.dtype(dtype)) for name, x in to_state_dict(model).items()}
    metadata = {KEY: settings_text(settings, has_digest=True)}
    metadata[DIGEST] = digest_of(digest_parts(stored, metadata))
    # The library's own `save_file` would make a file that only its owner can read.
    path.write_bytes(_with_metadata(save(stored), metadata))


def config_json(settings: Settings) -> bytes:
    """The settings as JSON, for programs that do not read the file's metadata."""
    experiment = settings.experiment
    content = {
        "model_type": "wsicl_dual_branch",
        "channels": list(experiment.model.channels),
        "working_grid": list(experiment.volume.grid),
        "crop": experiment.volume.crop,
        "percentiles": list(experiment.volume.percentiles),
        "prompt_smoothing": experiment.volume.prompt_smoothing,
        "registration": experiment.volume.registration,
        "threshold": THRESHOLD,
        "step": settings.step,
        "experiment": config_to_dict(experiment),
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def run_safetensors(path: Path, samples: Sequence[Sample]) -> Iterator[Float[np.ndarray, "x y z"]]:
    """The network's outputs with the weights of a file, by JAX: the format has no runtime."""
    weights = read_safetensors(path)
    model = DualBranch.abstract(weights.config)
    fill_from_state_dict(model, weights.tensors)
    yield from reference(model, samples[-1])


def _with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with sorted metadata.

    The library orders metadata differently in each process, so that no two files were equal.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8:start])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns tensors to 8 bytes
    return len(text).to_bytes(8, "little") + text + content[start:]
