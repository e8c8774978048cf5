"""Scores of the in-context protocol: inputs, masks, context sizes and annotation time."""

from dataclasses import replace

import numpy as np
import pytest
from evaluate.small_evaluations import GRID, SHAPE, FakeNetwork, planned, write_store

from wsicl_jax.config import TrainConfig, VolumeConfig
from wsicl_jax.errors import DataError
from wsicl_jax.evaluate import predictor as network_module
from wsicl_jax.evaluate.case_sources import structure_mask
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.prompted_episodes import predicted_mask
from wsicl_jax.evaluate.protocols.in_context import score_in_context
from wsicl_jax.geometry.axes import spacing_of
from wsicl_jax.metrics.overlap import overlap
from wsicl_jax.model.losses import make_loss
from wsicl_jax.prompts import smoothed_prompts

KINDS = ("point", "box", "box3d", "mask2d", "mask", "mixed")


@pytest.fixture(scope="module")
def data(store):
    return planned(store, kinds=KINDS, prompts=3)


def scores_of(network, data, *, kind="box", prompts=2, sizes=(3,), **settings):
    return score_in_context(
        network,
        *data,
        model="it",
        kind=kind,
        prompts=prompts,
        sizes=sizes,
        tolerance_mm=2.0,
        **settings,
    )


def perfect(episode, size):
    return episode.truth[..., 0]


def test_every_episode_has_a_score_at_every_size(data):
    scores = scores_of(FakeNetwork(perfect), data, sizes=[3, 1, 3])
    assert [(s.episode, s.contexts) for s in scores] == [
        (e.name, size) for e in data.episodes.episodes for size in (1, 3)
    ]
    for score, episode in zip(scores[::2], data.episodes.episodes, strict=True):
        assert (score.target, score.subject) == (episode.target, episode.subject)
        assert (score.structure, score.data_set) == (episode.structure, "two_blocks")
        assert (score.model, score.protocol, score.kind, score.prompts) == (
            "it",
            "in_context",
            "box",
            2,
        )


@pytest.mark.parametrize("kind", ["box", "mask", "point"])
def test_padding_around_images_is_cut_off_and_masks_return_to_their_position(tmp_path, kind):
    padded = planned(write_store(tmp_path / "padded", margin=5), kinds=KINDS, prompts=3)
    # The working grid is that of the images without their margin, so that nothing is lost.
    for score in scores_of(FakeNetwork(perfect), padded, kind=kind):
        assert score.dice == 1


def test_a_perfect_network_has_perfect_scores_on_the_targets_own_grid(data):
    for score in scores_of(FakeNetwork(perfect), data):
        assert score.dice == score.surface_dice == 1
        assert score.hd95_mm == 0


def test_masks_are_compared_on_the_targets_own_grid_with_its_spacing(data):
    def shifted(episode, size):
        return np.roll(episode.truth[..., 0], 1, axis=0)  # one voxel of 2 mm to the right

    listed, cases = data
    scores = scores_of(FakeNetwork(shifted), data)
    for score, episode in zip(scores, listed.episodes, strict=True):
        truth = structure_mask(cases, episode.target, listed.structures[episode.structure].labels)
        spacing = spacing_of(cases.affine(episode.target))
        assert truth.shape == SHAPE and spacing == (1.0, 2.0, 1.5)
        expected = overlap(np.roll(truth, -1, axis=1), truth, spacing, 2.0)
        assert (score.dice, score.surface_dice, score.hd95_mm) == expected
        assert score.hd95_mm == 2


def test_a_mask_is_the_output_above_the_cut(data):
    listed, cases = data
    network = FakeNetwork(perfect)
    output = np.full(GRID, 0.5, np.float32)
    assert not predicted_mask(network, cases, listed.episodes[0], output).any()
    assert predicted_mask(network, cases, listed.episodes[0], output + 0.01).all()


# Inputs of the network.


def test_the_network_sees_the_contexts_of_the_list_with_its_prompts(data):
    listed, cases = data
    network = FakeNetwork(perfect)
    scores_of(network, data, kind="mask")
    for received, episode in zip(network.received, listed.episodes, strict=True):
        labels = listed.structures[episode.structure].labels
        for i, name in enumerate(episode.contexts):
            image, label = cases.subject(name, "MR", network.volume)
            np.testing.assert_array_equal(received.context_images[i, ..., 0], image)
            np.testing.assert_array_equal(received.context_prompts[i, ..., 0], label == labels[0])
        image, label = cases.subject(episode.target, "MR", network.volume)
        np.testing.assert_array_equal(received.target[..., 0], image)
        np.testing.assert_array_equal(received.truth[..., 0], label == labels[0])


def test_prompts_have_the_smoothing_that_the_network_was_trained_with(data):
    plain, smoothing = FakeNetwork(perfect), FakeNetwork(perfect)
    smoothing.volume = replace(plain.volume, prompt_smoothing=0.2)
    assert scores_of(plain, data) == scores_of(smoothing, data)
    for without, smoothed in zip(plain.received, smoothing.received, strict=True):
        channels = without.context_prompts[..., 0]
        expected = smoothed_prompts(channels, [False] * len(channels), 0.2)
        np.testing.assert_array_equal(smoothed.context_prompts[..., 0], expected)


def test_the_smoothing_of_a_smaller_context_set_does_not_depend_on_the_others(data):
    network = FakeNetwork(perfect)
    network.volume = replace(network.volume, prompt_smoothing=0.2)
    scores = scores_of(network, data, sizes=[1, 2])
    assert [s.contexts for s in scores] == [1, 2] * len(data.episodes.episodes)
    sets = [len(received.context_prompts) for received in network.received]
    assert sorted(sets) == [1] * (len(sets) // 2) + [2] * (len(sets) // 2)
    for received in network.received:
        if len(received.context_prompts) == 1:
            np.testing.assert_allclose(received.context_prompts.max(), 1.5, atol=0.01)


def test_blank_contexts_carry_no_prompt_and_cost_nothing(data):
    network = FakeNetwork(perfect)
    scores = scores_of(network, data, blank=True)
    assert not any(received.context_prompts.any() for received in network.received)
    assert all(received.context_images.any() for received in network.received)
    assert {score.seconds for score in scores} == {0}


def test_more_than_the_list_has_is_an_error_before_anything_is_run(data):
    network = FakeNetwork(perfect)
    for settings in ({"sizes": [4]}, {"prompts": 4}, {"kind": "scribble"}):
        with pytest.raises(DataError, match="episode list of two_blocks"):
            scores_of(network, data, **settings)
    assert not network.received


# What it costs a person.


@pytest.mark.parametrize(
    ("kind", "each"),
    [
        ("point", 2 * 5),
        ("box", 2 * 10),
        ("box3d", 20),
        ("mask2d", 2 * 80),
        ("mask", 1600),
    ],
)
def test_the_seconds_of_a_context_set_are_those_of_its_prompts(data, kind, each):
    scores = scores_of(FakeNetwork(perfect), data, kind=kind, sizes=[1, 3])
    assert [score.seconds for score in scores[:2]] == [each, 3 * each]
    assert {score.fewer for score in scores} == {0}
    assert {score.prompts for score in scores} == {1 if kind in ("box3d", "mask") else 2}


def test_mixed_prompts_cost_what_each_of_them_costs(data):
    listed, _ = data
    scores = scores_of(FakeNetwork(perfect), data, kind="mixed", prompts=2)
    cost = {"point": 5, "box": 10, "scribble": 10}
    for score, episode in zip(scores, listed.episodes, strict=True):
        marked = listed.structures[episode.structure].prompts
        kinds = [kind for name in episode.contexts for kind in marked[name].mixed[:2]]
        assert score.seconds == sum(cost[kind] for kind in kinds)


def test_contexts_with_fewer_prompts_than_requested_are_counted(tmp_path):
    def label(number: int) -> np.ndarray:
        found = np.zeros(SHAPE, np.uint8)
        found[4, 4 : (5 if number % 2 else 8), 4] = 1
        return found

    path = write_store(tmp_path / "small", labels=label)
    data = planned(path, kinds=["point"], prompts=3)
    for score, episode in zip(
        scores_of(FakeNetwork(perfect), data, kind="point", prompts=3, sizes=[3]),
        data.episodes.episodes,
        strict=True,
    ):
        small = sum(int(name[4:]) % 2 for name in episode.contexts)
        assert score.fewer == small
        assert score.seconds == 5 * (3 * 3 - 2 * small)


# A real network.


def test_scores_do_not_depend_on_how_many_episodes_run_at_once(data, model, monkeypatch):
    network = Predictor(model, VolumeConfig(grid=GRID))
    together = scores_of(network, data, sizes=[1, 3])
    assert 0 < np.mean([score.dice for score in together]) < 1
    monkeypatch.setattr(network_module, "_VOXELS_AT_ONCE", 1)
    for one, several in zip(scores_of(network, data, sizes=[1, 3]), together, strict=True):
        assert one.episode == several.episode and one.contexts == several.contexts
        assert one.dice == pytest.approx(several.dice, abs=1e-3)


def test_a_score_has_the_training_loss_of_the_output_on_the_working_grid(data):
    def off_by_its_size(episode, size):
        return perfect(episode, size) + 0.1 * size

    loss = make_loss(TrainConfig(loss="l1", loss_weight=2.0))
    scores = scores_of(FakeNetwork(off_by_its_size), data, sizes=[1, 3], loss=loss)
    assert [score.loss for score in scores[:2]] == pytest.approx([0.2, 0.6], rel=1e-4)
    assert scores_of(FakeNetwork(perfect), data)[0].loss is None
