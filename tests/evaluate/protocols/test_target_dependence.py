"""How much a network's mask depends on the image of its target."""

from dataclasses import replace

import numpy as np
import pytest
from evaluate.small_evaluations import FakeNetwork, planned

from wsicl_jax.config import EvaluationConfig
from wsicl_jax.evaluate.protocols.target_dependence import score_target_dependence
from wsicl_jax.evaluate.scoring import score, settings_of, sizes_of
from wsicl_jax.evaluate.summaries import mean_dice


@pytest.fixture(scope="module")
def data(store):
    return planned(store, kinds=["box"], prompts=2)


def scores_of(data, answer):
    return scores_of_network(data, FakeNetwork(answer))


def scores_of_network(data, network):
    return score_target_dependence(network, *data, model="it", kind="box", prompts=2, contexts=3)


def prompts_alone(episode, size):
    return episode.context_prompts[0, ..., 0]


def bright_voxels(episode, size):
    return (episode.target[..., 0] > episode.target.mean() + 0.2).astype(float)


def empty(episode, size):
    return np.zeros(episode.target.shape[:-1])


def test_a_mask_of_the_prompts_alone_has_a_dice_of_1_on_every_replacement(data):
    scores = scores_of(data, prompts_alone)
    assert len(scores) == 2 * len(data.episodes.episodes)
    assert {s.dice for s in scores} == {1.0}


def test_a_mask_of_the_targets_intensities_changes_with_the_target(data):
    scores = scores_of(data, bright_voxels)
    assert {s.dice for s in scores if s.replacement == "constant"} == {0.0}
    assert 0 < np.mean([s.dice for s in scores if s.replacement == "shuffled"]) < 0.5


def test_an_empty_mask_on_the_true_target_has_no_dice(data):
    assert {s.dice for s in scores_of(data, empty)} == {None}


def test_a_shuffled_target_keeps_its_intensities(data):
    network = FakeNetwork(bright_voxels)
    scores_of_network(data, network)
    sorted_targets = {np.sort(e.target, axis=None).tobytes() for e in network.received}
    # Each target as it is and shuffled, and a constant one.
    assert len(sorted_targets) == 2 * len({e.target for e in data.episodes.episodes})


def test_context_images_are_registered_to_the_image_in_the_targets_place(data):
    plain, registering = (FakeNetwork(prompts_alone) for _ in range(2))
    registering.volume = replace(plain.volume, registration=True)
    for network in (plain, registering):
        scores_of_network(data, network)
    moved = {}
    for a, b in zip(plain.received, registering.received, strict=True):
        np.testing.assert_array_equal(a.target, b.target)
        is_constant = np.ptp(a.target) == 0
        changed = (a.context_images != b.context_images).any()
        moved[is_constant] = moved.get(is_constant, False) or changed
    # Nothing corresponds to a constant, so that its mask comes from unregistered prompts.
    assert moved == {False: True, True: False}


def test_target_dependence_is_measured_with_the_most_prompts_and_contexts_if_the_settings_ask(data):
    settings = EvaluationConfig(
        kinds=("box",), prompts=(1, 2), contexts=(1, 3), target_dependence=True
    )
    (setting,) = [s for s in settings_of(settings) if s.protocol == "target_dependence"]
    scores = score(setting, FakeNetwork(prompts_alone), data, settings, "it")
    assert {(s.prompts, s.contexts, s.replacement) for s in scores} == {
        (2, 3, "constant"),
        (2, 3, "shuffled"),
    }
    assert mean_dice(scores) == {}
    assert all(
        s.protocol != "target_dependence"
        for s in settings_of(replace(settings, target_dependence=False))
    )


def test_with_fewer_contexts_a_list_is_scored_with_the_sizes_that_it_has(data):
    settings = EvaluationConfig(contexts=(1, 2, 8), fewer_contexts=True)
    assert sizes_of(data.episodes, settings) == [1, 2]
    assert sizes_of(data.episodes, replace(settings, fewer_contexts=False)) == [1, 2, 8]
    assert sizes_of(data.episodes, replace(settings, contexts=(9, 10))) == [9]
