"""ONNX: the graph is the network at any size; hostile files open nothing and fill nothing."""

import resource
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsicl_jax.config import ExperimentConfig, ModelConfig
from wsicl_jax.errors import CheckpointError
from wsicl_jax.weights.export.onnx_file import run_onnx, write_onnx
from wsicl_jax.weights.export.verification import Sample
from wsicl_jax.weights.file_loading import load_weights
from wsicl_jax.weights.onnx_reader import read_onnx
from wsicl_jax.weights.stored_settings import Settings
from wsicl_jax.weights.tensor_names import to_state_dict

FIRST = "net.target_encoder.target_embedding.weight"


@pytest.fixture
def proto(exported) -> onnx.ModelProto:
    return onnx.load(exported("onnx").path)


def initialiser(proto: onnx.ModelProto, name: str = FIRST) -> onnx.TensorProto:
    return next(tensor for tensor in proto.graph.initializer if tensor.name == name)


def random_sample(contexts: int, grid: tuple[int, int, int]) -> Sample:
    rng = np.random.default_rng(contexts)
    target, images, prompts = rng.random(grid), *rng.random((2, contexts, *grid))
    return Sample(*(x.astype(np.float32) for x in (target, images, prompts)))


# What is ours


def test_initialisers_are_the_parameters_under_the_authors_names(proto, trained):
    expected = to_state_dict(trained.model)
    given = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert given.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(given[name], tensor)


def test_axes_are_named_and_free(proto):
    shapes = {
        value.name: [axis.dim_param for axis in value.type.tensor_type.shape.dim]
        for value in [*proto.graph.input, *proto.graph.output]
    }
    assert shapes == {
        "target": ["x", "y", "z"],
        "context_images": ["contexts", "x", "y", "z"],
        "context_prompts": ["contexts", "x", "y", "z"],
        "score": ["x", "y", "z"],
    }


@pytest.mark.parametrize("contexts", [1, 3])
def test_other_sizes_than_the_working_grid_run_too(
    exported, trained, output_of_pytorch, agree, contexts
):
    sample = random_sample(contexts, (12, 4, 6))
    output = next(run_onnx(exported("onnx").path, [sample]))
    agree("ONNX at another size", output, output_of_pytorch(trained.model, sample), 1e-5)


def test_stages_of_equal_channels_are_pooled(random_network, output_of_pytorch, tmp_path, agree):
    config = ModelConfig(channels=(2, 2, 3))
    model = random_network(config)
    write_onnx(tmp_path / "m.onnx", model, Settings(ExperimentConfig(model=config), None))
    sample = random_sample(2, (4, 8, 4))
    output = next(run_onnx(tmp_path / "m.onnx", [sample]))
    agree("ONNX with pooling", output, output_of_pytorch(model, sample), 1e-5)


def test_graph_needs_nothing_but_the_runtime(exported):
    session = onnxruntime.InferenceSession(exported("onnx").path)
    assert [value.name for value in session.get_outputs()] == ["score"]


def test_half_precision_written_by_others_is_read(proto, tmp_path, trained):
    for tensor in proto.graph.initializer:
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    del proto.metadata_props[:]  # ours are of the numbers before
    onnx.save(proto, tmp_path / "half.onnx")
    tensors = read_onnx(tmp_path / "half.onnx").tensors
    for name, tensor in to_state_dict(trained.model).items():
        assert tensors[name].dtype == np.float32
        np.testing.assert_array_equal(tensors[name], tensor.astype(np.float16))


def test_a_file_of_others_is_read_with_a_remark_that_it_has_no_digest(proto, tmp_path):
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.warns(UserWarning, match=r"other\.onnx has no digest"):
        load_weights(tmp_path / "other.onnx")


# What is hostile


@pytest.mark.parametrize("by", ["location", "entries"])
def test_weights_in_another_file_are_refused_and_it_is_not_opened(proto, tmp_path, by, monkeypatch):
    tensor = initialiser(proto)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"
    if by == "location":
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    opened = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda p, *a, **k: opened.append(p.name) or real(p, *a, **k))
    with pytest.raises(CheckpointError, match="another file, which is not opened"):
        load_weights(tmp_path / "m.onnx")
    assert set(opened) == {"m.onnx"}


@pytest.mark.parametrize(
    "dims", [[2**40, 2**40, 1, 1, 1], [2**62], [-1, 1, 1, 1, 1], [1] * 1000, [4, 1, 1, 1, 2], []]
)
def test_shape_that_lies_is_refused(proto, tmp_path, dims):
    tensor = initialiser(proto)
    del tensor.dims[:]
    tensor.dims.extend(dims)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(CheckpointError, match=r"m\.onnx"):
        load_weights(tmp_path / "m.onnx")


def test_other_types_and_other_storage_are_refused(proto, tmp_path):
    for values in (np.zeros((4, 1, 1, 1, 1), np.int32), np.zeros((4, 1, 1, 1, 1), np.complex64)):
        initialiser(proto).CopyFrom(onnx.numpy_helper.from_array(values, FIRST))
        (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(CheckpointError, match="expected floats"):
            load_weights(tmp_path / "m.onnx")
    listed = onnx.helper.make_tensor(FIRST, onnx.TensorProto.FLOAT, (4, 1, 1, 1, 1), [0.0] * 4)
    initialiser(proto).CopyFrom(listed)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(CheckpointError, match="not stored as raw data"):
        load_weights(tmp_path / "m.onnx")


def test_two_tensors_of_one_name_are_refused(proto, tmp_path):
    proto.graph.initializer.append(initialiser(proto))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(CheckpointError, match="the same name"):
        load_weights(tmp_path / "m.onnx")


def test_graph_without_the_names_is_refused(proto, tmp_path):
    for number, tensor in enumerate(proto.graph.initializer):
        tensor.name = f"w{number}"
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(CheckpointError, match="0 stages"):
        load_weights(tmp_path / "m.onnx")


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


MESSAGES = {
    "many empty nodes": b"\x3a" + varint(8_000_000) + b"\x0a\x00" * 4_000_000,
    "endless number": b"\x38" + b"\xff" * 1000,
    "length beyond the end": b"\x3a" + varint(2**60),
    "groups": b"\x3b\x3b\x3b",
    "graph that is a number": b"\x38\x05",
    "metadata that is a number": b"\x70\x05",
    "cut": b"\x3a",
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
def test_hostile_message_is_refused_without_much_memory(tmp_path, message):
    (tmp_path / "m.onnx").write_bytes(b"\x08\x09" + message)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"m\.onnx"):
        load_weights(tmp_path / "m.onnx")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_number_of_fields_is_bounded(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\x08\x09" * 20_001)
    with pytest.raises(CheckpointError, match="more than 20000 fields"):
        read_onnx(tmp_path / "m.onnx")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_file_is_refused(exported, tmp_path, share):
    data = exported("onnx").path.read_bytes()
    # What comes last are settings and versions, which a file may lack.
    cut = min(int(share * len(data)), data.rindex(b"net."))
    (tmp_path / "cut.onnx").write_bytes(data[:cut])
    with pytest.raises(CheckpointError):
        read_onnx(tmp_path / "cut.onnx")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.integers(0, 10**9), value=st.integers(1, 255))
def test_damaged_byte_is_refused_or_harmless(exported, tmp_path, where, value):
    data = bytearray(exported("onnx").path.read_bytes())
    data[where % len(data)] ^= value
    (tmp_path / "m.onnx").write_bytes(data)
    try:
        read_onnx(tmp_path / "m.onnx")
    except CheckpointError:
        return
