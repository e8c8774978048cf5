import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsicl_jax.geometry.intensity import normalise

RAMP = np.arange(1001, dtype=np.float32).reshape(7, 11, 13)
# Its 16th and 60th percentile differ by less than float32 can say.
ALMOST_FLAT = np.array([-1e-45, -1, -1, -1, *[0] * 20], np.float32).reshape(2, 3, 4)


def test_the_whole_range_becomes_0_to_1():
    np.testing.assert_allclose(normalise(RAMP, (0.0, 100.0)), RAMP / 1000, atol=1e-6)


def test_what_lies_beyond_the_percentiles_is_clipped():
    given = normalise(RAMP, (0.5, 99.5))
    np.testing.assert_allclose(given, np.clip((RAMP - 5) / 990, 0, 1), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_any_type_becomes_float32(dtype):
    image = (RAMP % 100).astype(dtype)
    given = normalise(image, (0.0, 100.0))
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, (RAMP % 100) / 99, atol=1e-6)


@pytest.mark.parametrize("value", [0, -1000, 3.5])
def test_a_constant_image_becomes_0(value):
    np.testing.assert_array_equal(normalise(np.full((2, 3, 4), value), (0.5, 99.5)), 0)


def test_an_image_that_is_constant_between_the_percentiles_becomes_0():
    image = np.zeros((10, 10, 10))
    image[0, 0, 0] = 1000
    np.testing.assert_array_equal(normalise(image, (0.5, 99.5)), 0)


def test_the_image_that_is_given_stays_as_it_was():
    image = RAMP.copy()
    normalise(image, (5.0, 95.0))
    np.testing.assert_array_equal(image, RAMP)


@given(
    hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(0, 40),
    st.floats(60, 100),
)
@example(ALMOST_FLAT, 16.0, 60.0)
def test_the_result_is_finite_between_0_and_1_and_in_the_same_order(image, low, high):
    given = normalise(image, (low, high))
    assert np.isfinite(given).all()
    assert given.min() >= 0
    assert given.max() <= 1
    order = np.argsort(image, axis=None, kind="stable")
    assert (np.diff(given.ravel()[order]) >= 0).all()


@given(st.floats(0.25, 4), st.floats(-100, 100))
def test_brightness_and_contrast_of_the_scanner_do_not_matter(factor, offset):
    given = normalise(RAMP * factor + offset, (0.5, 99.5))
    np.testing.assert_allclose(given, normalise(RAMP, (0.5, 99.5)), atol=1e-4)
