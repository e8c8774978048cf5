"""A network is found wherever it is kept, and by its name if it comes with the package."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import wsicl_jax
from wsicl_jax.config import SYNTHETIC, VolumeConfig
from wsicl_jax.data.seen import Seen
from wsicl_jax.errors import CheckpointError
from wsicl_jax.inference.segmenter import Segmenter
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.storage.checkpoints import read_metadata
from wsicl_jax.weights import networks
from wsicl_jax.weights.export.safetensors_file import write_safetensors
from wsicl_jax.weights.file_digest import DIGEST
from wsicl_jax.weights.network_checkpoint import checkpoint_digest
from wsicl_jax.weights.networks import SEEN, find_network, load_model, shipped_networks
from wsicl_jax.weights.stored_settings import Settings
from wsicl_jax.weights.tensor_names import to_state_dict

LARGEST_FILE = 12e6

FREE = {
    "Dataset105_FetalSpinaBifida",
    "Dataset112_SpinalCordMR",
    "Dataset119_MSLesionFLAIR",
    "Dataset120_BodyCT",
    "Dataset121_BodyMR",
    "Dataset122_AortaCT",
    "Dataset123_SpineCT",
    "Dataset141_NucleiStarDist",
    "Dataset203_BrainSynthSegPaint",
}
NON_COMMERCIAL = {
    "Dataset004_Hippocampus",
    "Dataset115_EMDrosophilaVNC",
    "Dataset117_CardiacSAX",
    "Dataset118_CardiacLGE",
    "Dataset132_MarmosetPaxinos",
    "Dataset133_MarmosetTissue",
    "Dataset134_MarmosetSubcort",
    "Dataset202_KidneyTumourPaint",
    "Dataset204_OrganellesUroCellPaint",
    "Dataset207_LiverVesselsPaint",
    "Dataset208_LungAirwaysPaint",
    "Dataset211_SubcorticalCobraPaint",
    "Dataset212_HippSubfieldsCobraPaint",
    "Dataset213_CerebellumCobraPaint",
}
SEEN_DATA = {"small": FREE | {SYNTHETIC}, "small-nc": FREE | NON_COMMERCIAL | {SYNTHETIC}}
"""The data sets that the licence of each network allows, as docs/model-small.md lists them."""


def assert_same(given, expected):
    given, expected = to_state_dict(given), to_state_dict(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(given[name], tensor)


def test_a_file_is_the_network_of_the_checkpoint_that_it_was_exported_from(exported, trained):
    of_file = find_network(exported("safetensors").path)
    of_checkpoint = find_network(trained.path)
    assert of_file.digest == of_checkpoint.digest
    assert of_file.digest == checkpoint_digest(read_metadata(trained.path))
    assert of_file.experiment == of_checkpoint.experiment
    assert of_file.metadata["step"] == of_checkpoint.metadata["step"]
    assert_same(of_file.load(), of_checkpoint.load())


def test_what_is_on_disk_does_not_hide_a_name(exported, trained, tmp_path, monkeypatch):
    shipped = {"tiny": exported("safetensors").path}
    monkeypatch.setattr(networks, "shipped_networks", lambda: shipped)
    monkeypatch.chdir(tmp_path)
    assert find_network("tiny").path == exported("safetensors").path
    (tmp_path / "tiny").symlink_to(trained.path)
    with pytest.warns(UserWarning, match=r"for the file or folder of this name write \./tiny"):
        assert find_network("tiny").path == exported("safetensors").path
    assert find_network("./tiny").path.is_dir()
    assert find_network(Path("tiny")).path.is_dir()


def test_an_unknown_name_tells_those_that_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*smal: .*wsicl_jax are .*small"):
        find_network("smal")


def test_a_file_that_changes_while_it_is_used_is_noticed(exported, tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(exported("safetensors").path.read_bytes())
    stored = find_network(file)
    other = DualBranch(stored.experiment.model, rngs=nnx.Rngs(0))
    write_safetensors(file, other, Settings(stored.experiment, 30), "float32")
    with pytest.raises(CheckpointError, match="was changed"):
        stored.load()


@pytest.mark.parametrize("name", sorted(shipped_networks()))
def test_a_shipped_network_is_small_in_bytes_and_says_how_it_was_trained(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    stored = find_network(name)
    assert stored.path == shipped_networks()[name]
    assert stored.path.stat().st_size <= LARGEST_FILE
    assert stored.metadata["step"] == stored.experiment.train.steps
    seen = Seen.from_json(stored.metadata[SEEN])
    assert {data.name for data in seen.data_sets} == SEEN_DATA[name] and not seen.unknown


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("small", "8b388f9541cd792983e2ade13a1ee16d"),
        ("small-nc", "809646fdf9ff2a4fc70b1d6bf27aff03"),
    ],
)
def test_a_shipped_network_has_a_digest_and_the_tensors_that_were_measured(name, digest):
    content = shipped_networks()[name].read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    assert DIGEST.encode() in content[:start]
    tensors = hashlib.blake2b(content[start:], digest_size=16).hexdigest()
    assert tensors == digest


def test_the_small_network_finds_an_unseen_bright_ball_from_boxes(tmp_path, monkeypatch):
    """Not what it is measured on: whether the file, its grid and its cut belong together."""
    monkeypatch.chdir(tmp_path)
    segmenter = Segmenter.load("small")
    assert segmenter.volume != VolumeConfig()
    grid = np.indices(segmenter.volume.grid)
    sides = np.reshape(segmenter.volume.grid, (3, 1, 1, 1))

    def subject(centre):
        ball = (((grid - np.reshape(centre, (3, 1, 1, 1))) / sides) ** 2).sum(0) < 0.15**2
        image = np.where(ball, 0.9, 0.4) + np.random.default_rng(0).normal(0, 0.03, ball.shape)
        return image.astype(np.float32).clip(0, 1), ball

    middle = np.array(segmenter.volume.grid) / 2
    offsets = np.array([(1, 1, -2), (2, 0, 1), (-1, 2, 0), (0, -2, -1)])
    (target, truth), *shown = (subject(middle + offset) for offset in offsets)
    images, prompts = (np.stack(part).astype(np.float32) for part in zip(*shown, strict=True))
    found = segmenter.predict(segmenter.encode(target), images, prompts) > 0.5
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.7


def test_the_restricting_licence_of_a_shipped_network_is_stated_once(exported, monkeypatch):
    file = exported("safetensors").path
    monkeypatch.setattr(networks, "shipped_networks", lambda: {"small": file, "small-nc": file})
    networks._state_licence.cache_clear()
    with pytest.warns(UserWarning, match="the licence of small-nc is CC BY-NC-SA 4.0"):
        find_network("small-nc")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_network("small-nc")
        networks._state_licence.cache_clear()
        find_network("small")


def test_the_package_loads_networks_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_same(wsicl_jax.load_model("small"), load_model(shipped_networks()["small"]))
