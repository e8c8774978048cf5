import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from wsicl_jax.data.synthesis.shapes import (
    Region,
    cells,
    depth,
    largest_piece,
    random_turn,
    solid,
    tube,
    walk,
)

SHAPE = (18, 22, 26)

positions = st.tuples(*[st.floats(-1, 1)] * 3).map(np.array)
lengths = st.tuples(*[st.floats(0.1, 0.8)] * 3).map(np.array)
CENTRE = np.zeros(3)


def whole(region: Region | None, shape=SHAPE) -> np.ndarray:
    mask = np.zeros(shape, bool)
    if region is not None:
        mask[region.box] = region.mask
    return mask


def grid(shape=SHAPE) -> np.ndarray:
    axes = [(np.arange(side) + 0.5) * 2 / side - 1 for side in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


@given(positions, lengths, st.floats(1.2, 6), st.floats(-0.6, 0.6), st.integers(0, 2**20))
def test_a_solid_in_its_box_is_the_solid_in_the_whole_volume(centre, radii, power, bend, seed):
    rng = np.random.default_rng(seed)
    turn = random_turn(rng)
    found = whole(solid(rng, SHAPE, centre, radii, power=power, bend=bend, turn=turn))
    offsets = grid() - np.reshape(centre, (3, 1, 1, 1))
    local = np.einsum("ij,jxyz->ixyz", turn, offsets) / np.reshape(radii, (3, 1, 1, 1))
    local[1] -= bend * (local[0] ** 2 - 0.4)
    total = (np.abs(local) ** power).sum(0)
    clear = np.abs(total - 1) > 1e-4  # rounding decides on the surface itself
    np.testing.assert_array_equal(found[clear], (total < 1)[clear])


@given(st.integers(0, 2**20))
def test_waves_change_a_solid_within_their_height(seed):
    def of(**settings):
        rng = np.random.default_rng(seed)
        return whole(solid(rng, SHAPE, CENTRE, np.full(3, 0.5), turn=np.eye(3), **settings))

    wavy, height = of(wavy=0.1), np.sqrt(1 + 0.1 * 2)
    radius = np.sqrt((grid() ** 2).sum(0)) / 0.5
    assert not wavy[radius > height].any()
    assert wavy[radius < np.sqrt(1 - 0.1 * 2)].all()
    assert (wavy != of()).any()


def test_a_solid_outside_the_volume_has_no_region():
    assert solid(np.random.default_rng(0), SHAPE, np.array([3.0, 0, 0]), np.full(3, 0.2)) is None


@given(st.integers(0, 2**20))
def test_a_tube_holds_the_voxels_near_its_line(seed):
    rng = np.random.default_rng(seed)
    points = walk(rng, CENTRE, np.array([1.0, 0, 0]), length=0.9, step=0.08, curl=1.5)
    radii = np.linspace(0.2, 0.15, len(points))
    distance = np.sqrt(((grid()[:, None] - points.T[..., None, None, None]) ** 2).sum(0))
    expected = (distance < radii[:, None, None, None]).any(0)
    assert (whole(tube(SHAPE, points, radii)) != expected).mean() < 1e-3


@given(st.integers(0, 2**20), st.integers(2, 4))
def test_cells_fill_their_region_side_by_side(seed, count):
    rng = np.random.default_rng(seed)
    region = solid(rng, SHAPE, CENTRE, np.array([0.7, 0.6, 0.5]), wavy=0.2)
    found = cells(rng, region, count)
    np.testing.assert_array_equal(sum(whole(cell).astype(int) for cell in found), whole(region))
    if len(found) > 1:
        for cell in found:
            near = ndimage.binary_dilation(whole(cell)) & ~whole(cell)
            assert (near & whole(region)).any()


def test_depth_is_the_distance_to_the_outside_and_to_the_end_of_the_volume():
    mask = np.zeros((7, 7, 9), bool)
    mask[1:6, :, :] = True
    np.testing.assert_array_equal(depth(mask)[:, 3, 4], [0, 1, 2, 3, 2, 1, 0])
    np.testing.assert_array_equal(depth(mask)[3, 3], [1, 2, 3, 3, 3, 3, 3, 2, 1])


@pytest.mark.parametrize("sizes", [(3, 5), (5, 3), (4, 0)])
def test_the_largest_piece_is_kept(sizes):
    mask = np.zeros((12, 1, 1), bool)
    mask[: sizes[0]] = True
    mask[12 - sizes[1] :] = True
    assert largest_piece(mask).sum() == max(sizes)


@given(st.integers(0, 2**20))
def test_a_turn_keeps_lengths(seed):
    turn = random_turn(np.random.default_rng(seed))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
