"""Safetensors: what the library reads is what we wrote, and liars are refused."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save

from wsicl_jax.errors import CheckpointError
from wsicl_jax.weights.file_loading import load_weights
from wsicl_jax.weights.safetensors_reader import read_safetensors
from wsicl_jax.weights.tensor_names import to_state_dict

FIRST = "net.target_encoder.target_embedding.weight"


@pytest.fixture(scope="module")
def parts(exported) -> tuple[dict, bytes]:
    """The header and the data of an honest file."""
    data = exported("safetensors").path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path: Path, header: dict | bytes, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_the_library_reads_the_authors_names_and_our_numbers(exported, trained):
    path = exported("safetensors").path
    tensors = load_file(path)
    expected = to_state_dict(trained.model)
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensors[name], tensor)
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["wsicl_jax"])["step"] == 30


def test_others_may_read_the_file(exported):
    assert exported("safetensors").path.stat().st_mode & 0o044 == 0o044


def test_honest_parts_make_an_honest_file(parts, tmp_path):
    read_safetensors(write(tmp_path / "m.safetensors", *parts))


def test_file_of_other_metadata_is_taken_for_the_authors(trained, tmp_path):
    data = save(to_state_dict(trained.model), metadata={"format": "pt"})
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.warns(UserWarning, match="has no digest"):
        assert load_weights(tmp_path / "m.safetensors")[1].volume.grid == (128, 128, 128)


@pytest.mark.parametrize("length", [2**62, 2**40, 99_000_000])
def test_header_of_huge_length_is_refused(parts, tmp_path, length):
    path = write(tmp_path / "m.safetensors", *parts, length)
    with pytest.raises(CheckpointError, match=r"m\.safetensors: its header .* expected at most"):
        load_weights(path)


def test_large_header_is_refused_before_it_is_parsed(tmp_path):
    header = b"{" + b" " * 5_000_000 + b"}"
    with pytest.raises(CheckpointError, match=r"its header .* expected at most 4194304"):
        load_weights(write(tmp_path / "m.safetensors", header, b""))


LIES = {
    "overlapping": lambda entry, size: entry | {"data_offsets": [4, entry["data_offsets"][1] + 4]},
    "past the end": lambda entry, size: entry | {"data_offsets": [size, size + 16]},
    "beyond all": lambda entry, size: entry | {"data_offsets": [0, 2**62]},
    "backwards": lambda entry, size: entry | {"data_offsets": [16, 0]},
    "negative": lambda entry, size: entry | {"data_offsets": [-16, 0]},
    "absurd shape": lambda entry, size: entry | {"shape": [2**40, 2**40, 1, 1, 1]},
    "negative shape": lambda entry, size: entry | {"shape": [-4, -1, 1, 1, 1]},
    "integers": lambda entry, size: entry | {"dtype": "I32"},
    "unknown type": lambda entry, size: entry | {"dtype": "X9"},
    "no type": lambda entry, size: {},
}


@pytest.mark.parametrize("tell", LIES.values(), ids=LIES.keys())
def test_tensor_that_lies_is_refused(parts, tmp_path, tell):
    header, data = parts
    header = header | {FIRST: tell(header[FIRST], len(data))}
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        load_weights(write(tmp_path / "m.safetensors", header, data))


def test_tensors_of_another_network_are_listed(parts, tmp_path):
    header, data = parts
    renamed = {("net.other" if name == FIRST else name): one for name, one in header.items()}
    with pytest.raises(CheckpointError, match=rf"{FIRST}.*net\.other"):
        load_weights(write(tmp_path / "m.safetensors", renamed, data))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_file_is_refused(exported, tmp_path, share):
    data = exported("safetensors").path.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError):
        read_safetensors(tmp_path / "cut.safetensors")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.integers(0, 8000), value=st.integers(1, 255))
def test_damaged_header_is_refused_or_harmless(exported, tmp_path, where, value):
    data = bytearray(exported("safetensors").path.read_bytes())
    data[where] ^= value
    (tmp_path / "m.safetensors").write_bytes(data)
    try:
        read_safetensors(tmp_path / "m.safetensors")
    except CheckpointError:
        return
