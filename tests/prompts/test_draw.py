import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts import draw
from wsicl_jax.prompts.draw import scribble_on

KINDS = ("point", "box", "scribble", "mask2d", "box3d", "mask")
quick = settings(max_examples=80, deadline=None)
masks = arrays(bool, st.tuples(*[st.integers(1, 5)] * 3))
counts = st.integers(1, 12)
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def on_slice(mask, axis, index):
    """What a slice shows of the structure, in the volume."""
    shown = np.zeros_like(mask)
    here = tuple(index if a == axis else slice(None) for a in range(3))
    shown[here] = mask[here]
    return shown


def slices(mask):
    return [(axis, index) for axis, size in enumerate(mask.shape) for index in range(size)]


def tight_boxes(mask):
    """The different boxes around what slices along all axes show of the structure."""
    return {Box.around(on_slice(mask, *place)) for place in slices(mask)} - {None}


def different_slices(mask):
    """What slices along all axes show of the structure, each content once."""
    shown = [on_slice(mask, *place) for place in slices(mask)]
    return {part.tobytes() for part in shown if part.any()}


@quick
@given(masks, counts, seeds)
def test_points_are_distinct_and_inside_as_many_as_there_is_room_for(mask, count, rng):
    points = draw("point", mask, count, rng)
    assert len(set(points)) == len(points) == min(count, mask.sum())
    assert all(mask[tuple(map(int, point))] for point in points)


@quick
@given(masks, counts, seeds)
def test_boxes_are_distinct_and_tight_on_a_slice_as_many_as_there_are(mask, count, rng):
    boxes = draw("box", mask, count, rng)
    there = tight_boxes(mask)
    assert len(set(boxes)) == len(boxes) == min(count, len(there))
    assert set(boxes) <= there


@quick
@given(masks, counts, seeds)
def test_slice_masks_are_the_structure_on_slices_that_differ(mask, count, rng):
    drawn = draw("mask2d", mask, count, rng)
    for prompt in drawn:
        np.testing.assert_array_equal(prompt.mask, mask.take(prompt.index, prompt.axis))
    shown = {on_slice(mask, prompt.axis, prompt.index).tobytes() for prompt in drawn}
    there = different_slices(mask)
    assert len(shown) == len(drawn) == min(count, len(there))
    assert shown <= there


@quick
@given(masks, counts, seeds)
def test_scribbles_are_distinct_and_run_inside_on_one_slice_without_gaps(mask, count, rng):
    scribbles = draw("scribble", mask, count, rng)
    assert len(set(scribbles)) == len(scribbles) <= min(count, len(different_slices(mask)))
    assert bool(scribbles) == mask.any()
    for scribble in scribbles:
        path = np.array(scribble.path)
        assert mask[tuple(path.astype(int).T)].all()
        assert (np.ptp(path, axis=0) == 0).any()
        # From voxel to voxel, over a corner at most, and none twice.
        assert (np.abs(np.diff(path, axis=0)).max(axis=1) == 1).all()
        assert len({tuple(place) for place in path}) == len(path)


@quick
@given(masks, counts, seeds)
def test_a_box3d_is_the_tight_box_and_a_mask_the_structure_once(mask, count, rng):
    boxes, drawn = draw("box3d", mask, count, rng), draw("mask", mask, count, rng)
    assert boxes == ([Box.around(mask)] if mask.any() else [])
    assert len(drawn) == mask.any()
    for one in drawn:
        np.testing.assert_array_equal(one, mask)


@pytest.mark.parametrize(
    ("kind", "there"),
    [("point", 60), ("box", 12), ("scribble", 12), ("mask2d", 12), ("box3d", 1), ("mask", 1)],
)
def test_a_solid_structure_gets_as_many_as_requested_until_all_are_drawn(kind, there):
    mask = np.zeros((6, 7, 8), bool)
    mask[1:4, 2:6, 3:8] = True
    rng = np.random.default_rng(0)
    assert len(draw(kind, mask, 5, rng)) == min(5, there)
    assert len(draw(kind, mask, 99, rng)) == there


@pytest.mark.parametrize("kind", KINDS)
def test_a_structure_of_one_voxel_gets_one_prompt(kind):
    mask = np.zeros((3, 4, 5), bool)
    mask[1, 2, 3] = True
    assert len(draw(kind, mask, 5, np.random.default_rng(0))) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_structure_gets_no_prompt(kind):
    rng = np.random.default_rng(0)
    for jitter in (0.0, 0.5):
        assert len(draw(kind, np.zeros((3, 4, 5), bool), 2, rng, jitter=jitter)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_slices_that_show_the_same_box_count_once(seed):
    line = np.zeros((3, 4, 6), bool)
    line[1, 2, 1:5] = True
    # A box on each of 4 slices along z, and the line itself on one slice along x and one along y.
    for kind in ("box", "mask2d"):
        assert len(draw(kind, line, 5, np.random.default_rng(seed))) == 5
        assert len(draw(kind, line, 9, np.random.default_rng(seed))) == 5


@pytest.mark.parametrize(("kind", "there"), [("point", 8), ("box", 6), ("mask2d", 6)])
def test_every_prompt_there_is_comes_as_often_as_the_others(kind, there):
    mask = np.zeros((4, 4, 4), bool)
    mask[1:3, 1:3, 1:3] = True
    rng = np.random.default_rng(0)
    drawn = [repr(draw(kind, mask, 1, rng)[0]) for _ in range(600)]
    frequencies = np.unique(drawn, return_counts=True)[1]
    assert len(frequencies) == there
    # Four standard deviations of a binomial draw.
    share = 1 / there
    assert np.abs(frequencies - 600 * share).max() < 4 * np.sqrt(600 * share * (1 - share))


def line_on(flat, start=0, axis=2, index=1):
    mask = np.zeros(np.insert(flat.shape, axis, 3), bool)
    here = [slice(None)] * 3
    here[axis] = index
    mask[tuple(here)] = flat
    path = np.array(scribble_on(mask, axis, index, start).path)
    assert (path[:, axis] == index).all()
    return np.delete(path, axis, 1).astype(int).tolist()


@pytest.mark.parametrize("axis", range(3))
def test_a_scribble_on_a_bar_runs_from_its_start_to_the_far_end(axis):
    bar = np.zeros((4, 9), bool)
    bar[2, 1:8] = True
    assert line_on(bar, 0, axis) == [[2, y] for y in range(1, 8)]
    assert line_on(bar, 2, axis) == [[2, y] for y in range(3, 8)]
    assert line_on(bar, 5, axis) == [[2, y] for y in range(6, 0, -1)]
    # Starts are counted round.
    assert line_on(bar, 7, axis) == line_on(bar, 0, axis)


def test_a_scribble_follows_a_bent_structure_and_never_leaves_it():
    bent = np.array(
        [
            [1, 0, 1, 1, 1],
            [1, 0, 1, 0, 1],
            [1, 0, 1, 0, 1],
            [1, 1, 1, 0, 1],
        ],
        bool,
    )
    line = line_on(bent)
    # From one end to the other; corners may be cut where voxels touch.
    assert line[0] == [0, 0] and line[-1] == [3, 4]
    assert [1, 2] in line and [2, 4] in line
    assert all(bent[tuple(place)] for place in line)


def test_a_scribble_keeps_to_the_middle():
    disc = np.hypot(*(np.indices((21, 21)) - 10)) <= 9.5
    places = np.argwhere(disc).tolist()
    line = line_on(disc, places.index([10, 1]))
    # From rim to rim, as far away as it can be.
    assert np.hypot(*np.subtract(line[0], line[-1])) > 17
    assert min(np.hypot(x - 10, y - 10) for x, y in line) <= 2
    # A straight way along the rim of a plate is left for its middle.
    plate = np.ones((9, 31), bool)
    line = line_on(plate, 0)
    assert line[0] == [0, 0] and line[-1][1] == 30
    assert {x for x, y in line if 8 <= y <= 22} == {4}


def test_a_scribble_is_on_the_largest_part_of_a_slice():
    parts = np.zeros((8, 9), bool)
    parts[0, :3] = True
    parts[3:5, 2:8] = True
    parts[7, 5:] = True
    for start in range(30):
        assert {x for x, _ in line_on(parts, start)} <= {3, 4}
