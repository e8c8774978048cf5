import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inference.volumes import TURNS, VOLUME, reoriented, volume

from wsicl_jax.config import InferenceConfig
from wsicl_jax.data.images import Volume
from wsicl_jax.geometry.axes import Box
from wsicl_jax.inference.prepared_images import prepare_image
from wsicl_jax.inference.refinement.composition import fade
from wsicl_jax.inference.refinement.tiles import crop_of_context, tiles_around
from wsicl_jax.prompts import Point, turned_bounds

quick = settings(max_examples=60, deadline=None)


def target_of(shape, affine=None):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    return prepare_image(Volume(image, np.eye(4) if affine is None else affine), VOLUME, full=True)


def covered(boxes, shape):
    marked = np.zeros(shape, bool)
    for box in boxes:
        marked[box.slices] = True
    return marked


shapes = st.tuples(*(st.integers(4, 60) for _ in range(3)))


@quick
@given(shape=shapes, data=st.data())
def test_tiles_cover_the_whole_mask_stay_inside_and_are_not_too_many(shape, data):
    target = target_of(shape)
    found = np.zeros(VOLUME.grid, bool)
    low = [data.draw(st.integers(0, n - 1)) for n in VOLUME.grid]
    high = [data.draw(st.integers(a + 1, n)) for a, n in zip(low, VOLUME.grid, strict=True)]
    found[Box(tuple(low), tuple(high)).slices] = True
    config = InferenceConfig(refine_max_tiles=data.draw(st.integers(1, 40)))
    tiles = tiles_around(found, target, config)
    if tiles is None:
        return
    assert 0 < len(tiles.boxes) <= config.refine_max_tiles
    assert len({box.extent for box in tiles.boxes}) == 1
    marked = covered(tiles.boxes, shape)
    for box in tiles.boxes:
        assert min(box.start) >= 0 and np.less_equal(box.stop, shape).all()
    cells = np.array(shape) / VOLUME.grid
    start = np.floor(np.array(low) * cells).astype(int)
    stop = np.ceil(np.array(high) * cells).astype(int)
    assert marked[Box(tuple(start), tuple(stop)).slices].all()


def test_tiles_have_the_targets_own_voxels_where_few_are_enough():
    found = np.zeros(VOLUME.grid, bool)
    found[3:5, 2:4, 4:6] = True
    tiles = tiles_around(found, target_of((32, 24, 40)), InferenceConfig())
    assert tiles.boxes[0].extent == VOLUME.grid
    np.testing.assert_allclose(tiles.centre_mm, (16, 12, 20))


def test_tiles_become_coarser_where_too_many_would_be_needed():
    found = np.ones(VOLUME.grid, bool)
    target = target_of((32, 24, 40))
    many = tiles_around(found, target, InferenceConfig(refine_max_tiles=200))
    few = tiles_around(found, target, InferenceConfig(refine_max_tiles=8))
    assert many.boxes[0].extent == VOLUME.grid
    assert few.boxes[0].extent > VOLUME.grid and len(few.boxes) <= 8
    assert tiles_around(found, target, InferenceConfig(refine_max_tiles=1)) is None


def test_no_tile_lies_outside_of_the_mask():
    found = np.zeros(VOLUME.grid, bool)
    found[0, 0, 0] = found[-1, -1, -1] = True
    tiles = tiles_around(found, target_of((64, 48, 80)), InferenceConfig(refine_max_tiles=400))
    assert 2 <= len(tiles.boxes) <= 16


@quick
@given(n=st.integers(4, 40), overlap=st.floats(0.05, 0.5), start=st.integers(0, 30))
def test_weights_are_1_inside_and_fall_to_the_faces_that_are_not_the_images(n, overlap, start):
    box = Box((start, 0, 0), (start + n, n, n))
    x, y, z = fade(box, (start + n + 5, n, n), overlap)
    assert (y == 1).all() and (z == 1).all()
    assert x.max() <= 1 and x.min() > 0
    assert x[-1] <= 0.5 and (x[0] == 1 if start == 0 else x[0] <= 0.5)
    assert (np.abs(np.diff(x)) <= 1 / max(overlap * n, 1) + 1e-6).all()


def test_weights_of_evenly_laid_tiles_add_up_to_1():
    """Two tiles that overlap by exactly the share that they fade over."""
    a, b = (fade(Box((s, 0, 0), (s + 16, 4, 4)), (64, 4, 4), 0.25)[0] for s in (8, 20))
    np.testing.assert_allclose(a[12:] + b[:4], 1, atol=1e-6)


@pytest.mark.parametrize(("order", "flips"), TURNS)
def test_faces_of_prompts_follow_the_turn_of_the_image(order, flips):
    stored = volume(1)
    copy, turn = reoriented(stored, order, flips)
    marked = np.zeros(stored.image.shape, bool)
    marked[2:5, 1:3, 4] = True
    here = turned_bounds([marked], prepare_image(stored, VOLUME, full=False).grid)
    there = turned_bounds([turn(marked)], prepare_image(copy, VOLUME, full=False).grid)
    np.testing.assert_allclose(here, there)
    extent = np.sort(here[1] - here[0])
    np.testing.assert_allclose(extent, [1, 2, 3])


def test_a_view_of_a_context_shows_the_same_place_at_the_same_extent_in_mm():
    """One structure in two images of other spacing and position; the views fall together."""
    target = target_of((40, 40, 40))
    context = target_of((30, 20, 20), np.diag([2.0, 2, 2, 1]))
    found = np.zeros(VOLUME.grid, bool)
    found[3:5, 2:4, 4:6] = True
    tiles = tiles_around(found, target, InferenceConfig())
    tile = Box((14, 14, 14), (22, 20, 24))
    # The middle of what is marked is at voxel (15, 10, 10) of the context's faces.
    prompted = turned_bounds([Point(14.5, 9.5, 9.5)], context.grid)
    view = crop_of_context(context, prompted, tile, tiles, target)
    assert view.covered.extent == (4, 3, 5)
    middle = np.add(view.covered.start, view.covered.stop) / 2
    offset_mm = (np.add(tile.start, tile.stop) / 2) - tiles.centre_mm
    np.testing.assert_allclose(middle - 15 * np.array([1, 2 / 3, 2 / 3]), offset_mm / 2, atol=0.5)


@quick
@given(position=st.tuples(st.integers(0, 8), st.integers(0, 6), st.integers(0, 4)), data=st.data())
def test_a_view_of_a_context_stays_in_its_image_and_touches_its_prompts(position, data):
    context = prepare_image(volume(1), VOLUME, full=True)
    target = target_of((40, 40, 40))
    found = np.zeros(VOLUME.grid, bool)
    found[tuple(data.draw(st.integers(0, n - 1)) for n in VOLUME.grid)] = True
    tiles = tiles_around(found, target, InferenceConfig(refine_margin=3.0))
    prompted = turned_bounds([Point(*map(float, position))], context.grid)
    for tile in tiles.boxes:
        view = crop_of_context(context, prompted, tile, tiles, target)
        assert min(view.covered.start) >= 0
        assert np.less_equal(view.covered.stop, context.grid.turned_shape).all()
        assert (prompted[0] < np.array(view.covered.stop) + 0.5).all()
        assert (prompted[1] > np.array(view.covered.start) - 0.5).all()
