from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsicl_jax.config import AugmentConfig
from wsicl_jax.data.augment import augment

CHANGES = [field.name for field in fields(AugmentConfig)]
NONE = AugmentConfig(**dict.fromkeys(CHANGES, 0))
ALL = AugmentConfig(**dict.fromkeys(CHANGES, 1))
SHAPE = (4, 6, 8)


def frozen(array: np.ndarray) -> np.ndarray:
    """Read-only, as the cache of prepared cases should be treated."""
    array.flags.writeable = False
    return array


@pytest.fixture(scope="module")
def images():
    values = np.random.default_rng(0).random((3, *SHAPE), np.float32)
    return [frozen(image) for image in values]


@pytest.fixture(scope="module")
def masks(images):
    return [frozen(image > 0.7) for image in images]


def changed(images, masks, config, seed=0, may_invert_mask=True):
    rng = np.random.default_rng(seed)
    return augment(images, masks, config, rng, may_invert_mask=may_invert_mask)


def only(name: str) -> AugmentConfig:
    return replace(NONE, **{name: 1})


def test_without_probabilities_nothing_changes(images, masks):
    for seed in range(10):
        given = changed(images, masks, NONE, seed)
        np.testing.assert_array_equal(given[0], images)
        np.testing.assert_array_equal(given[1], masks)


def test_flip_mirrors_images_and_masks_alike_along_every_axis(images, masks):
    given = changed(images, masks, only("flip"))
    np.testing.assert_array_equal(given[0], np.stack(images)[:, ::-1, ::-1, ::-1])
    np.testing.assert_array_equal(given[1], np.stack(masks)[:, ::-1, ::-1, ::-1])


def test_flip_is_drawn_for_each_axis_by_itself(images, masks):
    config = replace(NONE, flip=0.5)
    seen = {np.stack(changed(images, masks, config, seed)[0]).tobytes() for seed in range(60)}
    assert len(seen) == 8


def test_invert_mask_exchanges_structure_and_background(images, masks):
    given = changed(images, masks, only("invert_mask"))
    np.testing.assert_array_equal(given[0], images)
    np.testing.assert_array_equal(given[1], ~np.stack(masks))


def test_masks_are_inverted_only_where_that_is_allowed(images, masks):
    given = changed(images, masks, only("invert_mask"), may_invert_mask=False)
    np.testing.assert_array_equal(given[1], masks)


def test_invert_image_turns_bright_into_dark(images, masks):
    given = changed(images, masks, only("invert_image"))
    np.testing.assert_array_equal(given[0], 1 - np.stack(images))
    np.testing.assert_array_equal(given[1], masks)


def test_scale_multiplies_all_images_by_one_factor_of_up_to_10_percent(images, masks):
    factors = []
    for seed in range(40):
        given, given_masks = changed(images, masks, only("scale"), seed)
        ratio = np.stack(given) / np.stack(images)
        np.testing.assert_allclose(ratio, ratio[0, 0, 0, 0], rtol=1e-5)
        np.testing.assert_array_equal(given_masks, masks)
        factors.append(ratio[0, 0, 0, 0])
    assert 0.9 <= min(factors) < 0.93
    assert 1.07 < max(factors) <= 1.1


def test_shift_adds_one_constant_of_up_to_0_2_to_all_images(images, masks):
    offsets = []
    for seed in range(40):
        given, given_masks = changed(images, masks, only("shift"), seed)
        difference = np.stack(given) - np.stack(images)
        np.testing.assert_allclose(difference, difference[0, 0, 0, 0], atol=1e-6)
        np.testing.assert_array_equal(given_masks, masks)
        offsets.append(difference[0, 0, 0, 0])
    assert -0.2 <= min(offsets) < -0.15
    assert 0.15 < max(offsets) <= 0.2


def test_noise_has_standard_deviation_0_02_and_is_new_for_every_image(images, masks):
    given, given_masks = changed(images, masks, only("noise"))
    noise = np.stack(given) - np.stack(images)
    np.testing.assert_allclose(noise.std((1, 2, 3)), 0.02, rtol=0.25)
    np.testing.assert_allclose(noise.mean((1, 2, 3)), 0, atol=0.006)
    assert abs(np.corrcoef(noise.reshape(3, -1))[0, 1]) < 0.3
    np.testing.assert_array_equal(given_masks, masks)


@given(st.integers(0, 2**32), st.booleans())
def test_types_shapes_and_inputs_stay_whatever_is_drawn(images, masks, seed, may_invert_mask):
    before = np.stack(images).copy(), np.stack(masks).copy()
    given, given_masks = changed(images, masks, ALL, seed, may_invert_mask)
    assert {(image.dtype, image.shape) for image in given} == {(np.dtype(np.float32), SHAPE)}
    assert {(mask.dtype, mask.shape) for mask in given_masks} == {(np.dtype(bool), SHAPE)}
    np.testing.assert_array_equal(images, before[0])
    np.testing.assert_array_equal(masks, before[1])


def test_a_seed_gives_the_same_changes(images, masks):
    for a, b in zip(changed(images, masks, ALL), changed(images, masks, ALL), strict=True):
        np.testing.assert_array_equal(a, b)
