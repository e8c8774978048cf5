"""What we write is a Lightning checkpoint of the authors' layout, as PyTorch itself reads it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wsicl_jax.config import ModelConfig, config_to_dict
from wsicl_jax.errors import CheckpointError
from wsicl_jax.weights.export.torch_network import TorchDualBranch
from wsicl_jax.weights.file_loading import load_weights
from wsicl_jax.weights.lightning_reader import read_lightning
from wsicl_jax.weights.tensor_names import state_dict_shapes, to_state_dict

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def content(exported):
    return torch.load(exported("torch").path, weights_only=True)


def test_tensors_load_strictly_into_the_pytorch_network(content, trained):
    network = TorchDualBranch((4, 8))
    network.load_state_dict(content["state_dict"], strict=True)
    for name, tensor in to_state_dict(trained.model).items():
        np.testing.assert_array_equal(network.state_dict()[name].numpy(), tensor)


def test_keys_are_those_of_a_genuine_checkpoint_and_one_of_ours(content):
    genuine = torch.load(DATA / "tiny_lightning.ckpt", weights_only=True)
    assert content.keys() - genuine.keys() == {"wsicl_jax"}
    assert genuine.keys() <= content.keys()
    assert content["hyper_parameters"].keys() == genuine["hyper_parameters"].keys()
    assert type(content["state_dict"]) is type(genuine["state_dict"])


def test_hyper_parameters_say_the_network(content):
    stated = content["hyper_parameters"]
    assert stated["nb_inner_channels"] == [4, 8]
    assert stated["nb_conv_layers_per_stage"] == 2
    assert stated["data_slice_only"] is False
    assert content["global_step"] == 30


def test_published_size_would_have_the_authors_keys_and_shapes():
    lines = (DATA / "state_dict_full.tsv").read_text().splitlines()[1:]
    shapes = state_dict_shapes(ModelConfig(channels=(32, 64, 128, 256, 512)))
    assert {f"{name}\t{','.join(map(str, s))}" for name, s in shapes.items()} == set(lines)


def test_settings_travel_as_one_text(content, experiment):
    assert json.loads(content["wsicl_jax"])["config"] == config_to_dict(experiment)


def test_settings_that_are_no_text_are_refused(content, tmp_path):
    torch.save({**content, "wsicl_jax": {"config": {}}}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="expected text"):
        load_weights(tmp_path / "m.ckpt")


def test_file_without_our_settings_is_taken_for_the_authors(content, tmp_path):
    theirs = {name: value for name, value in content.items() if name != "wsicl_jax"}
    torch.save(theirs, tmp_path / "m.ckpt")
    assert read_lightning(tmp_path / "m.ckpt").settings is None
    _, experiment = load_weights(tmp_path / "m.ckpt")
    assert experiment.volume.grid == (128, 128, 128)
    assert experiment.model.context.mini_context == 1
