"""Changes of intensities: as told, alike for an episode, and following from the key alone."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from wsicl_jax.config import AugmentConfig, ExperimentConfig, ModelConfig, TrainConfig, VolumeConfig
from wsicl_jax.data.augmentation.intensity import augment_intensities
from wsicl_jax.data.episodes.sampling import Episode, filled
from wsicl_jax.distributed.placement import make_mesh

ROWS, CONTEXTS, GRID = 24, 2, (4, 6, 8)
CHANGES = ("gin", "invert_image", "scale", "shift", "noise")
NONE = AugmentConfig().only()
ALL = AugmentConfig().only(**dict.fromkeys(CHANGES, 1.0))
MESH = make_mesh(
    ExperimentConfig(
        volume=VolumeConfig(grid=GRID), model=ModelConfig(channels=(2, 4)), train=TrainConfig()
    ),
    jax.devices()[:1],
)


def batch_of(rows: int = ROWS) -> Episode:
    rng = np.random.default_rng(0)
    volumes = [
        rng.random((rows, *count, *GRID, 1), np.float32)
        for count in ((), (), (CONTEXTS,), (CONTEXTS,))
    ]
    return Episode(*volumes, np.ones((rows, CONTEXTS), np.float32), np.zeros((rows, 1), np.int32))


BATCH = batch_of()


def images(batch: Episode) -> np.ndarray:
    """All images of each episode, the target first."""
    return np.concatenate([batch.target[:, None], batch.context_images], 1)[..., 0]


BEFORE = images(BATCH)
ALIKE = BATCH._replace(context_images=np.stack([BATCH.target] * CONTEXTS, 1))
"""Episodes that show one image as target and as each context."""


@functools.lru_cache
def compiled(config: AugmentConfig):
    return jax.jit(
        lambda batch, key: augment_intensities(batch, key, config, MESH),
        compiler_options={"xla_backend_optimization_level": 0},  # compiling takes the time here
    )


def changed(config: AugmentConfig, seed: int = 0, batch: Episode = BATCH) -> Episode:
    return jax.device_get(compiled(config)(batch, jax.random.key(seed)))


def only(name: str, probability: float = 1.0, **amounts) -> AugmentConfig:
    return replace(NONE, **amounts, **{name: probability})


def within_a_binomial_draw(count: int, trials: int, probability: float) -> bool:
    return abs(count - trials * probability) < 3 * np.sqrt(trials * probability * (1 - probability))


def test_without_probabilities_nothing_is_computed():
    lowered = compiled(NONE).lower(BATCH, jax.random.key(0))
    assert (lowered.compile().cost_analysis() or {}).get("flops", 0) == 0
    np.testing.assert_array_equal(images(changed(NONE)), BEFORE)


def test_only_images_are_changed():
    given = changed(ALL)
    for name in ("truth", "context_prompts", "context_weights"):
        np.testing.assert_array_equal(getattr(given, name), getattr(BATCH, name))
    floating = given._replace(structures=given.target)
    assert {part.dtype for part in floating} == {np.dtype(np.float32)}


def test_invert_image_turns_bright_into_dark():
    np.testing.assert_array_equal(images(changed(only("invert_image"))), 1 - BEFORE)


def test_scale_multiplies_an_episode_by_one_factor_in_its_range():
    ratio = images(changed(only("scale", max_scale=0.3))) / BEFORE
    factors = ratio[:, 0, 0, 0, 0]
    np.testing.assert_allclose(ratio, np.broadcast_to(factors, ratio.T.shape).T, rtol=1e-5)
    assert 0.7 <= factors.min() < 0.8
    assert 1.2 < factors.max() <= 1.3


def test_shift_adds_one_constant_in_its_range_to_an_episode():
    difference = images(changed(only("shift", max_shift=0.1))) - BEFORE
    offsets = difference[:, 0, 0, 0, 0]
    np.testing.assert_allclose(
        difference, np.broadcast_to(offsets, difference.T.shape).T, atol=1e-6
    )
    assert -0.1 <= offsets.min() < -0.06
    assert 0.06 < offsets.max() <= 0.1


def test_noise_is_gaussian_of_the_set_deviation_and_differs_between_images():
    noise = images(changed(only("noise", noise_sd=0.5))) - BEFORE
    noise = noise.reshape(ROWS * (CONTEXTS + 1), -1)
    assert noise.std() == pytest.approx(0.5, rel=0.02)
    assert abs(noise.mean()) < 0.01
    assert np.mean(np.abs(noise) < 0.5) == pytest.approx(0.683, abs=0.01)
    likeness = np.corrcoef(noise)[np.triu_indices(len(noise), 1)]
    assert np.abs(likeness).max() < 6 / np.sqrt(noise.shape[1])


SOMETIMES = only("gin", 0.5)


@pytest.fixture(scope="module")
def drawn() -> int:
    """A seed for which GIN is drawn."""
    return next(s for s in range(20) if (images(changed(SOMETIMES, s)) != BEFORE).any())


def norms(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x.reshape(*x.shape[:2], -1), axis=-1)


def test_gin_keeps_the_norm_of_each_image(drawn):
    given = images(changed(SOMETIMES, drawn))
    assert (np.abs(given - BEFORE).max((2, 3, 4)) > 0.1).all()
    np.testing.assert_allclose(norms(given), norms(BEFORE), rtol=1e-5)


def test_gin_draws_one_network_for_each_episode(drawn):
    alike = images(changed(SOMETIMES, drawn, ALIKE))
    np.testing.assert_allclose(alike, alike[:, :1].repeat(CONTEXTS + 1, 1), atol=1e-6)
    one = BATCH._replace(target=BATCH.target[:1].repeat(ROWS, 0))
    by_row = images(changed(SOMETIMES, drawn, one))[:, 0].reshape(ROWS, -1)
    assert len(np.unique(by_row.round(3), axis=0)) == ROWS


def test_gin_is_drawn_for_all_episodes_of_a_step_at_once():
    count = 0
    for seed in range(60):
        is_changed = (images(changed(SOMETIMES, seed)) != BEFORE).any((1, 2, 3, 4))
        assert len(set(is_changed)) == 1
        count += is_changed[0]
    assert within_a_binomial_draw(count, 60, 0.5)


def test_gin_leaves_empty_images_empty(drawn):
    empty = BATCH._replace(target=np.zeros_like(BATCH.target))
    given = changed(SOMETIMES, drawn, empty)
    np.testing.assert_array_equal(given.target, 0)
    assert (given.context_images != BATCH.context_images).any()


@pytest.mark.parametrize("name", ["invert_image", "scale", "shift", "noise"])
def test_what_is_drawn_for_an_episode_holds_for_its_target_and_contexts(name):
    count = 0
    for seed in range(5):
        given = images(changed(only(name, 0.3), seed))
        is_changed = (given != BEFORE).any((2, 3, 4))
        np.testing.assert_array_equal(is_changed, is_changed[:, :1].repeat(CONTEXTS + 1, 1))
        count += is_changed[:, 0].sum()
    assert within_a_binomial_draw(count, 5 * ROWS, 0.3)


def test_changes_are_drawn_independently_of_each_other():
    config = replace(NONE, invert_image=0.5, scale=0.5, shift=0.5)
    given = np.concatenate([images(changed(config, seed))[:, 0] for seed in range(4)])
    rows, before = (x.reshape(len(given), -1) for x in (given, np.tile(BEFORE[:, 0], (4, 1, 1, 1))))
    # Each row is a line in what it was: of slope +-factor, from the shift or factor + shift.
    slope = (rows * (before - before.mean(1, keepdims=True))).sum(1) / before.var(1) / rows.shape[1]
    shift = rows.mean(1) - slope * before.mean(1) - np.where(slope < 0, -slope, 0)
    factor = np.abs(slope)
    drawn = [slope < 0, np.abs(factor - 1) > 1e-4, np.abs(shift) > 1e-4]
    assert len({*zip(*(x.tolist() for x in drawn), strict=True)}) == 8
    both = drawn[1] & drawn[2]
    assert abs(np.corrcoef(factor[both], shift[both])[0, 1]) < 0.5


def test_a_key_gives_the_same_changes_and_another_one_others():
    given, again, other = (images(changed(ALL, seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(given, again)
    assert (np.abs(given - other).max((1, 2, 3, 4)) > 1e-3).all()


def test_filling_up_a_context_set_changes_no_other_image_and_stays_finite():
    rows = [filled(Episode(*(part[row] for part in BATCH)), 4) for row in range(ROWS)]
    more = Episode(*(np.stack(parts) for parts in zip(*rows, strict=True)))
    given = images(changed(ALL, batch=more))
    assert given.shape[1] == 1 + 4
    assert np.isfinite(given).all()
    np.testing.assert_allclose(given[:, : CONTEXTS + 1], images(changed(ALL)), atol=1e-6)
