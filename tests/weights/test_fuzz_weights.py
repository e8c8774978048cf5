"""Damaged files of weights: every mutant is refused, or is harmless; one bit is always refused."""

import warnings
from contextlib import suppress

import numpy as np
import onnx
import pytest
from fuzz import failures
from safetensors.numpy import save

from wsicl_jax.errors import CheckpointError, WsiclError
from wsicl_jax.weights.file_loading import load_with_settings
from wsicl_jax.weights.lightning_reader import read_lightning
from wsicl_jax.weights.onnx_reader import read_onnx
from wsicl_jax.weights.safetensors_reader import read_safetensors
from wsicl_jax.weights.tensor_names import to_state_dict

COUNTS = [50, pytest.param(2000, marks=pytest.mark.slow)]


def load(path):
    """Read as what it is, and as every kind of file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (load_with_settings, read_safetensors, read_onnx, read_lightning):
            with suppress(WsiclError):
                read(path)


def without_digest(format, exported, trained) -> bytes:
    """A file as others write it, in which damage is found by what it does alone."""
    if format == "onnx":
        proto = onnx.load(exported(format).path)
        del proto.metadata_props[:]
        return proto.SerializeToString()
    return save(to_state_dict(trained.model), metadata={"format": "pt"})


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("format", ["safetensors", "onnx", "torch"])
def test_damaged_weights_are_refused_or_read(exported, trained, tmp_path, format, count):
    seeds = [exported(format).path.read_bytes()]
    if format != "torch":
        seeds.append(without_digest(format, exported, trained))
    seeds = [{"a.file": content} for content in seeds]
    found = failures(load, seeds, tmp_path, count=count)
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_a_flipped_bit_anywhere_is_refused(exported, tmp_path, format):
    content = exported(format).path.read_bytes()
    rng = np.random.default_rng(0)
    places = {*range(0, 16), *range(len(content) - 200, len(content))}
    places |= set(rng.integers(len(content), size=150).tolist())
    # The names of what is checked.
    for name in (b"wsicl_jax", b"wsicl_jax_digest", b'\\"digest\\"'):
        if (start := content.find(name)) >= 0:
            places |= {*range(start - 2, start + len(name) + 2)}
    for place in sorted(places):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "m.file").write_bytes(flipped)
        with pytest.raises(CheckpointError):
            load_with_settings(tmp_path / "m.file")
