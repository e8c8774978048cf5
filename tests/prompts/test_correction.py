import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts import Point, Scribble, SliceMask, correct, kind_of
from wsicl_jax.prompts.correction import deepest

EVEN = (1.0, 1.0, 1.0)
quick = settings(max_examples=60, deadline=None)
spacings = st.sampled_from([EVEN, (1.0, 1.0, 5.0), (0.5, 2.0, 1.0)])
noise = st.tuples(st.integers(0, 999), st.floats(0.1, 0.9))
pairs = st.tuples(st.tuples(*[st.integers(1, 5)] * 3), noise, noise).map(
    lambda drawn: tuple(np.random.default_rng(s).random(drawn[0]) < share for s, share in drawn[1:])
)


def depths(region, spacing):
    """Distance in mm of every voxel of a region to the nearest outside, one pair at a time."""
    padded = np.pad(region, 1)
    outside = np.argwhere(~padded) - 1
    depth = np.zeros(region.shape)
    for place in np.argwhere(region):
        depth[tuple(place)] = np.linalg.norm((outside - place) * spacing, axis=1).min()
    return depth


def regions(missed):
    """Connected parts, over corners as well, largest first."""
    parts, count = ndimage.label(missed, np.ones((3, 3, 3)))
    return sorted((parts == 1 + i for i in range(count)), key=np.count_nonzero, reverse=True)


def voxel(point):
    return tuple(map(int, point))


@quick
@given(pairs, spacings)
def test_a_point_is_the_deepest_voxel_of_a_largest_missed_region(pair, spacing):
    truth, mask = pair
    found = correct("point", truth, mask, [], spacing)
    parts = regions(truth & ~mask)
    if not parts:
        assert found is None
        return
    (part,) = [part for part in parts if part[voxel(found)]]
    assert part.sum() == parts[0].sum()
    depth = depths(part, spacing)
    assert depth[voxel(found)] == pytest.approx(depth.max())


@quick
@given(pairs, spacings)
def test_a_scribble_lies_in_a_largest_missed_region_on_its_largest_slice(pair, spacing):
    truth, mask = pair
    found = correct("scribble", truth, mask, [], spacing)
    parts = regions(truth & ~mask)
    if not parts:
        assert found is None
        return
    path = np.array(found.path).astype(int)
    (part,) = [part for part in parts if part[tuple(path[0])]]
    assert part.sum() == parts[0].sum()
    assert part[tuple(path.T)].all()
    largest = max(part.sum(axis=tuple({0, 1, 2} - {axis})).max() for axis in range(3))
    (sizes,) = {
        tuple(part.take(path[0, axis], axis).sum() for axis in np.flatnonzero(np.ptp(path, 0) == 0))
    }
    assert largest in sizes


def slices_with_boxes(truth, wrong):
    """Each slice's tight box and its wrong voxels."""
    for axis, size in enumerate(truth.shape):
        for index in range(size):
            here = tuple(index if a == axis else slice(None) for a in range(3))
            shown = np.zeros_like(truth)
            shown[here] = truth[here]
            if shown.any():
                yield Box.around(shown), int(wrong[here].sum())


@quick
@given(pairs)
def test_boxes_go_to_the_slice_of_most_errors_and_never_come_twice(pair):
    truth, mask = pair
    wrong = truth ^ mask
    given_before = []
    while (box := correct("box", truth, mask, given_before, EVEN)) is not None:
        assert box not in given_before and kind_of(box) == "box"
        open_slices = [(b, n) for b, n in slices_with_boxes(truth, wrong) if b not in given_before]
        most = max(n for _, n in open_slices)
        assert most > 0
        assert (box, most) in open_slices
        given_before.append(box)
    # Nothing is left that a box could mend.
    assert not any(n for b, n in slices_with_boxes(truth, wrong) if b not in given_before)


@pytest.mark.parametrize("kind", ["point", "box", "scribble"])
def test_an_empty_mask_gets_the_first_prompt_and_a_perfect_one_none(kind):
    truth = np.zeros((6, 7, 8), bool)
    truth[1:4, 2:6, 3:8] = True
    first = correct(kind, truth, np.zeros_like(truth), [], EVEN)
    assert kind_of(first) == kind
    assert correct(kind, truth, truth.copy(), [first], EVEN) is None


@pytest.mark.parametrize("kind", ["point", "scribble"])
def test_an_excess_of_the_prediction_is_nothing_for_points_and_scribbles(kind):
    truth = np.zeros((6, 7, 8), bool)
    truth[1:4, 2:6, 3:8] = True
    assert correct(kind, truth, np.ones_like(truth), [], EVEN) is None


def test_a_box_is_put_where_too_much_was_found():
    truth = np.zeros((8, 8, 8), bool)
    truth[2:5, 2:5, 2:5] = True
    mask = truth.copy()
    mask[:, :, 3] = True
    box = correct("box", truth, mask, [], EVEN)
    assert box == Box((2, 2, 3), (5, 5, 4))
    # On slices that the structure does not cross, a box has nothing to show.
    mask = truth.copy()
    mask[:, :, 7] = mask[7] = False
    mask[6:, 6:, 6:] = True
    assert correct("box", truth, mask, [], EVEN) is None


@pytest.mark.parametrize("kind", ["point", "scribble"])
def test_the_next_prompt_lies_in_the_largest_part_that_is_still_missed(kind):
    truth = np.zeros((9, 9, 20), bool)
    truth[1:6, 1:6, 1:6] = True
    truth[2:6, 2:6, 10:18] = True
    mask = np.zeros_like(truth)
    parts = [(slice(10, 18), (10, 18)), (slice(1, 6), (1, 6))]
    given_before = []
    for found_then, (low, high) in parts:
        prompt = correct(kind, truth, mask, given_before, EVEN)
        path = [prompt] if isinstance(prompt, Point) else prompt.path
        assert all(low <= z < high for *_, z in path)
        given_before.append(prompt)
        mask[:, :, found_then] = truth[:, :, found_then]
    assert correct(kind, truth, mask, given_before, EVEN) is None


@pytest.mark.parametrize("axis", range(3))
def test_a_scribble_starts_at_the_first_voxel_of_the_largest_slice(axis):
    plate = np.zeros((9, 7, 4), bool)
    plate[1:8, 1:6, 2:4] = True
    plate[4, 3, 2] = False
    truth = np.ascontiguousarray(np.moveaxis(plate, 2, axis))
    scribble = correct("scribble", truth, np.zeros_like(truth), [], EVEN)
    path = np.moveaxis(np.array(scribble.path), 1, 0)
    assert (path[axis] == 3).all()
    flat = np.delete(path, axis, 0)
    assert flat[:, 0].tolist() == [1, 1]
    assert flat[0, -1] == 7


def test_the_deepest_voxel_is_the_deepest_in_mm():
    region = np.zeros((12, 9, 25), bool)
    region[1:6, 1:6, 10:15] = True
    region[5:8, 2:5, 2:23] = True
    # A block of 5 voxels each way, and a column of 3 x 3 x 21 at its side.
    assert deepest(region, EVEN) == Point(3.0, 3.0, 12.0)
    x, y, z = deepest(region, (1.0, 1.0, 0.2))
    assert (x, y) == (6.0, 3.0) and 5 <= z <= 20


def test_the_border_of_the_image_counts_as_outside():
    assert deepest(np.ones((5, 5, 5), bool), EVEN) == Point(2.0, 2.0, 2.0)


def test_every_kind_of_prompt_may_have_been_given():
    truth = np.zeros((6, 7, 8), bool)
    truth[1:4, 2:6, 3:8] = True
    empty = np.zeros_like(truth)
    given_before = [
        Point(1.0, 2.0, 3.0),
        Scribble(((1.0, 2.0, 3.0),)),
        SliceMask(0, 1, truth[1]),
        Box((1, 2, 3), (4, 6, 8)),
        truth,
    ]
    for kind in ("point", "box", "scribble"):
        first = correct(kind, truth, empty, [], EVEN)
        assert correct(kind, truth, empty, given_before, EVEN) == first
