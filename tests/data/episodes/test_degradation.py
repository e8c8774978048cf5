import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsicl_jax.config import RestorationTask
from wsicl_jax.data.episodes.degradation import Degradation

TASKS = RestorationTask.__args__
SHAPE = (24, 18, 30)


def image(shape=SHAPE, seed=0):
    """Smooth structures with some detail, in [0, 1]; read-only, as cached cases are."""
    noise = np.random.default_rng(seed).random(shape, np.float32)
    made = ndimage.gaussian_filter(noise, 1.0)
    made = ((made - made.min()) / max(np.ptp(made), 1e-6)).astype(np.float32)
    made.setflags(write=False)
    return made


def rng(seed=0):
    return np.random.default_rng(seed)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.sampled_from(TASKS),
    st.floats(0.01, 0.5),
    st.integers(2, 4),
    st.integers(0, 99),
)
def test_an_image_of_any_size_keeps_its_shape_and_type(shape, task, sd, factor, seed):
    clean = image(shape)
    before = clean.copy()
    worse = Degradation(task, sd, factor).apply(clean, rng(seed))
    assert worse.shape == shape and worse.dtype == np.float32
    assert np.isfinite(worse).all()
    np.testing.assert_array_equal(clean, before)


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_makes_the_same_image(task):
    degradation = Degradation.standard(task)
    first, again = (degradation.apply(image(), rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, image())


@pytest.mark.parametrize("sd", [0.05, 0.2])
def test_noise_is_gaussian_of_the_set_standard_deviation(sd):
    noise = Degradation("denoising", sd, 2).apply(image(), rng()) - image()
    # 12960 voxels: the deviation is known to a percent.
    assert noise.std() == pytest.approx(sd, rel=0.03)
    assert abs(noise.mean()) < 0.04 * sd
    assert np.mean(np.abs(noise) < sd) == pytest.approx(0.683, abs=0.02)


def test_holes_are_three_boxes_of_zeros_and_the_rest_is_untouched():
    full = np.ones(SHAPE, np.float32)
    holed = [Degradation.standard("inpainting").apply(full, rng(seed)) for seed in range(100)]
    apart = 0
    for one in holed:
        assert set(np.unique(one)) == {0, 1}
        parts, count = ndimage.label(one == 0)
        assert 1 <= count <= 3
        if count < 3:  # some overlap
            continue
        apart += 1
        for number, place in enumerate(ndimage.find_objects(parts), 1):
            assert (parts[place] == number).all()
            sides = [s.stop - s.start for s in place]
            for side, size in zip(sides, SHAPE, strict=True):
                assert size / 6 - 0.5 <= side <= size / 3 + 0.5
    assert apart > 30
    # Three holes of a quarter of each side on average.
    missing = 1 - np.mean(holed)
    assert missing == pytest.approx(3 / 4**3, rel=0.2)
    # Everywhere in the image.
    assert (np.min(holed, axis=0) == 0).mean() > 0.8


def test_holes_keep_what_lies_beside_them():
    holed = Degradation.standard("inpainting").apply(image() + 1, rng())
    np.testing.assert_array_equal(holed[holed > 0], (image() + 1)[holed > 0])


def detail(volume):
    """Mean difference of neighbours along each axis."""
    return [float(np.abs(np.diff(volume, axis=axis)).mean()) for axis in range(3)]


@pytest.mark.parametrize("factor", [2, 3])
def test_a_lower_resolution_has_the_same_shape_and_mean_and_less_detail(factor):
    low = Degradation("super_resolution", 0.0, factor).apply(image(), rng())
    assert low.shape == SHAPE
    assert low.mean() == pytest.approx(image().mean(), abs=0.01)
    assert low.min() >= -1e-6 and low.max() <= 1 + 1e-6
    assert all(a < 0.75 * b for a, b in zip(detail(low), detail(image()), strict=True))


def test_a_larger_factor_leaves_less_detail():
    two, three, four = (
        detail(Degradation("super_resolution", 0.0, factor).apply(image(), rng()))
        for factor in (2, 3, 4)
    )
    assert all(a > b > c for a, b, c in zip(two, three, four, strict=True))


def test_what_has_no_detail_is_the_same_at_a_lower_resolution():
    flat = np.full(SHAPE, 0.4, np.float32)
    low = Degradation.standard("super_resolution").apply(flat, rng())
    np.testing.assert_allclose(low, flat, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_drawn_covers_the_ranges_of_training(task):
    drawn = [Degradation.sample(task, rng(seed)) for seed in range(300)]
    assert {d.task for d in drawn} == {task}
    deviations = [d.noise_sd for d in drawn]
    assert 0.05 <= min(deviations) < 0.06 and 0.19 < max(deviations) <= 0.2
    assert {d.factor for d in drawn} == {2, 3}


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_always_shows_the_same(task):
    assert Degradation.standard(task) == (task, 0.1, 2)


@pytest.mark.parametrize("task", ["denoising", "inpainting"])
def test_each_image_has_other_noise_or_holes(task):
    first, second = Degradation.standard(task).apply_each([image()] * 2, rng())
    assert not np.array_equal(first, second)
