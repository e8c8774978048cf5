"""Interactive sessions: a prompt more in each round, where the last mask was wrong."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from evaluate.small_evaluations import SHAPE, FakeNetwork, planned

from wsicl_jax.errors import DataError
from wsicl_jax.evaluate.case_sources import structure_mask
from wsicl_jax.evaluate.protocols.interactive import score_interactive
from wsicl_jax.evaluate.summaries import negative_prompts
from wsicl_jax.prompts import ball_radius, smoothed_prompts

ROUNDS = 3
RADIUS = int(ball_radius(SHAPE))


@pytest.fixture(scope="module")
def data(store):
    return planned(store, kinds=["point", "box"], contexts=2, prompts=2, targets=2)


def sessions(network, data, *, kind="point", rounds=ROUNDS, contexts=0, prompts=1):
    return score_interactive(
        network,
        *data,
        model="it",
        kind=kind,
        rounds=rounds,
        contexts=contexts,
        prompts=prompts,
        tolerance_mm=2.0,
    )


def nothing(episode, size):
    return np.zeros(episode.target.shape[:3])


def under_the_prompts(episode, size):
    return episode.context_prompts[0, ..., 0] > 0


def by_episode(scores):
    found = {}
    for score in scores:
        found.setdefault(score.episode, []).append(score)
    return found


def test_every_episode_has_a_score_after_every_round(data):
    scores = sessions(FakeNetwork(nothing), data)
    expected = {e.name: [1, 2, 3] for e in data.episodes.episodes}
    assert {k: [s.round for s in v] for k, v in by_episode(scores).items()} == expected
    assert {(s.protocol, s.kind, s.contexts) for s in scores} == {("interactive", "point", 0)}


def test_the_target_is_its_own_context_image(data):
    network = FakeNetwork(nothing)
    sessions(network, data)
    for received in network.received:
        assert received.context_images.shape[0] == 1
        np.testing.assert_array_equal(received.context_images[0], received.target)


def test_prompts_are_put_inside_the_structure_until_nothing_is_missed(data):
    listed, cases = data
    network = FakeNetwork(under_the_prompts)
    scores = sessions(network, data, rounds=12)
    volumes = iter(network.received)
    of_first = [next(volumes) for _ in range(24)][::2]  # two sessions take turns
    label = cases.subject(listed.episodes[0].target, "MR", network.volume)[1]
    truth = label == listed.structures[listed.episodes[0].structure].labels[0]
    assert RADIUS == 0  # so that a point marks its voxel alone
    for number, received in enumerate(of_first, 1):
        marked = received.context_prompts[0, ..., 0] > 0
        assert marked.sum() == number
        assert not (marked & ~truth).any()
    for rounds in by_episode(scores).values():
        assert [s.prompts for s in rounds] == list(range(1, 13))
        assert [s.seconds for s in rounds] == [5 * n for n in range(1, 13)]
        assert all(a.dice < b.dice for a, b in itertools.pairwise(rounds))


def test_a_session_adds_no_prompt_once_nothing_is_missed(data):
    listed, cases = data
    truths = {
        cases.subject(e.target, "MR", FakeNetwork(nothing).volume)[0].tobytes(): e.target
        for e in listed.episodes
    }

    def all_of_it(episode, size):
        target = truths[episode.target[..., 0].tobytes()]
        label = cases.subject(target, "MR", network.volume)[1]
        place = np.argwhere(episode.context_prompts[0, ..., 0])[0]
        return label == label[tuple(place)]

    network = FakeNetwork(all_of_it)
    for rounds in by_episode(sessions(network, data)).values():
        assert [(s.prompts, s.seconds, s.dice) for s in rounds] == [(1, 5, 1)] * ROUNDS


def test_boxes_go_to_other_slices_in_each_round(data):
    network = FakeNetwork(nothing)
    scores = sessions(network, data, kind="box")
    marked = [received.context_prompts[0].sum() for received in network.received[:6:2]]
    assert marked[0] < marked[1] <= marked[2]
    assert [s.seconds for s in by_episode(scores)[scores[0].episode]] == [10, 20, 30]


def test_context_images_of_other_subjects_stand_beside_the_target(data):
    listed, cases = data
    network = FakeNetwork(nothing)
    scores = sessions(network, data, contexts=2, prompts=2)
    for received in network.received[:2]:
        assert len(received.context_images) == len(received.context_prompts) == 3
        np.testing.assert_array_equal(received.context_images[0], received.target)
    first = listed.episodes[0]
    for place, name in enumerate(first.contexts, 1):
        image, label = cases.subject(name, "MR", network.volume)
        np.testing.assert_array_equal(network.received[0].context_images[place, ..., 0], image)
        inside = label == listed.structures[first.structure].labels[0]
        assert (network.received[0].context_prompts[place, ..., 0] > 0)[inside].sum() == 2
    assert {s.contexts for s in scores} == {2}
    rounds = by_episode(scores)[first.name]
    assert [s.seconds for s in rounds] == [2 * 2 * 5 + 5 * n for n in (1, 2, 3)]


def test_prompts_on_the_target_and_on_the_others_are_smoothed_together(data):
    plain, smoothing = FakeNetwork(nothing), FakeNetwork(nothing)
    smoothing.volume = replace(plain.volume, prompt_smoothing=0.2)
    for network in (plain, smoothing):
        sessions(network, data, kind="box", contexts=2)
    for without, smoothed in zip(plain.received, smoothing.received, strict=True):
        expected = smoothed_prompts(without.context_prompts[..., 0], [False] * 3, 0.2)
        np.testing.assert_array_equal(smoothed.context_prompts[..., 0], expected)


def test_more_contexts_than_the_list_has_are_an_error(data):
    with pytest.raises(DataError, match="has 2 context images, but 3 are requested"):
        sessions(FakeNetwork(nothing), data, contexts=3)


def test_the_masks_are_scored_on_the_targets_own_grid(data):
    listed, cases = data
    (score, *_) = sessions(FakeNetwork(under_the_prompts), data, rounds=1)
    truth = structure_mask(cases, listed.episodes[0].target, (1,))
    assert truth.shape == SHAPE
    assert score.dice == pytest.approx(2 / (1 + truth.sum()))


def test_an_excess_gets_a_negative_point_only_if_the_protocol_allows_it(data):
    def everything(episode, size):
        return np.ones(episode.target.shape[:3])

    for negative in (True, False):
        network = FakeNetwork(everything)
        scores = score_interactive(
            network,
            *data,
            model="it",
            kind="point",
            rounds=2,
            negative=negative,
            enforce=False,
            tolerance_mm=2.0,
        )
        first, second = (network.received[n].context_prompts[0] for n in (0, 2))
        assert (first > 0).any() and not (first < 0).any()
        assert (second < 0).any() == negative
        assert {s.prompts for s in scores if s.round == 2} == {2 if negative else 1}
        # The mask stays as it is, so nothing of the false positive goes.
        assert {s.removed for s in scores if s.round == 2} == {0.0 if negative else None}
        assert {s.removed for s in scores if s.round == 1} == {None}


def test_prompts_are_enforced_as_in_inference(data):
    scores = score_interactive(
        FakeNetwork(lambda episode, size: np.full(episode.target.shape[:3], 0.55)),
        *data,
        model="it",
        kind="point",
        rounds=2,
        negative=True,
        tolerance_mm=2.0,
    )
    assert all(s.removed > 0 for s in scores if s.round == 2)


def test_the_share_of_a_false_positive_that_a_negative_point_removes_is_recorded(data):
    def without_negative(episode, size):
        channel = episode.context_prompts[0, ..., 0]
        kept = np.ones(channel.shape)
        if (channel < 0).any():
            kept[: channel.shape[0] // 2] = 0
        return kept

    scores = score_interactive(
        FakeNetwork(without_negative),
        *data,
        model="it",
        kind="point",
        rounds=2,
        negative=True,
        tolerance_mm=2.0,
    )
    removed = [s.removed for s in scores if s.round == 2]
    assert all(0.3 < share < 0.7 for share in removed)
    share = np.mean(np.array(removed) >= 0.5)
    assert negative_prompts(scores).startswith(f"{share:.0%} of {len(removed)} negative prompts")
    assert negative_prompts([s for s in scores if s.round == 1]) == ""
