"""How much a network looks at its target."""

from dataclasses import replace

import numpy as np
import pytest
from evaluate.small_evaluations import Answers, planned

from wsicl_jax.config import EvaluationConfig
from wsicl_jax.evaluate.protocol import score, settings_of, sizes_of
from wsicl_jax.evaluate.score_tables import mean_dice
from wsicl_jax.evaluate.target_dependence import score_looking


@pytest.fixture(scope="module")
def data(store):
    return planned(store, kinds=["box"], prompts=2)


def scores_of(data, answer):
    return score_looking(Answers(answer), *data, model="it", kind="box", prompts=2, contexts=3)


def prompted(episode, size):
    return episode.context_prompts[0, ..., 0]


def bright(episode, size):
    return (episode.target[..., 0] > episode.target.mean() + 0.2).astype(float)


def nothing(episode, size):
    return np.zeros(episode.target.shape[:-1])


def test_a_network_that_does_not_look_answers_the_same(data):
    scores = scores_of(data, prompted)
    assert len(scores) == 2 * len(data.episodes.episodes)
    assert {s.dice for s in scores} == {1.0}


def test_a_network_that_looks_answers_otherwise(data):
    scores = scores_of(data, bright)
    assert {s.dice for s in scores if s.replacement == "constant"} == {0.0}
    assert 0 < np.mean([s.dice for s in scores if s.replacement == "shuffled"]) < 0.5


def test_a_mask_of_nothing_says_nothing(data):
    assert {s.dice for s in scores_of(data, nothing)} == {None}


def test_a_shuffled_target_keeps_its_intensities(data):
    network = Answers(bright)
    score_looking(network, *data, model="it", kind="box", prompts=2, contexts=3)
    sorted_targets = {np.sort(e.target, axis=None).tobytes() for e in network.shown}
    # Each target as it is and shuffled, and a constant one.
    assert len(sorted_targets) == 2 * len({e.target for e in data.episodes.episodes})


def test_looks_are_measured_where_asked_with_the_most_prompts_and_contexts(data):
    settings = EvaluationConfig(kinds=("box",), prompts=(1, 2), contexts=(1, 3), looks=True)
    (asked,) = [s for s in settings_of(settings) if s.protocol == "looking"]
    scores = score(asked, Answers(prompted), data, settings, "it")
    assert {(s.prompts, s.contexts, s.replacement) for s in scores} == {
        (2, 3, "constant"),
        (2, 3, "shuffled"),
    }
    assert mean_dice(scores) == {}
    assert all(s.protocol != "looking" for s in settings_of(replace(settings, looks=False)))


def test_with_fewer_contexts_a_list_is_scored_as_far_as_it_goes(data):
    settings = EvaluationConfig(contexts=(1, 2, 8), fewer_contexts=True)
    assert sizes_of(data.episodes, settings) == [1, 2]
    assert sizes_of(data.episodes, replace(settings, fewer_contexts=False)) == [1, 2, 8]
    assert sizes_of(data.episodes, replace(settings, contexts=(9, 10))) == [9]
