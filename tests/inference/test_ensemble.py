"""Several networks as one segmenter."""

import numpy as np
import pytest
from flax import nnx
from inference.volumes import VOLUME, volume

from wsicl_jax.config import ExperimentConfig, VolumeConfig, config_to_dict
from wsicl_jax.errors import ConfigError
from wsicl_jax.inference.ensemble import Ensemble, load_ensemble
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.weights.network_checkpoint import save_model


@pytest.fixture(scope="module")
def networks(model, tmp_path_factory):
    """Two networks that differ, and one with another working grid."""
    folder = tmp_path_factory.mktemp("networks")
    graph, parameters = nnx.split(model)
    other = nnx.merge(graph, parameters, copy=True)
    head = other.target_decoder.head
    head.kernel[...] = head.kernel[...] * 0.7
    for name, network, grid in (
        ("one", model, VOLUME),
        ("other", other, VOLUME),
        ("coarse", model, VolumeConfig(grid=(4, 4, 4))),
    ):
        config = config_to_dict(ExperimentConfig(model=model.config, volume=grid))
        save_model(folder / name, network, {"config": config})
    return folder


def probability(segmenter):
    task = segmenter.task([Example(volume(1), points=[(4, 3, 2)])])
    return np.asarray(task.segment(volume(9), probabilities=True).probability, np.float32)


def test_an_ensemble_outputs_the_mean_of_its_networks(networks):
    names = ("one", "other")
    one, other = (probability(load_ensemble([networks / name])) for name in names)
    both = load_ensemble([networks / name for name in names])
    assert isinstance(both, Ensemble) and np.abs(one - other).max() > 0.05
    inside = (one > 0) & (other > 0) & (one < 1) & (other < 1)  # probabilities are cut at 0 and 1
    assert inside.any()
    np.testing.assert_allclose(probability(both)[inside], ((one + other) / 2)[inside], atol=2e-3)


def test_an_ensemble_is_known_by_all_its_networks(networks):
    both = load_ensemble([networks / "one", networks / "other"])
    swapped = load_ensemble([networks / "other", networks / "one"])
    digests = {both.digest, swapped.digest, *(member.digest for member in both.members)}
    assert len(digests) == 4
    assert both.program_bytes(1) == sum(member.program_bytes(1) for member in both.members)


def test_networks_with_different_working_grids_are_no_ensemble(networks):
    with pytest.raises(
        ConfigError, match=r"coarse cannot be .*: volume.grid is \(4, 4, 4\), there"
    ):
        load_ensemble([networks / "one", networks / "coarse"])
