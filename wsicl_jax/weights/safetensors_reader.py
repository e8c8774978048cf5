"""Reads a network from a safetensors file with the authors' tensor names."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import safetensors

from wsicl_jax.weights.file_contents import Weights, config_of, refusing
from wsicl_jax.weights.file_digest import DIGEST, check_digest
from wsicl_jax.weights.stored_settings import KEY
from wsicl_jax.weights.tensor_names import check_shapes, state_dict_shapes

_FLOATS = {"F64", "F32", "F16", "BF16"}
# The header of the published network has some 20 kB, and settings may have as many.
_MAX_HEADER_BYTES = 4 * 2**20
_EXPECTED = "a safetensors file of this network, as `wsicl export` writes it"


def read_safetensors(path: str | Path) -> Weights:
    """The network in a safetensors file with the authors' names; tensors come as float32.

    Raises:
        CheckpointError: the file is missing, damaged, or of another network.
    """
    path = Path(path)
    with refusing(path, _EXPECTED):
        _check_header(path)
        with safetensors.safe_open(path, "np") as file:
            # A slice knows its shape and type before its data is read.
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
            config = config_of(shapes)
            check_shapes(state_dict_shapes(config), shapes, str(path))
            for name, one in slices.items():
                if one.get_dtype() not in _FLOATS:
                    raise ValueError(f"{name} is of type {one.get_dtype()}; expected floats")
            tensors = {name: file.get_tensor(name) for name in slices}
            metadata = file.metadata() or {}
        checked = check_digest(metadata.get(DIGEST), digest_parts(tensors, metadata))
        as_float32 = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
        return Weights(config, as_float32, metadata.get(KEY), checked)


def digest_parts(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Iterator[bytes]:
    """The content of a file that its digest covers, independent of the header's order."""
    for name, value in sorted(metadata.items()):
        if name != DIGEST:
            yield from (name.encode(), value.encode())
    for name, tensor in sorted(tensors.items()):
        yield f"{name} {tensor.dtype.name} {tensor.shape}".encode()
        yield tensor.tobytes()


def _check_header(path: Path) -> None:
    # The library allows 100 MB, which its parser turns into many times as much memory.
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    largest = max(min(path.stat().st_size - 8, _MAX_HEADER_BYTES), 0)
    if length > largest:
        raise ValueError(f"its header claims {length} bytes; expected at most {largest}")
