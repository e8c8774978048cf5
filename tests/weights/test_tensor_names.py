"""The authors' names: complete for any network, bit exact both ways, strict."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from wsicl_jax.config import ModelConfig
from wsicl_jax.errors import CheckpointError
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.weights.tensor_names import fill_from_state_dict, state_dict_shapes, to_state_dict

PUBLISHED = (32, 64, 128, 256, 512)
DATA = Path(__file__).parents[1] / "data"


def abstract(channels: tuple[int, ...]) -> DualBranch:
    return DualBranch.abstract(ModelConfig(channels=channels))


def random_tensors(channels: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = state_dict_shapes(ModelConfig(channels=channels))
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def published_shapes() -> dict[str, tuple[int, ...]]:
    lines = (DATA / "state_dict_full.tsv").read_text().splitlines()[1:]
    rows = (line.split("\t") for line in lines)
    return {key: tuple(int(n) for n in shape.split(",")) for key, shape in rows}


def test_published_size_has_the_authors_names_and_shapes():
    assert state_dict_shapes(ModelConfig(channels=PUBLISHED)) == published_shapes()


def test_published_size_has_the_published_count_of_parameters():
    parameters = jax.tree.leaves(nnx.state(abstract(PUBLISHED), nnx.Param))
    assert len(parameters) == 132
    assert sum(p.size for p in parameters) == 70_854_913


@pytest.mark.parametrize("channels", [(2, 3), (2, 2), (2, 2, 3), (2, 3, 3, 4), (1, 2, 3, 4, 5, 6)])
def test_fill_then_export_is_bit_exact(channels):
    tensors = random_tensors(channels)
    model = abstract(channels)
    fill_from_state_dict(model, tensors)
    back = to_state_dict(model)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name].view(np.uint32), tensor.view(np.uint32))


def test_fill_leaves_no_parameter_unfilled():
    model = abstract((2, 2, 3))
    fill_from_state_dict(model, random_tensors((2, 2, 3)))
    parameters = jax.tree.leaves(nnx.state(model))
    assert all(isinstance(p, jax.Array) for p in parameters)


def test_stages_of_equal_channels_have_no_down_convolution():
    names = state_dict_shapes(ModelConfig(channels=(2, 2, 3)))
    assert "net.target_encoder.downsample_blocks.0.target_linear_layer.weight" not in names
    assert "net.target_encoder.downsample_blocks.1.target_linear_layer.weight" in names


def test_kernel_goes_from_out_in_xyz_to_xyz_in_out():
    tensors = random_tensors((2, 3))
    model = abstract((2, 3))
    fill_from_state_dict(model, tensors)
    theirs = tensors["net.target_encoder.downsample_blocks.0.target_linear_layer.weight"]
    ours = np.asarray(model.target_encoder.downs[0].conv.kernel[...])
    assert ours[0, 1, 2, 1, 2] == theirs[2, 1, 0, 1, 2]
    assert ours.shape == (4, 4, 4, 2, 3)


def test_missing_and_left_over_names_are_both_listed_with_shapes():
    tensors = random_tensors((2, 3))
    tensors["net.more"] = np.zeros((7, 9), np.float32)
    del tensors["net.target_decoder.output_block.block.1.weight"]
    with pytest.raises(CheckpointError) as error:
        fill_from_state_dict(abstract((2, 3)), tensors)
    assert "net.more (7, 9)" in str(error.value)
    assert "net.target_decoder.output_block.block.1.weight (1, 2, 1, 1, 1)" in str(error.value)


def test_wrong_shape_is_listed_with_both_shapes():
    tensors = random_tensors((2, 3))
    tensors["net.target_encoder.target_embedding.bias"] = np.zeros(5, np.float32)
    with pytest.raises(CheckpointError, match=r"bias is \(5,\), expected \(2,\)"):
        fill_from_state_dict(abstract((2, 3)), tensors)


def test_long_lists_are_cut():
    with pytest.raises(CheckpointError) as error:
        fill_from_state_dict(abstract((2, 3)), {})
    assert len(str(error.value)) < 1000


def test_integers_are_refused():
    tensors = random_tensors((2, 3))
    tensors["net.target_encoder.target_embedding.bias"] = np.zeros(2, np.int32)
    with pytest.raises(CheckpointError, match="int32"):
        fill_from_state_dict(abstract((2, 3)), tensors)


def test_refused_tensors_change_nothing():
    model = abstract((2, 3))
    fill_from_state_dict(model, random_tensors((2, 3)))
    before = to_state_dict(model)
    tensors = {name: tensor + 1 for name, tensor in before.items()}
    tensors["net.more"] = np.zeros(1, np.float32)
    with pytest.raises(CheckpointError):
        fill_from_state_dict(model, tensors)
    for name, tensor in to_state_dict(model).items():
        np.testing.assert_array_equal(tensor, before[name])
