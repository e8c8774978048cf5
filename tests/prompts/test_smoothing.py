import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts import Point, draw, to_channel, to_channels

GRID = (64, 64, 64)
KINDS = ("point", "box", "scribble", "mask2d", "box3d", "mask")
quick = settings(max_examples=60, deadline=None)
masks = arrays(bool, st.tuples(*[st.integers(1, 5)] * 3))
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def blurred(channel, sd):
    """The channel after a Gaussian of each axis' sd, as sums over all pairs of voxels."""
    for axis, width in enumerate(sd):
        places = np.arange(channel.shape[axis])
        weights = np.exp(-((places[:, None] - places) ** 2) / (2 * width**2))
        channel = np.moveaxis(np.tensordot(weights, channel, (1, axis)), 0, axis)
    return channel / channel.max()


ON_TWO = [[Box((4, 6, 20), (14, 18, 21)), Point(20.0, 12.0, 10.0)], [Point(25.0, 25.0, 25.0)]]


def test_a_smoothing_is_as_wide_as_its_share_of_what_the_prompts_of_the_set_cover():
    channels = to_channels(ON_TWO, GRID)
    covered = Box.around(channels.any(axis=0)).extent
    each = [blurred(x.astype(np.float64), 0.1 * np.array(covered)) for x in channels]
    expected = each / np.mean(each, axis=0).max() + channels / 2
    found = to_channels(ON_TWO, GRID, smoothing=0.1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert found.dtype == np.float32


def test_without_a_smoothing_channels_are_what_is_painted_on_each_image():
    expected = [to_channel(prompts, GRID) for prompts in ON_TWO]
    np.testing.assert_array_equal(to_channels(ON_TWO, GRID), expected)


@quick
@given(st.lists(masks, min_size=1, max_size=3), st.sampled_from(KINDS), seeds, st.floats(0.01, 1))
def test_the_mean_of_smoothed_channels_is_highest_about_1(set_of_masks, kind, rng, smoothing):
    shape = set_of_masks[0].shape
    context_set = [draw(kind, np.resize(mask, shape), 3, rng) for mask in set_of_masks]
    painted = to_channels(context_set, shape)
    found = to_channels(context_set, shape, smoothing=smoothing)
    if kind == "mask":
        np.testing.assert_array_equal(found, painted)
        return
    empty = ~painted.any(axis=(1, 2, 3))
    assert not found[empty].any()
    if not empty.all():
        smoothed = (found - painted / 2)[~empty]
        assert (smoothed >= -1e-6).all()
        np.testing.assert_allclose(smoothed.mean(axis=0).max(), 1, atol=1e-5)
        np.testing.assert_allclose(smoothed.max(axis=(1, 2, 3)), smoothed.max(), atol=1e-5)


def test_one_point_on_each_image_of_a_set_tells_the_size_that_points_on_one_image_tell():
    corners = [(8, 10, 9), (22, 12, 11), (10, 20, 24), (21, 22, 20)]
    points = [Point(*map(float, corner)) for corner in corners]
    together = to_channels([points], GRID, smoothing=0.16)[0]
    apart = to_channels([[point] for point in points], GRID, smoothing=0.16).mean(axis=0)
    alone = to_channels([[points[0]]], GRID, smoothing=0.16)[0]
    assert np.corrcoef(together.ravel(), apart.ravel())[0, 1] > 0.99
    assert (alone > 0.25).sum() < 0.1 * (apart > 0.25).sum()


def test_a_mask_has_no_smoothing_but_tells_the_width_of_those_of_other_images():
    mask = np.zeros(GRID, bool)
    mask[4:28, 8:24, 8:24] = True
    point = Point(16.0, 16.0, 16.0)
    found = to_channels([[point, mask], [point], []], GRID, smoothing=0.2)
    np.testing.assert_array_equal(found[0], to_channel([point, mask], GRID))
    assert not found[2].any()
    ball_alone = to_channel([point], GRID)
    wide = blurred(ball_alone.astype(np.float64), 0.2 * np.array((24, 16, 16)))
    np.testing.assert_allclose(found[1], wide + ball_alone / 2, rtol=0, atol=1e-4)
    assert not to_channels([[]], GRID, smoothing=0.2).any()
