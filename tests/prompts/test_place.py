import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsicl_jax.errors import PromptError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.prompts import Point, Scribble, SliceMask, bounds, draw, on_crop, on_grid, to_channel

KINDS = ("point", "box", "scribble", "mask2d", "box3d", "mask")
SHAPE = (9, 7, 6)
# Turned, mirrored, of unequal sides, oblique.
AFFINES = {
    "RAS": np.diag([1.5, 0.75, 3, 1]),
    "LPS": np.diag([-1.5, -0.75, 3, 1]),
    "permuted": np.array([[0, 0, -3, 11.3], [0.7, 0, 0, -2], [0, 1.1, 0, 9], [0, 0, 0, 1]]),
    "mirrored": np.array([[0, -2, 0, 5], [0, 0, 0.5, 1], [-1, 0, 0, 7], [0, 0, 0, 1]]),
    "oblique": np.array(
        [
            [-1.5 * np.sqrt(3) / 2, 0.375, 0, 20],
            [-0.75, -0.75 * np.sqrt(3) / 2, 0, 7.5],
            [0, 0, 3, 100],
            [0, 0, 0, 1],
        ]
    ),
}
affines = pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
quick = settings(max_examples=60, deadline=None)


def structure(seed=0):
    mask = np.zeros(SHAPE, bool)
    mask[1:7, 2:7, 1:5] = np.random.default_rng(seed).random((6, 5, 4)) < 0.7
    return mask


def drawn(kind, seed=0, count=5):
    return draw(kind, structure(seed), count, np.random.default_rng(seed))


@affines
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_turned_grid_a_prompt_is_painted_as_on_the_volume_itself(kind, affine):
    grid = WorkingGrid.of(SHAPE, affine)
    for prompt in drawn(kind):
        native = to_channel([prompt], SHAPE)
        # At this size, turning is all that is done to an image.
        expected = grid.image(native)
        np.testing.assert_array_equal(to_channel([on_grid(prompt, grid)], grid.grid), expected)


def finer(affine, factor=3):
    """A working grid with this many voxels along each axis in one of the volume's."""
    x, y, z = WorkingGrid.of(SHAPE, affine).grid
    return WorkingGrid.of(SHAPE, affine, (factor * x, factor * y, factor * z))


@affines
@pytest.mark.parametrize("kind", ["box", "mask2d", "box3d", "mask"])
def test_on_a_grid_three_times_as_fine_it_covers_the_same_voxels(kind, affine):
    """A slice is three voxels thick there, as it is painted."""
    grid = finer(affine)
    for prompt in drawn(kind):
        marked = np.zeros(SHAPE, bool)
        if isinstance(prompt, Box):
            marked[prompt.slices] = True
        elif isinstance(prompt, SliceMask):
            marked[prompt.box.slices] = np.expand_dims(prompt.mask, prompt.axis)
        else:
            marked = prompt
        found = to_channel([on_grid(prompt, grid)], grid.grid)
        np.testing.assert_array_equal(found, grid.label(marked))


@affines
def test_on_a_grid_three_times_as_fine_a_point_is_at_its_voxels_centre(affine):
    grid = finer(affine)
    for point in drawn("point"):
        marked = np.zeros(SHAPE, bool)
        marked[tuple(map(int, point))] = True
        block = Box.around(grid.label(marked))
        np.testing.assert_allclose(on_grid(point, grid), np.add(block.start, 1))


@affines
@pytest.mark.parametrize("cells", [(3, 3, 3), (6, 6, 6), (14, 18, 12), (20, 5, 8)])
def test_the_positions_of_a_scribble_are_placed_as_points_are(affine, cells):
    grid = WorkingGrid.of(SHAPE, affine, cells)
    for scribble in drawn("scribble"):
        placed = on_grid(scribble, grid)
        assert placed.path == tuple(on_grid(Point(*p), grid) for p in scribble.path)
        # Lines stay lines: no gap on a finer grid.
        assert to_channel([placed], cells).max() == 1


@affines
@pytest.mark.parametrize("cells", [(4, 4, 4), (5, 8, 3), (20, 5, 8), (9, 9, 9)])
def test_a_mask_is_placed_as_labels_are_and_one_on_a_slice_as_its_plane(affine, cells):
    grid = WorkingGrid.of(SHAPE, affine, cells)
    mask = structure()
    np.testing.assert_array_equal(on_grid(mask, grid), grid.label(mask))
    for prompt in drawn("mask2d"):
        placed = on_grid(prompt, grid)
        # In world space it is across the same axis, on the slice that holds its middle.
        assert placed.axis == grid.order.index(prompt.axis)
        assert placed.box.start[placed.axis] == grid.box(prompt.box).start[placed.axis]
        everywhere = np.zeros(SHAPE, bool)
        everywhere |= np.expand_dims(prompt.mask, prompt.axis)
        np.testing.assert_array_equal(
            placed.mask, grid.label(everywhere).take(placed.index, placed.axis)
        )


@quick
@given(
    arrays(bool, st.tuples(*[st.integers(1, 9)] * 3)).filter(lambda mask: mask.any()),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.sampled_from(list(AFFINES.values())),
    st.sampled_from(KINDS),
    st.integers(0, 99),
)
def test_nothing_is_lost_on_any_grid(mask, cells, affine, kind, seed):
    grid = WorkingGrid.of(mask.shape, affine, cells)
    prompts = draw(kind, mask, 3, np.random.default_rng(seed))
    assert prompts
    for prompt in prompts:
        assert to_channel([on_grid(prompt, grid)], cells).max() == 1


@pytest.mark.parametrize("place", [(0, 0, 0), (5, 4, 5), (7, 6, 2)])
@affines
def test_a_structure_between_the_voxels_is_marked_by_the_one_it_lies_in(affine, place):
    grid = WorkingGrid.of(SHAPE, affine, (2, 3, 2))
    mask = np.zeros(SHAPE, bool)
    mask[place] = True
    cells = np.rint(grid.point(tuple(map(float, place)))).astype(int)
    expected = np.zeros(grid.grid, bool)
    expected[tuple(cells)] = True
    np.testing.assert_array_equal(on_grid(mask, grid), expected)
    for axis in range(3):
        flat = SliceMask(axis, place[axis], mask.take(place[axis], axis))
        placed = on_grid(flat, grid)
        found = np.zeros(grid.grid, bool)
        found[placed.box.slices] = np.expand_dims(placed.mask, placed.axis)
        np.testing.assert_array_equal(found, expected)


def test_a_lost_structure_is_marked_once_at_its_centroid():
    mask = np.zeros((12, 12, 12), bool)
    mask[4:9, 5, 6] = True
    grid = WorkingGrid(mask.shape, (2, 2, 2))
    assert not grid.label(mask).any()
    placed = on_grid(mask, grid)
    assert np.argwhere(placed).tolist() == [[1, 0, 1]]


def test_what_is_given_stays_as_it_was():
    mask = np.zeros(SHAPE, bool)
    mask[0, 0, 0] = True
    mask.setflags(write=False)
    flat = SliceMask(2, 0, mask[:, :, 0])
    for cells in itertools.product((2, 9), (3, 7), (1, 6)):
        grid = WorkingGrid(SHAPE, cells)
        placed = on_grid(mask, grid)
        assert placed.any() and on_grid(flat, grid).mask.any()
    assert mask.sum() == 1


FLAT = np.ones((9, 6), bool)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Point(9.0, 0.0, 0.0), r"point \(9.0, 0.0, 0.0\) lies outside the image of \(9, 7, 6\)"),
        (Scribble(((0.0, 0.0, 0.0), (0.0, -1.0, 0.0))), r"\(0.0, -1.0, 0.0\) lies outside"),
        (Box((0, 0, 0), (1, 8, 1)), r"box .* leaves the image of \(9, 7, 6\)"),
        (Box((3, 3, 3), (4, 3, 4)), "is empty"),
        (SliceMask(1, 7, FLAT), r"slice 7 across axis 1 lies outside the image of \(9, 7, 6\)"),
        (SliceMask(1, -1, FLAT), "slice -1 across axis 1 lies outside"),
        (SliceMask(1, 0, FLAT.T), r"across axis 1 is \(6, 9\) but its image \(9, 7, 6\)"),
        (SliceMask(0, 0, FLAT), r"across axis 0 is \(9, 6\) but its image \(9, 7, 6\)"),
        (np.ones((6, 7, 9), bool), r"mask is \(6, 7, 9\) but its image \(9, 7, 6\)"),
    ],
)
def test_a_prompt_that_does_not_fit_its_volume_is_refused(prompt, message):
    with pytest.raises(PromptError, match=message):
        on_grid(prompt, WorkingGrid.of(SHAPE, AFFINES["permuted"], (8, 8, 8)))


@pytest.mark.parametrize("empty", [Scribble(()), SliceMask(1, 0, ~FLAT), np.zeros(SHAPE, bool)])
def test_an_empty_prompt_stays_empty_and_is_refused_when_painted(empty):
    grid = WorkingGrid(SHAPE, (4, 4, 4))
    with pytest.raises(PromptError, match=r"no position|marks no voxel"):
        to_channel([on_grid(empty, grid)], grid.grid)


crops = st.tuples(*(st.tuples(st.integers(0, n - 1), st.integers(1, n)) for n in (9, 7, 6)))


@quick
@given(
    crop=crops,
    kind=st.sampled_from(KINDS),
    name=st.sampled_from(sorted(AFFINES)),
    seed=st.integers(0, 50),
)
def test_on_a_crop_is_what_of_a_prompt_lies_there(crop, kind, name, seed):
    """At the volume's own voxels, the crop's channel is the crop of the prompt's voxels."""
    whole = WorkingGrid.of(SHAPE, AFFINES[name])
    ends = [sorted((a, b)) for a, b in crop]
    start = [min(a, n - 1) for (a, _), n in zip(ends, whole.turned_shape, strict=True)]
    stop = [
        max(min(b, n), a + 1) for a, (_, b), n in zip(start, ends, whole.turned_shape, strict=True)
    ]
    box = Box(tuple(start), tuple(stop))
    grid = whole.cropped(box, box.extent)
    prompts = draw(kind, structure(), 3, np.random.default_rng(seed))
    for prompt in prompts:
        marked = whole.turned(voxels_of(prompt))[box.slices]
        placed = on_crop(prompt, grid)
        assert (placed is not None) == marked.any()
        if placed is not None:
            np.testing.assert_array_equal(voxels_of(placed, box.extent), marked)


@quick
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 50))
def test_bounds_are_the_faces_of_the_tight_box(kind, seed):
    for prompt in draw(kind, structure(), 3, np.random.default_rng(seed)):
        low, high = bounds(prompt)
        tight = Box.around(voxels_of(prompt))
        np.testing.assert_allclose(low, np.array(tight.start) - 0.5)
        np.testing.assert_allclose(high, np.array(tight.stop) - 0.5)


def test_a_mask_that_marks_nothing_has_no_bounds():
    with pytest.raises(PromptError, match="mask is empty"):
        bounds(np.zeros(SHAPE, bool))


def test_a_mask_of_another_shape_is_refused_on_a_crop():
    grid = WorkingGrid.of(SHAPE, np.eye(4)).cropped(Box((0, 0, 0), (2, 2, 2)), (2, 2, 2))
    with pytest.raises(PromptError, match="mask is"):
        on_crop(np.ones((2, 2, 2), bool), grid)


def voxels_of(prompt, shape=SHAPE):
    """The voxels that a prompt names, none thickened."""
    marked = np.zeros(shape, bool)
    if isinstance(prompt, Box):
        marked[prompt.slices] = True
    elif isinstance(prompt, Point):
        marked[tuple(np.rint(prompt).astype(int))] = True
    elif isinstance(prompt, Scribble):
        for position in prompt.path:
            marked[tuple(np.rint(position).astype(int))] = True
    elif isinstance(prompt, SliceMask):
        marked[prompt.box.slices] = np.expand_dims(prompt.mask, prompt.axis)
    else:
        marked |= prompt
    return marked
