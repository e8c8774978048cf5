"""Baselines without a network: what they answer, and where their answers are cut."""

from collections.abc import Callable

import numpy as np
import pytest
from evaluate.small_evaluations import GRID, SHAPE, FakeNetwork, planned, write_store

from wsicl_jax.config import DatasetConfig, SweepConfig, VolumeConfig, load_sweep
from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.errors import ConfigError, DataError
from wsicl_jax.evaluate import baselines
from wsicl_jax.evaluate.baselines import (
    SHARES,
    Baseline,
    baselines_of,
    intensity_maps,
    prompt_means,
    score_baseline,
)
from wsicl_jax.evaluate.prompted_episodes import prompted
from wsicl_jax.evaluate.protocols.in_context import score_in_context
from wsicl_jax.geometry.registration import registered
from wsicl_jax.metrics.overlap import dice

VOLUME = VolumeConfig(grid=GRID)


def line(values) -> np.ndarray:
    """Images or channels of one row of voxels."""
    array = np.asarray(values, np.float32)
    return array.reshape(*array.shape, 1, 1, 1)


def episode(target, images, prompts) -> Episode:
    truth, weights = np.zeros_like(target), np.ones(len(images))
    return Episode(
        *map(line, (target, truth, images, prompts)),
        weights.astype(np.float32),
        np.zeros(0, np.int32),
    )


def scores_of(name: str, data, *, kind="mask", prompts=1, sizes=(1, 2), volume=VOLUME):
    return score_baseline(
        Baseline(name, volume),
        *data,
        model=name,
        kind=kind,
        prompts=prompts,
        sizes=sizes,
        tolerance_mm=2.0,
    )


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """A store of ten cases whose two structures are all at the same places."""
    label = np.zeros(SHAPE, np.uint8)
    label[2:8, 1:5, 2:6] = 1
    label[2:8, 7:11, 2:6] = 2
    return write_store(tmp_path_factory.mktemp("stores") / "alike", labels=lambda number: label)


# What they answer.


def test_the_prompt_mean_is_that_of_the_first_channels():
    prompts = [[1, 0, 0.5, 0], [1, 0, 0, 0.5], [0, 0, 1, 1]]
    found = prompt_means(episode([0] * 4, [[0] * 4] * 3, prompts), [1, 2, 3])
    expected = [[1, 0, 0.5, 0], [1, 0, 0.25, 0.25], [2 / 3, 0, 0.5, 0.5]]
    np.testing.assert_allclose(found[..., 0, 0], expected, rtol=1e-6)


def test_the_intensity_model_is_that_of_the_voxels_below_the_prompts_in_their_mean_box():
    images = [[9, 0.2, 0.4, 9, 9, 9], [9, 9, 9, 0.4, 0.6, 9]]
    prompts = [[0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0.1, 0]]
    high = 0.4 + np.sqrt(0.02)
    target = [0.4, 0.4, 0.4, high, 0.4, 0.4]
    found = intensity_maps(episode(target, images, prompts), [1, 2])
    # One: mean 0.3, deviation 0.1, voxels 1 and 2. Two: mean 0.4, variance 0.02, voxels 2 and 3.
    expected = [[0, np.exp(-0.5), np.exp(-0.5), 0, 0, 0], [0, 0, 1, np.exp(-0.5), 0, 0]]
    np.testing.assert_allclose(found[..., 0, 0], expected, rtol=1e-5)


def test_the_mean_box_has_the_voxels_whose_centres_are_inside():
    prompts = [[0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0]]  # from 1.5 to 3.5
    found = intensity_maps(episode([0.5] * 6, [[0.5] * 6] * 2, prompts), [2])
    assert found[0, :, 0, 0].tolist() == [0, 1, 1, 0, 0, 0]


def test_contexts_without_prompts_say_nothing_of_intensity_and_one_voxel_has_a_spread():
    prompts = [[0, 0, 0], [0, 1, 0]]
    found = intensity_maps(episode([0.5, 0.51, 0.5], [[0.5] * 3] * 2, prompts), [1, 2])
    assert not found[0].any()
    np.testing.assert_allclose(found[1, :, 0, 0], [0, np.exp(-0.5), 0], rtol=1e-4)


def test_masks_of_equal_subjects_give_the_target(alike):
    scores = scores_of("prompt_mean", planned(alike))
    assert len(scores) == 2 * 3 * 2
    assert all((s.dice, s.surface_dice, s.hd95_mm) == (1, 1, 0) for s in scores)


def test_the_intensity_model_finds_a_bright_box_that_is_not_where_the_prompts_are(tmp_path):
    """Only the extent is shared: the box is another one in every case."""

    def label(number: int) -> np.ndarray:
        found = np.zeros(SHAPE, np.uint8)
        found[2:4, 2:4, 2:4] = found[6:8, 6:8, 5:7] = 1  # what makes the extent
        x, y, z = np.random.default_rng(number).integers(2, (6, 6, 5))
        found[x : x + 2, y : y + 3, z : z + 2] = 1
        found[9:, 10:, 7:] = 2
        return found

    data = planned(write_store(tmp_path / "moving", labels=label))
    bright, mean = (
        [s.dice for s in scores_of(name, data) if s.structure == "left" and s.contexts == 2]
        for name in ("intensity", "prompt_mean")
    )
    assert np.mean(bright) > 0.95 > 0.9 > np.mean(mean)


# Where they are cut.


@pytest.fixture
def answering(monkeypatch, alike):
    """`answering(answer)`: scores where the prompt mean is `answer(truth, size)`."""

    def scores(answer: Callable[[np.ndarray, int], np.ndarray]):
        def maps(episode, sizes):
            found = [answer(episode.truth[..., 0], size) for size in sizes]
            return np.asarray(found, np.float32)

        monkeypatch.setattr(baselines, "prompt_means", maps)
        return scores_of("prompt_mean", planned(alike))

    return scores


def needs_a_high_cut(truth: np.ndarray) -> np.ndarray:
    return np.maximum(truth, 0.6)


def needs_a_low_cut(truth: np.ndarray) -> np.ndarray:
    return truth * np.where(np.arange(truth.shape[1]) % 4, 0.3, 1)[:, None]


def test_the_cut_is_chosen_for_each_structure_and_size(answering):
    def answer(truth, size):
        left = truth[GRID[0] // 2 :].any()
        return (needs_a_high_cut if left == (size == 1) else needs_a_low_cut)(truth)

    assert {s.dice for s in answering(answer)} == {1.0}


def test_the_cut_is_one_for_all_targets_of_a_structure(answering):
    asked = []

    def answer(truth, size):
        asked.append(size)
        first = len(asked) in (1, 7)  # of three targets in two sizes
        return (needs_a_high_cut if first and size == 1 else needs_a_low_cut)(truth)

    scores = answering(answer)
    assert [s.dice < 1 for s in scores] == 2 * [True, False, False, False, False, False]


def test_the_cut_is_a_share_of_each_targets_own_maximum(answering):
    scale = iter(np.linspace(0.01, 1, 12))

    def answer(truth, size):
        return next(scale) * needs_a_high_cut(truth)

    assert {s.dice for s in answering(answer)} == {1.0}


def test_a_map_of_nothing_gives_an_empty_mask(answering):
    scores = answering(lambda truth, size: np.zeros_like(truth))
    assert {s.dice for s in scores} == {0.0}
    assert all(s.hd95_mm > 0 for s in scores)


@pytest.mark.parametrize("empty", [False, True])
def test_the_dice_by_which_a_cut_is_chosen_is_the_one_that_is_scored(empty):
    rng = np.random.default_rng(0)
    values = rng.random((5, 6, 7), np.float32) ** 4
    values[:, :2] = 0
    truth = (rng.random(values.shape) < 0.4) & (not empty)
    for map_ in (values, np.zeros_like(values)):
        levels = baselines._Levels.of(map_)
        masks = [map_ > share * map_.max() for share in SHARES]
        assert all((levels.above(i) == mask).all() for i, mask in enumerate(masks))
        np.testing.assert_allclose(levels.dice(truth), [dice(mask, truth) for mask in masks])


# What is scored.


@pytest.mark.parametrize(("kind", "prompts"), [("box", 2), ("point", 1), ("mask", 2)])
def test_episodes_prompts_and_seconds_are_those_of_a_network(store, kind, prompts):
    data = planned(store, kinds=["box", "point"])
    network = FakeNetwork(lambda episode, size: np.zeros(GRID))
    settings = {"kind": kind, "prompts": prompts, "sizes": (2, 1)}
    of_network = score_in_context(network, *data, model="intensity", tolerance_mm=2.0, **settings)
    of_baseline = scores_of("intensity", data, **settings)
    measured = ("dice", "surface_dice", "hd95_mm")
    plain = [
        [{k: v for k, v in vars(s).items() if k not in measured} for s in scores]
        for scores in (of_network, of_baseline)
    ]
    assert plain[0] == plain[1] and len(plain[0]) == 12
    assert max(s.dice for s in of_baseline) > 0


def test_the_prompts_of_a_baseline_are_never_smoothed():
    config = SweepConfig(data=(DatasetConfig(store="synthetic"),), baselines=("prompt_mean",))
    (found,) = baselines_of(config, [VolumeConfig(grid=(8, 8, 8), prompt_smoothing=0.2)])
    assert found.volume == VolumeConfig(grid=(8, 8, 8))


def test_the_registered_mean_is_the_prompt_mean_of_registered_context_images(store):
    data = planned(store, kinds=["mask"])
    config = SweepConfig(
        data=(DatasetConfig(store="synthetic"),), baselines=("prompt_mean", "registered_mean")
    )
    plain, registering = baselines_of(config, [VOLUME])
    assert plain.digest != registering.digest
    shown = [
        prompted(one.volume, *data, data.episodes.episodes[0], "mask", 1, 3).episode
        for one in (plain, registering)
    ]
    target, images, channels = (
        x[..., 0] for x in (shown[0].target, shown[0].context_images, shown[0].context_prompts)
    )
    expected = registered(target, images, channels)[1].mean(axis=0)
    np.testing.assert_allclose(registering.maps(shown[1], [3])[0], expected, rtol=1e-6)


def test_the_registered_mean_of_few_context_images_does_not_depend_on_more(store):
    data = planned(store, kinds=["box"])
    volume = VolumeConfig(grid=GRID, registration=True, prompt_smoothing=0.2)
    settings = {"kind": "box", "prompts": 1, "volume": volume}
    together = scores_of("registered_mean", data, sizes=[1, 3], **settings)
    alone = scores_of("registered_mean", data, sizes=[1], **settings)
    assert [x for x in together if x.contexts == 1] == alone


def test_a_list_with_too_few_contexts_is_refused(store):
    with pytest.raises(DataError, match="4 are requested"):
        scores_of("prompt_mean", planned(store), sizes=[4])
    with pytest.raises(DataError, match="kind 'point'"):
        scores_of("prompt_mean", planned(store, kinds=["box"]), kind="point")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{data: [{store: synthetic}], checkpoints: {intensity: runs/it}}", "rename it"),
        ("{data: [{store: synthetic}], baselines: [median]}", "baselines"),
        (
            "{data: [{store: synthetic}], baselines: [intensity], "
            "evaluation: {kinds: [], restoration: [denoising]}}",
            "in context alone",
        ),
    ],
)
def test_a_sweep_with_a_wrong_baseline_is_refused(tmp_path, settings, message):
    path = tmp_path / "sweep.yaml"
    path.write_text(settings)
    with pytest.raises(ConfigError, match=message):
        load_sweep(path)
