import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsicl_jax.errors import PromptError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.grids import (
    WorkingGrid,
    content_box,
    resize,
    resize_nearest,
    resize_window,
    smoothed_for,
)

quick = settings(max_examples=60, deadline=None)
shapes = st.tuples(*[st.integers(1, 9)] * 3)


@st.composite
def turned(draw, grid=None):
    """A working grid for a volume of any orientation."""
    order = tuple(draw(st.permutations(range(3))))
    flips = tuple(draw(st.booleans()) for _ in range(3))
    shape = draw(shapes)
    return WorkingGrid(
        shape, draw(grid) if grid is not None else tuple(shape[a] for a in order), order, flips
    )


@st.composite
def with_box(draw, grids):
    grid = draw(grids)
    ends = [sorted(draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in grid.shape]
    return grid, Box(tuple(low for low, _ in ends), tuple(high for _, high in ends))


@st.composite
def with_voxel(draw, grids):
    grid = draw(grids)
    return grid, tuple(draw(st.integers(0, n - 1)) for n in grid.shape)


def enlarged(grid, factor):
    return WorkingGrid(grid.shape, tuple(n * factor for n in grid.grid), grid.order, grid.flips)


def ends(grid, box):
    """Where the box begins and ends along each axis of the working grid, in its voxels; exact."""
    for axis, flip, n in zip(grid.order, grid.flips, grid.grid, strict=True):
        low, high = (Fraction(x[axis] * n, grid.shape[axis]) for x in (box.start, box.stop))
        yield (n - high, n - low) if flip else (low, high)


@quick
@given(turned())
def test_turning_alone_is_undone_exactly(grid):
    image = np.random.default_rng(0).random(grid.shape, np.float32)
    np.testing.assert_array_equal(grid.restore(grid.image(image)), image)
    number = np.arange(image.size).reshape(grid.shape)
    np.testing.assert_array_equal(
        grid.image(image).ravel(), image.ravel()[grid.label(number)].ravel()
    )


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(False, False, True), (True, True, False)])
def test_affines_turn_to_increasing_world_coordinates(order, flips):
    shape = (3, 4, 5)
    affine = np.eye(4)
    linear = np.zeros((3, 3))
    for world, axis in enumerate(order):
        linear[world, axis] = -2.0 if flips[world] else 0.5
    affine[:3, :3] = linear
    turned_shape = tuple(shape[a] for a in order)
    grid = WorkingGrid.of(shape, affine, turned_shape)
    for world in range(3):
        position = np.tensordot(linear[world], np.indices(shape), axes=1)
        along = np.diff(grid.image(position), axis=world)
        assert (along > 0).all()


@quick
@given(with_voxel(turned()), st.sampled_from([1, 3, 5]))
def test_a_point_lands_in_the_middle_of_its_voxel(case, factor):
    grid, voxel = case
    grid = enlarged(grid, factor)
    marked = np.zeros(grid.shape, bool)
    marked[voxel] = True
    where = np.argwhere(grid.label(marked))
    np.testing.assert_allclose(grid.point(tuple(map(float, voxel))), where.mean(axis=0), atol=1e-9)


@quick
@given(with_voxel(turned(grid=shapes)))
def test_a_point_lands_in_the_working_voxel_that_holds_its_centre(case):
    grid, voxel = case
    for a, (axis, flip) in enumerate(zip(grid.order, grid.flips, strict=True)):
        centre = (voxel[axis] + 0.5) / grid.shape[axis]
        centre = 1 - centre if flip else centre
        expected = min(max(centre * grid.grid[a] - 0.5, 0), grid.grid[a] - 1)
        assert grid.point(tuple(map(float, voxel)))[a] == pytest.approx(expected)


@quick
@given(with_box(turned()), st.sampled_from([1, 2, 3]))
def test_a_box_covers_what_label_marks(case, factor):
    grid, box = case
    grid = enlarged(grid, factor)
    marked = np.zeros(grid.shape, bool)
    marked[box.slices] = True
    labelled = Box.around(grid.label(marked))
    moved = grid.box(box)
    for a, axis in enumerate(grid.order):
        if box.extent[axis] > 1 or factor == 1:
            assert (moved.start[a], moved.stop[a]) == (labelled.start[a], labelled.stop[a])
        else:
            assert labelled.start[a] <= moved.start[a] < labelled.stop[a]


@quick
@given(with_box(turned(grid=shapes)))
def test_a_box_covers_the_working_voxels_whose_centres_it_holds(case):
    grid, box = case
    moved = grid.box(box)
    half = Fraction(1, 2)
    for a, (low, high) in enumerate(ends(grid, box)):
        held = [i for i in range(grid.grid[a]) if low <= i + half < high]
        found = list(range(moved.start[a], moved.stop[a]))
        if box.extent[grid.order[a]] > 1 and held:
            assert found == held
        else:
            (voxel,) = found
            assert voxel <= (low + high) / 2 <= voxel + 1


def test_resize_keeps_a_ramp_on_half_pixel_centres():
    ramp = np.broadcast_to(np.arange(6, dtype=np.float32)[:, None, None], (6, 2, 3))
    wide = resize(ramp, (15, 4, 3))
    expected = np.clip((np.arange(15) + 0.5) * 6 / 15 - 0.5, 0, 5)
    np.testing.assert_allclose(
        wide, np.broadcast_to(expected[:, None, None], wide.shape), atol=1e-6
    )


def test_resize_smooths_where_it_shrinks():
    stripes = np.zeros((33, 1, 1), np.float32)
    stripes[1::3] = 1  # the only voxels that linear interpolation would look at
    np.testing.assert_allclose(resize(stripes, (11, 1, 1))[2:-2], 0.4, atol=0.1)


@quick
@given(turned(grid=shapes), st.floats(-3, 3, width=32))
def test_a_constant_stays_constant(grid, value):
    restored = grid.restore(np.full(grid.grid, value, np.float32))
    assert restored.shape == grid.shape and restored.dtype == np.float32
    np.testing.assert_allclose(restored, value, rtol=1e-5)
    np.testing.assert_allclose(grid.image(restored), value, rtol=1e-5)


@quick
@given(shapes, shapes)
def test_nearest_takes_the_voxel_that_holds_the_centre(old, new):
    label = np.arange(np.prod(old)).reshape(old)
    resized = resize_nearest(label, new)
    assert resized.shape == new and resized.dtype == label.dtype
    for index in np.ndindex(*new):
        centre = [(2 * i + 1) * o // (2 * n) for i, o, n in zip(index, old, new, strict=True)]
        assert resized[index] == label[tuple(centre)]


GRID = WorkingGrid((3, 4, 5), (8, 8, 8), (2, 0, 1), (True, False, False))


@pytest.mark.parametrize(
    "position", [(-0.51, 0.0, 0.0), (0.0, 3.51, 0.0), (0.0, 0.0, 5.0), (np.nan, 0.0, 0.0)]
)
def test_a_point_outside_is_refused_with_the_shape(position):
    with pytest.raises(PromptError, match=r"outside the image of \(3, 4, 5\)"):
        GRID.point(position)


def test_the_faces_of_the_volume_are_inside():
    assert GRID.point((-0.5, 3.5, 4.5)) == (0, 0, 7)


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        ((-1, 0, 0), (1, 1, 1)),
        ((0, 0, 0), (1, 1, 6)),
        ((1, 1, 1), (1, 2, 2)),
        ((2, 1, 1), (1, 2, 2)),
    ],
)
def test_an_empty_or_outside_box_is_refused_with_the_shape(start, stop):
    with pytest.raises(PromptError, match=r"empty or leaves the image of \(3, 4, 5\)"):
        GRID.box(Box(start, stop))


@pytest.mark.parametrize("method", ["image", "label"])
def test_a_volume_of_another_shape_is_refused(method):
    with pytest.raises(ValueError, match=r"\(4, 3, 5\).*\(3, 4, 5\)"):
        getattr(GRID, method)(np.zeros((4, 3, 5), np.uint8))


@given(
    old=st.tuples(*(st.integers(1, 12) for _ in range(3))),
    new=st.tuples(*(st.integers(1, 16) for _ in range(3))),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_a_window_of_a_resized_image_is_a_part_of_the_whole(old, new, data):
    image = np.random.default_rng(0).normal(size=old).astype(np.float32)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in new)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, new, strict=True))
    window = Box(start, stop)
    found = resize_window(smoothed_for(image, new), new, window)
    np.testing.assert_allclose(found, resize(image, new)[window.slices], rtol=0, atol=1e-5)


def test_a_turned_volume_can_be_written_through():
    affine = np.array([[0, 0, -3, 0], [0.7, 0, 0, 0], [0, -1.1, 0, 0], [0, 0, 0, 1.0]])
    grid = WorkingGrid.of((4, 5, 6), affine)
    own = np.zeros((4, 5, 6), np.uint8)
    grid.turned(own)[0, 0, 0] = 7
    (place,) = np.argwhere(own)
    np.testing.assert_allclose(grid.point(tuple(map(float, place))), 0)


def test_a_view_is_moved_into_the_volume_and_takes_short_axes_whole():
    grid = WorkingGrid.of((20, 10, 5), np.eye(4), (8, 8, 8))
    view = grid.cropped_around(np.array([1.0, 5, 2]), np.array([8.0, 4, 9]))
    assert view.covered == Box((0, 3, 0), (8, 7, 5))
    assert view.grid == (8, 8, 8)


def padded(image, widths, values):
    for value in values:
        image = np.pad(image, widths, constant_values=value)
    return image


@pytest.mark.parametrize("values", [[0], [-3024], [7, -3024]])
@pytest.mark.parametrize("widths", [[(2, 2)] * 3, [(0, 3), (1, 0), (0, 0)]])
def test_the_content_of_an_image_is_what_its_margins_leave(widths, values):
    image = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)
    box = content_box(padded(image, widths, values))
    np.testing.assert_array_equal(padded(image, widths, values)[box.slices], image)


def test_a_margin_is_of_one_value_on_each_side_but_not_on_all():
    image = np.random.default_rng(0).normal(size=(5, 4, 6))
    image = np.pad(image, [(2, 0), (0, 0), (0, 0)], constant_values=-1024)
    image = np.pad(image, [(0, 3), (0, 0), (0, 0)], constant_values=0)
    assert content_box(image) == Box((2, 0, 0), (7, 4, 6))


def test_what_touches_the_faces_is_content():
    image = np.zeros((7, 7, 7))
    image[0, 3, 3] = image[6, 3, 3] = image[3, 0, 3] = image[3, 6, 3] = 1
    image[3, 3, 0] = image[3, 3, 6] = 1
    assert content_box(image) == Box((0, 0, 0), (7, 7, 7))


@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 1, 1), (3, 1, 8)])
def test_of_an_image_of_one_value_all_is_content(shape):
    assert content_box(np.full(shape, 3)) == Box((0, 0, 0), shape)


def test_a_block_of_one_value_is_content_and_so_is_most_of_a_ramp():
    block = np.zeros((8, 9, 10))
    block[2:4, 3:7, 4:9] = 5
    assert content_box(block) == Box((2, 3, 4), (4, 7, 9))
    ramp = np.broadcast_to(np.arange(20.0), (4, 5, 20))
    assert content_box(ramp) == Box((0, 0, 2), (4, 5, 18))


@quick
@given(st.data())
def test_a_box_of_the_turned_volume_holds_the_same_voxels(data):
    grid, box = data.draw(with_box(turned()))
    marked = np.zeros(grid.shape, bool)
    marked[box.slices] = True
    assert grid.turned_box(box) == Box.around(grid.turned(marked))
