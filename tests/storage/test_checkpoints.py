"""Checkpoints of a network alone, and what is said of paths that hold none."""

import shutil

import jax
import numpy as np
import pytest
from flax import nnx

import wsicl_jax
from wsicl_jax.config import ExperimentConfig, ModelConfig, config_to_dict
from wsicl_jax.errors import CheckpointError
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.storage.checkpoints import find_checkpoint, read_metadata, reason_of
from wsicl_jax.weights.network_checkpoint import save_model


@pytest.fixture
def saved(tmp_path):
    config = ModelConfig(channels=(2, 4))
    model = DualBranch(config, rngs=nnx.Rngs(0))
    experiment = config_to_dict(ExperimentConfig(model=config))
    save_model(tmp_path / "saved", model, {"config": experiment, "source": "test"})
    return tmp_path / "saved", model


def test_a_saved_network_is_loaded_bit_for_bit(saved):
    path, model = saved
    loaded = wsicl_jax.load_model(path)
    assert loaded.config == model.config
    for a, b in zip(
        jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(loaded)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_loaded_network_is_called_as_documented(saved):
    target = np.zeros((2, 4, 6, 8, 1), np.float32)
    contexts = np.zeros((2, 3, 4, 6, 8, 1), np.float32)
    assert wsicl_jax.load_model(saved[0])(target, contexts, contexts).shape == target.shape


def test_a_network_is_not_written_over_another(saved):
    with pytest.raises(CheckpointError, match="exists"):
        save_model(saved[0], saved[1], {})


def test_metadata_comes_back(saved):
    assert read_metadata(saved[0])["source"] == "test"


def test_a_missing_path_is_said_to_be_missing(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        find_checkpoint(tmp_path / "nothing")


def test_a_directory_without_checkpoint_is_said_to_have_none(tmp_path):
    with pytest.raises(CheckpointError, match="expected a run"):
        find_checkpoint(tmp_path)


def test_parameters_of_another_network_are_refused(saved):
    path, _ = saved
    other = DualBranch(ModelConfig(channels=(3, 4)), rngs=nnx.Rngs(0))
    experiment = config_to_dict(ExperimentConfig(model=ModelConfig(channels=(2, 4))))
    save_model(path.parent / "other", other, {"config": experiment})
    with pytest.raises(CheckpointError, match="other"):
        wsicl_jax.load_model(path.parent / "other")


def test_another_format_is_refused(saved, monkeypatch):
    monkeypatch.setattr("wsicl_jax.storage.checkpoints.FORMAT", 0)
    with pytest.raises(CheckpointError, match="format 2"):
        read_metadata(saved[0])


def test_other_values_than_were_saved_are_refused(saved):
    path, model = saved
    experiment = config_to_dict(ExperimentConfig(model=model.config))
    other = DualBranch(model.config, rngs=nnx.Rngs(1))
    save_model(path.parent / "other", other, {"config": experiment})
    # Whole and well formed for Orbax, but not what the metadata are of.
    shutil.rmtree(path / "parameters")
    shutil.copytree(path.parent / "other" / "parameters", path / "parameters")
    with pytest.raises(CheckpointError, match="other values than were saved"):
        wsicl_jax.load_model(path)


def test_a_checkpoint_says_which_version_wrote_it(saved):
    assert read_metadata(saved[0])["version"] == wsicl_jax.__version__


def test_damage_is_told_for_people(tmp_path):
    error = Exception("Encountered error. See full TensorStore details: <bound method of X>.")
    error.__cause__ = ValueError(
        "DATA_LOSS: checksum [tensorstore_spec='{...}'] [source locations]"
    )
    assert reason_of(error) == "DATA_LOSS: checksum"
