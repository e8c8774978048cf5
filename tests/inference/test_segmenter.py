import numpy as np
import pytest
from inference.volumes import VOLUME, volume

from wsicl_jax.config import EpisodeConfig, ExperimentConfig, VolumeConfig, config_to_dict
from wsicl_jax.errors import CheckpointError, ConfigError
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.segmenter import Segmenter
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.weights.export.export import export
from wsicl_jax.weights.network_checkpoint import load_checkpoint, save_model


def examples():
    mask = np.zeros((6, 6, 6), bool)
    mask[2:5, 1:4, 2:] = True
    return [
        Example(volume(1), points=[(4, 3, 2)], boxes=[[(1, 5), (1, 6), (3, 4)]]),
        Example(volume(2, (6, 6, 6)), mask=mask),
    ]


def saved(path, model, **settings):
    config = ExperimentConfig(model=model.config, volume=VOLUME, **settings)
    save_model(path, model, {"config": config_to_dict(config)})
    return path


def test_a_checkpoint_brings_its_working_grid_and_percentiles(model, segmenter, tmp_path):
    loaded = Segmenter.load(saved(tmp_path / "checkpoint", model))
    expected = segmenter.task(examples()).segment(volume(9), probabilities=True)
    found = loaded.task(examples()).segment(volume(9), probabilities=True)
    np.testing.assert_array_equal(found.label_map, expected.label_map)
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-3)


def test_network_and_grid_are_of_one_checkpoint_though_a_newer_one_is_saved_meanwhile(
    model, tmp_path, monkeypatch
):
    def save_step(step, volume):
        config = ExperimentConfig(model=model.config, volume=volume)
        path = tmp_path / "checkpoints" / str(step)
        save_model(path, model, {"config": config_to_dict(config)})

    def load_and_save(path):
        loaded.append(load_checkpoint(path))
        save_step(2, VolumeConfig(grid=(4, 4, 4)))
        return loaded[0]

    loaded = []
    save_step(1, VOLUME)
    monkeypatch.setattr("wsicl_jax.weights.networks.load_checkpoint", load_and_save)
    assert Segmenter.load(tmp_path).volume == VOLUME
    assert len(loaded) == 1


def test_a_network_that_was_trained_on_crops_refines(model, tmp_path):
    one = saved(tmp_path / "close", model, episode=EpisodeConfig(crop_share=0.2))
    other = saved(tmp_path / "whole", model)
    refine = volume(9, (16, 12, 20))
    plans = [
        Segmenter.load(path).task(examples()).plan(refine.image.shape, refine.affine)
        for path in (one, other)
    ]
    assert plans[0].tiles and not plans[1].tiles


def test_the_network_is_compiled_once_for_each_number_of_contexts(model, monkeypatch):
    traces = []
    predict = DualBranch.predict

    def traced(self, encoded, images, prompts, weights):
        traces.append(images.shape[1])
        return predict(self, encoded, images, prompts, weights)

    monkeypatch.setattr(DualBranch, "predict", traced)
    segmenter = Segmenter(model, VOLUME)
    pair, single = segmenter.task(examples()), segmenter.task(examples()[:1])
    for shape in [(5, 6, 7), (9, 9, 9), (4, 4, 4)]:
        for task in (pair, single):
            task.segment(volume(9, shape))
    assert traces == [2, 1]


def test_context_images_of_weight_0_count_as_if_they_were_not_there(segmenter):
    rng = np.random.default_rng(0)
    target, *images = rng.random((4, *VOLUME.grid)).astype(np.float32)
    prompts = (rng.random((3, *VOLUME.grid)) > 0.7).astype(np.float32)
    encoded = segmenter.encode(target)
    images = np.stack(images)
    part = segmenter.predict(encoded, images, prompts, np.array([1, 0, 1], np.float32))
    alone = segmenter.predict(encoded, images[[0, 2]], prompts[[0, 2]])
    np.testing.assert_allclose(part, alone, atol=1e-5 * np.abs(alone).max())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_memory": 4}, "max_memory_gb"),
        ({"max_memory_gb": 0}, "max_memory_gb"),
        ({"refine_overlap": 0.9}, "refine_overlap"),
    ],
)
def test_a_setting_that_is_unknown_or_out_of_range_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Segmenter.load("nowhere", **settings)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Segmenter.load(tmp_path / "nothing")
    (tmp_path / "text.txt").write_text("no network")
    with pytest.raises(CheckpointError, match=r"text\.txt"):
        Segmenter.load(tmp_path / "text.txt")


@pytest.mark.parametrize("form", ["safetensors", "onnx", "torch"])
def test_an_exported_file_segments_as_its_checkpoint_does(model, segmenter, tmp_path, form):
    checkpoint = saved(tmp_path / "checkpoint", model)
    file = export(checkpoint, tmp_path / "network", form).path
    loaded = Segmenter.load(file)
    assert loaded.volume == VOLUME
    expected = segmenter.task(examples()).segment(volume(9), probabilities=True)
    found = loaded.task(examples()).segment(volume(9), probabilities=True)
    np.testing.assert_array_equal(found.probability, expected.probability)
