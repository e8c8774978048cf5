import numpy as np
import pytest
from inference.volumes import LPS, OBLIQUE, volume

from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.inference.refinement import composition as compose
from wsicl_jax.inference.refinement.composition import (
    Composition,
    Scores,
    TileScore,
    coarse_prediction_of,
)

GRID = (8, 6, 10)
SHAPE = (21, 9, 14)


def grid_of(shape=SHAPE, affine=OBLIQUE):
    return WorkingGrid.of(shape, affine, GRID)


def score(seed, shape=GRID):
    return np.random.default_rng(seed).normal(0.4, 0.5, shape).astype(np.float32)


def composed(grid, *scores, probabilities=True, overlap=0.25):
    names = [f"s{i}" for i in range(len(scores))]
    values = {name: i for i, name in enumerate(names, 1)}
    whole = Box((0, 0, 0), grid.shape)
    found = Composition(grid.shape, whole, grid, values, overlap, probabilities=probabilities)
    for name, one in zip(names, scores, strict=True):
        found.add(name, one)
    return found


@pytest.mark.parametrize("shape", [SHAPE, (4, 9, 30), (3, 3, 3), GRID])
@pytest.mark.parametrize("affine", [OBLIQUE, LPS, np.eye(4)[[2, 0, 1, 3]]])
def test_the_coarse_prediction_alone_is_what_the_working_grid_restores_whole(
    shape, affine, monkeypatch
):
    monkeypatch.setattr(compose, "_SLAB_VOXELS", 50)
    grid = grid_of(shape, affine)
    expected = grid.restore(score(0))
    found = composed(grid, Scores(score(0)))
    np.testing.assert_array_equal(found.label_map != 0, expected > 0.5)
    np.testing.assert_allclose(
        found.probabilities["s0"], np.clip(expected, 0, 1), rtol=0, atol=5e-4
    )


@pytest.mark.parametrize("tiles", [0, 2])
def test_the_mask_is_the_same_whether_probabilities_are_kept_or_not(tiles):
    grid = grid_of()
    boxes = [Box((0, 0, 0), (8, 6, 10)), Box((9, 2, 4), (17, 8, 14))]
    scores = Scores(score(0), [TileScore(b, score(i)) for i, b in enumerate(boxes[:tiles], 1)])
    with_them = composed(grid, scores)
    without = composed(grid, scores, probabilities=False)
    np.testing.assert_array_equal(without.label_map, with_them.label_map)
    assert not without.probabilities
    assert with_them.label_map.any()


def test_probabilities_lie_on_the_masks_side_of_one_half_though_they_are_rounded():
    grid = WorkingGrid.of(GRID, np.eye(4), GRID)
    scores = np.full(GRID, 0.5, np.float32)
    scores[0] = np.nextafter(np.float32(0.5), np.float32(1))
    found = composed(grid, Scores(scores))
    np.testing.assert_array_equal(found.label_map[0], 1)
    np.testing.assert_array_equal(found.label_map != 0, found.probabilities["s0"] > 0.5)


def test_of_overlapping_structures_the_higher_score_wins_in_any_order():
    grid = grid_of()
    a, b, c = (Scores(score(i)) for i in range(3))
    whole = np.stack([grid.restore(s.coarse) for s in (a, b, c)])
    expected = np.where(whole.max(0) > 0.5, whole.argmax(0) + 1, 0)
    found = composed(grid, a, b, c).label_map
    np.testing.assert_array_equal(found, expected)
    backwards = composed(grid, c, b, a).label_map
    np.testing.assert_array_equal(np.where(backwards, 4 - backwards, 0), found)


def test_tiles_that_say_what_the_coarse_prediction_says_change_nothing():
    grid = grid_of()
    boxes = [Box((x, 0, z), (x + 8, 6, z + 10)) for x in (0, 6, 13) for z in (0, 4)]
    tiles = [TileScore(b, coarse_prediction_of(score(0), grid.turned_shape, b)) for b in boxes]
    plain, tiled = composed(grid, Scores(score(0))), composed(grid, Scores(score(0), tiles))
    np.testing.assert_allclose(
        tiled.probabilities["s0"], plain.probabilities["s0"], rtol=0, atol=1e-3
    )


def test_tiles_leave_no_seam():
    """A first look of 0 and tiles of 1: the step from one to the other is never abrupt."""
    grid = WorkingGrid.of((64, 16, 16), np.eye(4), (16, 16, 16))
    ones = np.ones((16, 16, 16), np.float32)
    tiles = [TileScore(Box((x, 0, 0), (x + 16, 16, 16)), ones) for x in (8, 20, 32)]
    found = composed(grid, Scores(np.zeros((16, 16, 16), np.float32), tiles))
    line = found.probabilities["s0"][:, 8, 8].astype(float)
    assert line[:8].max() == line[48:].max() == 0
    np.testing.assert_allclose(line[13:43], 1, atol=1e-3)
    assert np.abs(np.diff(line)).max() <= 0.26  # a quarter of a tile is four voxels


def test_a_tile_at_the_images_border_does_not_fade_there():
    grid = WorkingGrid.of((32, 16, 16), np.eye(4), (16, 16, 16))
    tile = TileScore(Box((0, 0, 0), (16, 16, 16)), np.ones((16, 16, 16), np.float32))
    found = composed(grid, Scores(np.zeros((16, 16, 16), np.float32), [tile]))
    assert found.probabilities["s0"][0].min() == 1


def test_a_tile_of_the_targets_own_voxels_is_taken_as_it_is():
    grid = WorkingGrid.of((32, 16, 16), np.eye(4), (16, 16, 16))
    tile = TileScore(Box((0, 0, 0), (16, 16, 16)), score(3, (16, 16, 16)))
    found = composed(grid, Scores(score(4, (16, 16, 16)), [tile]))
    inside = found.probabilities["s0"][:12].astype(np.float32)
    np.testing.assert_allclose(inside, np.clip(tile.score[:12], 0, 1), atol=1e-3)


def test_large_values_get_a_wider_type():
    found = Composition(
        SHAPE, Box((0, 0, 0), SHAPE), grid_of(), {"a": 256}, 0.25, probabilities=False
    )
    found.add("a", Scores(np.ones(GRID, np.float32)))
    assert found.label_map.dtype == np.uint16 and (found.label_map == 256).all()


def test_no_prediction_is_an_empty_mask():
    found = composed(grid_of(), Scores(np.zeros(GRID, np.float32)), probabilities=False)
    assert not found.label_map.any()
    assert found.label_map.shape == volume(0, SHAPE).image.shape
