import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts import (
    Negative,
    Point,
    Scribble,
    draw,
    painted,
    pooled_prompts,
    smoothed_prompts,
    to_channel,
)

GRID = (64, 64, 64)
KINDS = ("point", "box", "scribble", "mask2d", "box3d", "mask")
quick = settings(max_examples=60, deadline=None)
masks = arrays(bool, st.tuples(*[st.integers(1, 5)] * 3))
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def to_channels(context_set, shape, smoothing=0.0):
    each = [painted(prompts, shape) for prompts in context_set]
    channels = np.stack([prompts.channel for prompts in each])
    return smoothed_prompts(channels, [prompts.is_mask for prompts in each], smoothing)


def pooled(context_set, smoothing):
    return pooled_prompts([painted(prompts, GRID) for prompts in context_set], smoothing)


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


def ball_mask(centre, radius):
    return ((np.indices(GRID) - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(axis=0) <= radius**2


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize(("kind", "count", "least"), [("box", 1, 0.75), ("box", 5, 0.85)])
def test_boxes_of_all_images_together_show_the_structure_at_a_threshold_of_one_half(
    kind, count, least
):
    structure = ball_mask((30, 34, 28), 13)
    rng = np.random.default_rng(3)
    channels = pooled([draw(kind, structure, count, rng) for _ in range(4)], 0.2)
    assert all(np.array_equal(x, channels[0]) for x in channels)
    assert overlap(channels[0] > 0.5, structure) > least
    assert channels.min() >= 0 and channels.max() <= 1


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_few_points_show_about_the_size_that_many_points_show(count):
    structure = ball_mask((30, 34, 28), 13)
    sizes = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        channels = pooled([draw("point", structure, count, rng) for _ in range(4)], 0.2)
        sizes.append((channels[0] > 0.5).sum())
    assert 0.5 < np.mean(sizes) / structure.sum() < 1.4


def test_a_box_shows_nothing_about_slices_that_it_does_not_cross():
    # One structure, of which the boxes mark a part that widens along the last axis.
    narrow, wide = Box((20, 20, 10), (30, 30, 11)), Box((10, 10, 40), (50, 50, 41))
    share = pooled([[narrow], [wide]], 0.05)[0]
    assert share[25, 25, 10] > 0.9 and share[12, 25, 10] < 0.1
    assert share[25, 25, 40] > 0.9 and share[12, 25, 40] > 0.6
    assert share[25, 25, 60] < 0.05


def test_a_mask_does_not_change_but_adds_to_the_map_of_the_other_images():
    mask = ball_mask((30, 34, 28), 13)
    channels = pooled([[mask], [Point(30.0, 34.0, 28.0)], []], 0.2)
    assert np.array_equal(channels[0], mask)
    assert overlap(channels[1] > 0.5, mask) > 0.9
    assert not channels[2].any()
    assert np.array_equal(pooled([[mask], []], 0.2)[0], mask)


def test_negative_prompts_stay_and_make_a_hole_in_the_map_of_all_images():
    structure = ball_mask((30, 34, 28), 13)
    excluded = Negative(Point(30.0, 34.0, 28.0))
    boxes = draw("box", structure, 5, np.random.default_rng(0))
    channels = pooled([[*boxes, excluded], boxes], 0.2)
    assert channels[0, 30, 34, 28] == -1 and channels[1, 30, 34, 28] == 0
    assert channels[1, 30, 34, 36] > 0.5


def test_scribbles_are_lines_of_a_density():
    line = Scribble(((20.0, 30.0, 30.0), (40.0, 30.0, 30.0)))
    share = pooled([[line]], 0.1)[0]
    assert share[30, 30, 30] > 0.9 and share[30, 30, 50] < 0.05


@pytest.mark.parametrize("context_set", [[[], []], [[Negative(Point(3.0, 3.0, 3.0))], []]])
def test_a_context_set_that_marks_no_structure_is_not_changed(context_set):
    channels = np.stack([to_channel(prompts, GRID) for prompts in context_set])
    assert np.array_equal(pooled(context_set, 0.2), channels)
    assert np.array_equal(pooled(ON_TWO, 0.0), to_channels(ON_TWO, GRID))


@quick
@given(st.lists(masks, min_size=1, max_size=3), st.sampled_from(KINDS), seeds, st.floats(0.01, 1))
def test_maps_of_all_images_are_shares(set_of_masks, kind, rng, smoothing):
    shape = set_of_masks[0].shape
    context_set = [draw(kind, np.resize(mask, shape), 3, rng) for mask in set_of_masks]
    each = [painted(prompts, shape) for prompts in context_set]
    channels = pooled_prompts(each, smoothing)
    assert np.isfinite(channels).all()
    highest = 1.0 if any(prompts.outside.any() for prompts in each) else 1.5
    assert channels.min() >= 0 and channels.max() <= highest + 1e-6
    for channel, prompts in zip(channels, context_set, strict=True):
        assert channel.any() == bool(prompts)
