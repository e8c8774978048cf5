"""Streams of random numbers."""

import numpy as np

from wsicl_jax.data.random_streams import RandomStream


def test_no_two_streams_draw_the_same_numbers():
    draws = {np.random.default_rng((0, stream, 1)).random() for stream in RandomStream}
    assert len(draws) == len(RandomStream)


def test_what_a_seed_means_stays_the_same():
    assert {stream.name: int(stream) for stream in RandomStream} == {
        "EPISODE": 0,
        "CONTEXT_COUNT": 1,
        "TRAINING_COHORT": 3,
        "UNSEEN_COHORT": 4,
        "TRIAL_CONTEXTS": 5,
        "TRIAL_PROMPTS": 6,
        "TRUNCATED_GRADIENT": 7,
        "INTENSITIES": 8,
        "WRITTEN_COHORT": 9,
        "TASK": 10,
        "DEGRADATION": 11,
        "CONTEXT_SET": 12,
    }
