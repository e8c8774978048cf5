"""Which settings an evaluation has, and all of them at once."""

import numpy as np
import pytest
from evaluate.small_evaluations import FakeNetwork, experiment, planned

from wsicl_jax.config import EvaluationConfig
from wsicl_jax.errors import ConfigError, DataError
from wsicl_jax.evaluate.planning import plan_experiment, with_prompts
from wsicl_jax.evaluate.scoring import check_list, evaluate, settings_of

EVERYTHING = {
    "kinds": ["box", "mask", "box"],
    "contexts": [1, 2],
    "prompts": [2, 1, 2],
    "targets": 1,
    "interactive": {"kinds": ["point"], "rounds": 2, "contexts": 1},
    "restoration": ["denoising"],
}


def test_every_kind_has_a_setting_for_each_number_of_prompts_but_masks():
    settings = settings_of(experiment("synthetic", **EVERYTHING).evaluation)
    names = ["box-1", "box-2", "mask-1", "interactive-point", "restoration-denoising"]
    assert [setting.name for setting in settings] == names
    assert [setting.prompts for setting in settings] == [1, 2, 1, 2, 0]


def test_a_single_number_stands_for_one_size():
    config = experiment("synthetic", contexts=4, prompts=3).evaluation
    assert (config.contexts, config.prompts) == ((4,), (3,))
    with pytest.raises(ConfigError, match="nothing is evaluated"):
        experiment("synthetic", kinds=[])


def test_all_settings_are_scored_on_every_episode(store):
    config = experiment(store, **EVERYTHING)
    network = FakeNetwork(lambda episode, size: np.zeros(episode.target.shape[:3]))
    marked = [with_prompts(data) for data in plan_experiment(config).planned]
    scores = evaluate(network, marked, config.evaluation, "it")
    assert {score.model for score in scores} == {"it", "nothing done"}
    found = [(s.protocol, s.kind, s.prompts, s.contexts, s.round) for s in scores]
    in_context = [
        ("in_context", kind, prompts, size, 0)
        for kind, prompts in (("box", 1), ("box", 2), ("mask", 1))
        for _ in range(2)  # structures
        for size in (1, 2)
    ]
    # Sessions of several episodes go from round to round together.
    interactive = [("interactive", "point", n, 1, n) for n in (1, 2) for _ in range(2)]
    restoration = [("restoration", "denoising", 0, size, 0) for size in (0, 1, 2)]
    assert found == in_context + interactive + restoration


def test_a_list_is_checked_for_all_that_an_evaluation_shows(store):
    listed = planned(store, **EVERYTHING).episodes
    check_list(listed, experiment(store, **EVERYTHING).evaluation)
    more = {"contexts": [3]}, {"prompts": [3]}, {"kinds": ["scribble"]}
    more += ({"interactive": {"kinds": ["point"], "contexts": 3}},)
    for change in more:
        with pytest.raises(DataError, match="the episode list of two_blocks"):
            check_list(listed, experiment(store, **EVERYTHING | change).evaluation)
    alone = EvaluationConfig(kinds=(), interactive={"kinds": ["box"]}, contexts=(9,))
    check_list(listed, alone)  # shows no context image of the list
