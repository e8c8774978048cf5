"""The authors' checkpoints are read as they are, and hostile or damaged files do nothing."""

import functools
import os
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsicl_jax.config import ModelConfig
from wsicl_jax.errors import CheckpointError
from wsicl_jax.weights.lightning_reader import read_lightning
from wsicl_jax.weights.tensor_names import state_dict_shapes

TINY = Path(__file__).parents[1] / "data" / "tiny_lightning.ckpt"
EMBEDDING = "net.target_encoder.target_embedding.weight"


@pytest.fixture(scope="module")
def authors_content():
    return torch.load(TINY, weights_only=True)


@dataclass(frozen=True)
class Storage:
    key: str
    length: int


@dataclass(frozen=True)
class Tensor:
    """A tensor as a pickle describes it, which need not be true."""

    storage: Storage
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    def __reduce__(self):
        arguments = (self.storage, self.offset, self.shape, self.strides, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, item):
        if isinstance(item, Storage):
            return ("storage", torch.FloatStorage, item.key, "cpu", item.length)
        return None


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))


@functools.cache
def honest_tensors(channels=(1, 2)) -> dict[str, Tensor]:
    shapes = state_dict_shapes(ModelConfig(channels=channels))
    return {
        name: Tensor(Storage(str(i), int(np.prod(shape))), shape, contiguous(shape))
        for i, (name, shape) in enumerate(shapes.items())
    }


def write(
    path: Path,
    content: object,
    storages: dict[str, bytes],
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """A checkpoint of any content (bytes: the pickle itself) and storages."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        if isinstance(content, bytes):
            archive.writestr("archive/data.pkl", content)
        else:
            with archive.open("archive/data.pkl", "w") as file:
                Pickler(file, protocol=2).dump(content)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def storages_of(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return {t.storage.key: bytes(4 * t.storage.length) for t in tensors.values()}


class Touch:
    """Makes the file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


# What is real


def test_authors_checkpoint_is_read_as_torch_reads_it(authors_content):
    config, tensors, *_ = read_lightning(TINY)
    assert config.channels == (4, 8, 16)
    assert tensors.keys() == authors_content["state_dict"].keys()
    for name, tensor in authors_content["state_dict"].items():
        assert tensors[name].dtype == np.float32
        np.testing.assert_array_equal(tensors[name], tensor.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, authors_content, dtype):
    state = {name: t.to(dtype) for name, t in authors_content["state_dict"].items()}
    torch.save({"state_dict": state}, tmp_path / "other.ckpt")
    tensors = read_lightning(tmp_path / "other.ckpt").tensors
    for name, tensor in state.items():
        assert tensors[name].dtype == np.float32
        np.testing.assert_array_equal(tensors[name], tensor.float().numpy())


def test_strided_tensors_are_read_in_their_order(tmp_path, authors_content):
    state = {
        name: t.to(memory_format=torch.channels_last_3d) if t.ndim == 5 else t
        for name, t in authors_content["state_dict"].items()
    }
    assert not all(t.is_contiguous() for t in state.values())
    torch.save({"state_dict": state}, tmp_path / "strided.ckpt")
    tensors = read_lightning(tmp_path / "strided.ckpt").tensors
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensors[name], tensor.numpy())


def test_tensors_in_one_storage_are_told_apart(tmp_path, authors_content):
    state = authors_content["state_dict"]
    flat = torch.cat([t.flatten() for t in state.values()])
    parts = flat.split([t.numel() for t in state.values()])
    views = {name: part.view(t.shape) for part, (name, t) in zip(parts, state.items(), strict=True)}
    torch.save({"state_dict": views}, tmp_path / "shared.ckpt")
    tensors = read_lightning(tmp_path / "shared.ckpt").tensors
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensors[name], tensor.numpy())


def test_what_is_not_needed_may_be_of_any_kind(tmp_path, authors_content):
    content = {
        **authors_content,
        "optimizer_states": [{0: {"step": torch.tensor(3), ("a", ("b",)): {1, 2}}}],
        "callbacks": {"one": Path("/"), "two": np.arange(3), "three": {"more": b"bytes"}},
    }
    torch.save(content, tmp_path / "full.ckpt")
    config = read_lightning(tmp_path / "full.ckpt").config
    assert config.channels == (4, 8, 16)


def test_channels_that_contradict_the_tensors_are_refused(tmp_path, authors_content):
    content = {**authors_content, "hyper_parameters": {"nb_inner_channels": [4, 8, 32]}}
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"\[4, 8, 32\] but its tensors have \[4, 8, 16\]"):
        read_lightning(tmp_path / "other.ckpt")


def test_other_number_of_convolutions_per_stage_is_refused(tmp_path, authors_content):
    content = {**authors_content, "hyper_parameters": {"nb_conv_layers_per_stage": 3}}
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="nb_conv_layers_per_stage is 3"):
        read_lightning(tmp_path / "other.ckpt")


def test_left_over_and_missing_tensors_are_listed_with_the_file(tmp_path, authors_content):
    state = dict(authors_content["state_dict"])
    state["net.other"] = state.pop(EMBEDDING)
    torch.save({"state_dict": state}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError) as error:
        read_lightning(tmp_path / "other.ckpt")
    for part in ("other.ckpt", EMBEDDING, "net.other"):
        assert part in str(error.value)


# What is hostile


def test_call_in_a_pickle_is_real_and_never_made(tmp_path):
    sentinel = tmp_path / "sentinel"
    pickle.loads(pickle.dumps(Touch(sentinel), protocol=2))
    assert sentinel.exists()
    sentinel.unlink()

    tensors = honest_tensors()
    content = {"state_dict": tensors, "hyper_parameters": {"logger": Touch(sentinel)}}
    config = read_lightning(write(tmp_path / "hostile.ckpt", content, storages_of(tensors))).config
    assert config.channels == (1, 2)
    assert not sentinel.exists()


def test_call_in_place_of_a_tensor_is_refused_and_never_made(tmp_path):
    sentinel = tmp_path / "sentinel"
    tensors = {**honest_tensors(), EMBEDDING: Touch(sentinel)}
    path = write(tmp_path / "hostile.ckpt", {"state_dict": tensors}, {})
    with pytest.raises(CheckpointError, match=r"hostile\.ckpt"):
        read_lightning(path)
    assert not sentinel.exists()


@pytest.mark.parametrize("form", ["inst", "obj", "stack_global", "reduce", "build"])
def test_every_form_of_call_is_refused_and_never_made(tmp_path, form):
    sentinel = tmp_path / "sentinel"
    command = f"touch {sentinel}".encode()
    text = b"X" + len(command).to_bytes(4, "little") + command
    pickles = {
        "inst": b"(" + text + b"ios\nsystem\n.",
        "obj": b"(cos\nsystem\n" + text + b"o.",
        "stack_global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text + b"\x85R.",
        "reduce": b"\x80\x02cos\nsystem\n" + text + b"\x85R.",
        "build": b"\x80\x02cos\nsystem\n}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb"
        + text
        + b"b.",
    }
    with pytest.raises(CheckpointError):
        read_lightning(write(tmp_path / "hostile.ckpt", pickles[form], {}))
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "hostile",
    [
        b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",
        b"\x80\x02})q\x00" + b"h\x00\x86q\x00" * 200 + b"K\x01s.",
        b"\x80\x02}r\xff\xff\xff\xff.",
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
        b"\x80\x02]" * 5_000_000,
        b"a" * 100,
        b"\x80\x02.",
        b"",
    ],
    ids=["deep key", "key slow to hash", "memo", "bytearray", "huge", "noise", "empty", "none"],
)
def test_hostile_pickle_is_refused_at_once(tmp_path, hostile):
    with pytest.raises(CheckpointError, match=r"hostile\.ckpt"):
        read_lightning(write(tmp_path / "hostile.ckpt", hostile, {}))


def lie(**changes):
    def tell(tensors):
        return {**tensors, EMBEDDING: replace(tensors[EMBEDDING], **changes)}

    return tell


LIES = {
    "shape beyond its storage": lie(shape=(1000, 1, 1, 1, 1)),
    "absurd shape": lie(shape=(2**40, 2**40, 1, 1, 1)),
    "no step": lie(shape=(10**6, 10**6, 1, 1, 1), strides=(0, 0, 0, 0, 0)),
    "negative shape": lie(shape=(-1, -1, 1, 1, 1)),
    "negative stride": lie(strides=(-1, 1, 1, 1, 1)),
    "negative offset": lie(offset=-4),
    "offset beyond its storage": lie(offset=2**20),
    "fractional shape": lie(shape=(1.0, 1, 1, 1, 1)),
    "strides too few": lie(strides=(1,)),
    "absurd length": lie(storage=Storage("0", 2**62)),
    "longer than the file": lie(storage=Storage("0", 2**40)),
    "shorter than the file": lie(storage=Storage("1", 1)),
    "negative length": lie(storage=Storage("0", -1)),
    "no such storage": lie(storage=Storage("none", 1)),
    "storage outside": lie(storage=Storage("../data.pkl", 1)),
}


@pytest.mark.parametrize("told", LIES.values(), ids=LIES.keys())
def test_tensor_that_lies_about_its_size_is_refused(tmp_path, told):
    tensors = honest_tensors()
    path = write(tmp_path / "lie.ckpt", {"state_dict": told(tensors)}, storages_of(tensors))
    with pytest.raises(CheckpointError, match=r"lie\.ckpt"):
        read_lightning(path)


def test_one_stored_number_does_not_stand_for_many(tmp_path):
    name = "net.target_encoder.downsample_blocks.0.target_linear_layer.bias"
    tensors = {**honest_tensors(), name: Tensor(Storage("one", 1), (2,), (0,))}
    path = write(tmp_path / "bomb.ckpt", {"state_dict": tensors}, storages_of(tensors))
    with pytest.raises(CheckpointError, match="needs 2 elements"):
        read_lightning(path)


def test_storage_shorter_than_stated_is_refused(tmp_path):
    tensors = honest_tensors()
    storages = {key: data[:-4] for key, data in storages_of(tensors).items()}
    with pytest.raises(CheckpointError, match="bytes"):
        read_lightning(write(tmp_path / "short.ckpt", {"state_dict": tensors}, storages))


def test_compressed_storage_is_refused(tmp_path):
    tensors = honest_tensors()
    path = tmp_path / "bomb.ckpt"
    write(path, {"state_dict": tensors}, storages_of(tensors), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        read_lightning(path)


def test_small_file_cannot_become_a_large_network(tmp_path):
    honest = honest_tensors((16, 16))
    one = Storage("0", max(t.storage.length for t in honest.values()))
    tensors = {name: replace(t, storage=one) for name, t in honest.items()}
    path = write(tmp_path / "bomb.ckpt", {"state_dict": tensors}, storages_of(tensors))
    with pytest.raises(CheckpointError, match="larger than the file"):
        read_lightning(path)


# What is damaged or something else


def test_honest_file_of_the_tests_is_read(tmp_path):
    tensors = honest_tensors((16, 16))
    path = write(tmp_path / "honest.ckpt", {"state_dict": tensors}, storages_of(tensors))
    assert read_lightning(path)[0].channels == (16, 16)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no file .*absent.ckpt"):
        read_lightning(tmp_path / "absent.ckpt")


def test_directory_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="Lightning checkpoint"):
        read_lightning(tmp_path)


def test_file_that_is_no_zip_is_refused(tmp_path):
    (tmp_path / "text.ckpt").write_text("weights")
    with pytest.raises(CheckpointError, match=r"text.ckpt.*not a zip.*Lightning checkpoint"):
        read_lightning(tmp_path / "text.ckpt")


def test_zip_without_a_pickle_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as archive:
        archive.writestr("archive/version", "3")
    with pytest.raises(CheckpointError, match="0 pickles"):
        read_lightning(tmp_path / "other.ckpt")


def test_file_without_a_state_dict_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no 'state_dict'"):
        read_lightning(tmp_path / "other.pt")


def test_other_byte_order_is_refused(tmp_path):
    tensors = honest_tensors()
    path = write(tmp_path / "big.ckpt", {"state_dict": tensors}, storages_of(tensors))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    with pytest.raises(CheckpointError, match="byte order"):
        read_lightning(path)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_file_is_refused(tmp_path, share):
    data = TINY.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError):
        read_lightning(tmp_path / "cut.ckpt")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.integers(0, 10**9), value=st.integers(1, 255))
def test_damaged_byte_is_refused_or_harmless(tmp_path, where, value):
    tensors = honest_tensors()
    path = write(tmp_path / "honest.ckpt", {"state_dict": tensors}, storages_of(tensors))
    data = bytearray(path.read_bytes())
    data[where % len(data)] ^= value
    (tmp_path / "damaged.ckpt").write_bytes(data)
    try:
        config, given_tensors, *_ = read_lightning(tmp_path / "damaged.ckpt")
    except CheckpointError:
        return
    assert config.channels == (1, 2)
    assert all((t == 0).all() for t in given_tensors.values())


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.integers(0, 10**9), value=st.integers(1, 255))
def test_damaged_pickle_of_right_checksum_is_refused_or_read(tmp_path, where, value):
    tensors = honest_tensors()
    path = write(tmp_path / "honest.ckpt", {"state_dict": tensors}, storages_of(tensors))
    with zipfile.ZipFile(path) as archive:
        data = bytearray(archive.read("archive/data.pkl"))
    data[where % len(data)] ^= value
    write(tmp_path / "damaged.ckpt", bytes(data), storages_of(tensors))
    try:
        read_lightning(tmp_path / "damaged.ckpt")
    except CheckpointError:
        return
