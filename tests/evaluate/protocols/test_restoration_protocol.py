"""Scores of image-to-image tasks: against the image as it was, beside that which was given."""

import numpy as np
import pytest
from evaluate.small_evaluations import FakeNetwork, planned

from wsicl_jax.config import TrainConfig
from wsicl_jax.data.episodes.degradation import Degradation
from wsicl_jax.evaluate.protocols.restoration import BEFORE, score_restoration
from wsicl_jax.metrics.image_quality import HIGHEST_PSNR, psnr, ssim
from wsicl_jax.model.losses import make_loss

TASKS = ("denoising", "inpainting", "super_resolution")


@pytest.fixture(scope="module")
def data(store):
    return planned(store)


def scores_of(network, data, task="denoising", sizes=(1, 3), loss=None):
    return score_restoration(network, *data, model="it", task=task, sizes=sizes, loss=loss)


def unchanged(episode, size):
    return episode.target[..., 0]


def test_every_target_is_scored_once_whatever_structures_there_are(data):
    scores = scores_of(FakeNetwork(unchanged), data, sizes=[3, 1, 3])
    targets = list(dict.fromkeys(e.target for e in data.episodes.episodes))
    assert [(s.target, s.model, s.contexts) for s in scores] == [
        (target, model, contexts)
        for target in targets
        for model, contexts in ((BEFORE, 0), ("it", 1), ("it", 3))
    ]
    assert {(s.structure, s.kind, s.prompts, s.dice) for s in scores} == {
        ("denoising", "denoising", 0, None)
    }


@pytest.mark.parametrize("task", TASKS)
def test_the_degraded_image_is_scored_as_nothing_done(data, task):
    network = FakeNetwork(unchanged)
    scores = scores_of(network, data, task)
    before = [s for s in scores if s.model == BEFORE]
    for score, received in zip(before, network.received, strict=True):
        clean = data.cases.subject(score.target, "MR", network.volume)[0]
        np.testing.assert_array_equal(received.truth[..., 0], clean)
        assert not np.array_equal(received.target[..., 0], clean)
        given = np.clip(received.target[..., 0], 0, 1)
        assert score.psnr == pytest.approx(psnr(given, clean, 1.0))
        assert score.ssim == pytest.approx(ssim(given, clean, 1.0))
    others = [s for s in scores if s.model == "it" and s.contexts == 1]
    assert [(s.psnr, s.ssim) for s in others] == [(s.psnr, s.ssim) for s in before]


def test_a_perfect_network_has_perfect_scores(data):
    scores = scores_of(FakeNetwork(lambda episode, size: episode.truth[..., 0]), data)
    assert {(s.psnr, s.ssim) for s in scores if s.model == "it"} == {(HIGHEST_PSNR, 1)}


def test_every_context_comes_with_its_own_image_before_it_was_made_worse(data):
    network = FakeNetwork(unchanged)
    scores_of(network, data, "inpainting")
    first = data.episodes.episodes[0]
    received = network.received[0]
    for i, name in enumerate(first.contexts):
        clean = data.cases.subject(name, "MR", network.volume)[0]
        np.testing.assert_array_equal(received.context_prompts[i, ..., 0], clean)
        image = received.context_images[i, ..., 0]
        assert np.array_equal(image[image != 0], clean[image != 0])
        assert (image != clean).any()


def test_an_image_is_degraded_equally_for_every_model_and_run(data):
    first, again = FakeNetwork(unchanged), FakeNetwork(unchanged)
    scores_of(first, data)
    scores_of(again, data, sizes=[1])
    for a, b in zip(first.received, again.received, strict=True):
        np.testing.assert_array_equal(a.target, b.target)
        np.testing.assert_array_equal(a.context_images[:1], b.context_images)
    noise = [(s.target - s.truth).ravel() for s in first.received[:2]]
    assert np.std(noise[0]) == pytest.approx(Degradation.standard("denoising").noise_sd, rel=0.1)
    assert not np.array_equal(*noise)


def test_a_score_has_the_training_loss_of_its_image(data):
    loss = make_loss(TrainConfig(loss="l1", loss_weight=1.0))

    def too_bright(episode, size):
        return episode.truth[..., 0] + 0.25

    scores = scores_of(FakeNetwork(too_bright), data, loss=loss)
    assert {round(s.loss, 6) for s in scores if s.model == "it"} == {0.25}
