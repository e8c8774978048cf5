import sys
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts import Point, Scribble, SliceMask, draw, kind_of, to_channel
from wsicl_jax.prompts.jitter import jittered

KINDS = ("point", "box", "scribble", "mask2d", "box3d", "mask")
quick = settings(max_examples=60, deadline=None)
masks = arrays(bool, st.tuples(*[st.integers(1, 6)] * 3)).filter(lambda mask: mask.any())
kinds = st.sampled_from(KINDS)
amounts = st.sampled_from([0.05, 0.5, 4.0])
seeds = st.integers(0, 2**32 - 1)


def drawn(mask, kind, seed, count=3, **jitter):
    rng = np.random.default_rng(seed)
    prompts = draw(kind, mask, count, rng, **jitter)
    return prompts, rng


@quick
@given(masks, kinds, seeds)
def test_no_jitter_changes_nothing_and_draws_nothing(mask, kind, seed):
    with mock.patch.object(sys.modules[draw.__module__], "jittered", lambda prompt, *_: prompt):
        exact, one = drawn(mask, kind, seed, jitter=1.0)
    unmoved, other = drawn(mask, kind, seed, jitter=0.0)
    for a, b in zip(exact, unmoved, strict=True):
        assert type(a) is type(b)
        np.testing.assert_equal(b, a)
    assert one.bit_generator.state == other.bit_generator.state


@quick
@given(masks, kinds, amounts, seeds)
def test_nothing_leaves_the_image_or_vanishes_and_kinds_stay(mask, kind, amount, seed):
    exact, _ = drawn(mask, kind, seed)
    moved, _ = drawn(mask, kind, seed, jitter=amount)
    assert [kind_of(prompt) for prompt in moved] == [kind_of(prompt) for prompt in exact]
    for prompt in moved:
        # Painting refuses what is empty or outside.
        assert to_channel([prompt], mask.shape).max() == 1
        if isinstance(prompt, Point | Scribble):
            path = np.array(prompt.path if isinstance(prompt, Scribble) else [prompt])
            assert (path >= 0).all() and (path <= np.array(mask.shape) - 1).all()


@quick
@given(masks, st.sampled_from(["box", "box3d"]), amounts, seeds)
def test_boxes_stay_on_their_slice_and_keep_two_voxels_elsewhere(mask, kind, amount, seed):
    for box in drawn(mask, kind, seed)[0]:
        moved = jittered(box, mask, amount, np.random.default_rng(seed))
        for axis, extent in enumerate(box.extent):
            if extent == 1:
                assert (moved.start[axis], moved.stop[axis]) == (box.start[axis], box.stop[axis])
            else:
                assert moved.extent[axis] >= 2
                assert moved.start[axis] >= 0 and moved.stop[axis] <= mask.shape[axis]


@quick
@given(masks, amounts, seeds)
def test_masks_on_slices_stay_there_and_are_never_empty(mask, amount, seed):
    exact, moved = (drawn(mask, "mask2d", seed, **j)[0] for j in ({}, {"jitter": amount}))
    for a, b in zip(exact, moved, strict=True):
        assert (a.axis, a.index, a.mask.shape) == (b.axis, b.index, b.mask.shape)
        assert b.mask.dtype == bool and b.mask.any()


@quick
@given(masks, amounts, seeds)
def test_jitter_leaves_the_structure_itself_as_it_was(mask, amount, seed):
    before = mask.copy()
    drawn(mask, "mask", seed, jitter=amount)
    drawn(mask, "mask2d", seed, jitter=amount)
    np.testing.assert_array_equal(mask, before)


def ellipsoid(shape, extent):
    offsets = np.indices(shape) - (np.reshape(shape, (3, 1, 1, 1)) - 1) / 2
    return ((offsets / np.reshape(extent, (3, 1, 1, 1)) * 2) ** 2).sum(axis=0) <= 1


def test_points_move_by_a_share_of_half_the_structures_extent_along_each_axis():
    mask = ellipsoid((40, 40, 40), (12.5, 20.5, 8.5))
    extent = np.array(Box.around(mask).extent)
    rng = np.random.default_rng(0)
    point = Point(20.0, 20.0, 20.0)
    shifts = np.array([jittered(point, mask, 0.3, rng) for _ in range(1500)]) - 20
    np.testing.assert_allclose(shifts.std(axis=0), 0.3 * extent / 2, rtol=0.06)
    assert (np.abs(shifts.mean(axis=0)) < 4 * 0.3 * extent / 2 / np.sqrt(1500)).all()


@pytest.mark.parametrize("axis", range(3))
def test_scribbles_move_as_a_whole_within_their_slice(axis):
    mask = ellipsoid((40, 40, 40), (20.5, 20.5, 20.5))
    path = np.insert([[18, 20], [19, 21], [20, 21]], axis, 17, axis=1).astype(float)
    scribble = Scribble(tuple(map(tuple, path.tolist())))
    rng = np.random.default_rng(0)
    shifts = []
    for _ in range(600):
        shift = np.array(jittered(scribble, mask, 0.2, rng).path) - path
        np.testing.assert_allclose(shift, shift[:1].repeat(3, axis=0), atol=1e-9)
        shifts.append(shift[0])
    expected = np.full(3, 0.2 * Box.around(mask).extent[0] / 2)
    expected[axis] = 0
    np.testing.assert_allclose(np.std(shifts, axis=0), expected, rtol=0.1)


def test_each_end_of_a_box_moves_by_a_share_of_its_side():
    box = Box((50, 60, 3), (90, 80, 4))
    image = np.zeros((150, 150, 8), bool)
    rng = np.random.default_rng(0)
    ends = np.array([jittered(box, image, 0.1, rng) for _ in range(1500)])
    np.testing.assert_array_equal(ends[:, :, 2], [[3, 4]] * 1500)
    # To whole voxels, which adds a variance of a twelfth.
    expected = np.sqrt((0.1 * np.array([40, 20])) ** 2 + 1 / 12)
    np.testing.assert_allclose(ends[:, :, :2].std(axis=0), [expected] * 2, rtol=0.06)
    np.testing.assert_allclose(ends.mean(axis=0), box, atol=0.5)
    # The ends move each by itself.
    assert abs(np.corrcoef(ends[:, 0, 0], ends[:, 1, 0])[0, 1]) < 0.1


def crossings(mask, centre):
    """How far a mask reaches from a place, forward along each of its axes."""
    rays = [np.moveaxis(mask, axis, -1)[(centre,) * (mask.ndim - 1)] for axis in range(mask.ndim)]
    return [float(ray[centre:].argmin() - 0.5) for ray in rays]


@pytest.mark.parametrize(
    ("shape", "radius", "draws"), [((81, 81), 20, 150), ((33, 33, 33), 9, 60)], ids=["2D", "3D"]
)
def test_outlines_move_smoothly_by_a_share_of_the_radius(shape, radius, draws):
    """Also where the structure fills most of the image."""
    centre = shape[0] // 2
    offsets = np.indices(shape) - centre
    round_mask = (offsets**2).sum(axis=0) <= (radius + 0.5) ** 2
    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        if round_mask.ndim == 2:
            prompt = SliceMask(0, 1, round_mask)
            moved = jittered(prompt, np.zeros((3, *shape), bool), 0.1, rng).mask
        else:
            moved = jittered(round_mask, round_mask, 0.1, rng)
        assert ndimage.label(moved)[1] == 1
        found += crossings(moved, centre)
    shift = np.array(found) - (radius + 0.5)
    assert abs(shift.mean()) < 0.05 * radius
    np.testing.assert_allclose(shift.std(), 0.1 * radius, rtol=0.2)


def test_a_mask_that_fills_most_of_its_image_moves_no_more_than_promised():
    mask = ellipsoid((8, 8, 8), (8, 8, 8))
    radius = (mask.sum() * 3 / 4 / np.pi) ** (1 / 3)
    rng = np.random.default_rng(0)
    sizes = [np.count_nonzero(jittered(mask, mask, 0.1, rng)) for _ in range(300)]
    # If all of the outline moved alike, which it does at most.
    assert np.std(sizes) < 0.1 * radius * 4 * np.pi * radius**2
    assert np.std(sizes) > 0.2 * 0.1 * radius * 4 * np.pi * radius**2


def test_prompts_are_the_same_ones_with_and_without_jitter():
    mask = ellipsoid((20, 20, 20), (12, 12, 12))
    for kind in KINDS:
        exact, moved = (drawn(mask, kind, 3, **j)[0] for j in ({}, {"jitter": 1e-9}))
        for a, b in zip(exact, moved, strict=True):
            np.testing.assert_array_equal(to_channel([a], mask.shape), to_channel([b], mask.shape))
