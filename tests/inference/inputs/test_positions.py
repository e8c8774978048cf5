import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsicl_jax.data.images import Volume
from wsicl_jax.errors import PromptError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.inference.inputs.positions import box_in, numbers, point_in
from wsicl_jax.prompts import Point

SHAPE = (9, 7, 5)
LPS = np.array([[-1.5, 0, 0, 20], [0, -0.75, 0, 7.5], [0, 0, 3, 100], [0, 0, 0, 1]])
PERMUTED = np.array([[0, 0, -3, 11.3], [0.7, 0, 0, -2], [0, 1.1, 0, 9], [0, 0, 0, 1]])
OBLIQUE = np.array(
    [
        [-1.5 * np.sqrt(3) / 2, 0.375, 0, 20],
        [-0.75, -0.75 * np.sqrt(3) / 2, 0, 7.5],
        [0, 0, 3, 100],
        [0, 0, 0, 1],
    ]
)


def volume(affine=LPS):
    return Volume(np.zeros(SHAPE, np.float32), affine)


def world_of(affine, *voxel):
    return (affine @ [*voxel, 1])[:3]


@pytest.mark.parametrize("affine", [LPS, PERMUTED, OBLIQUE])
@given(place=st.tuples(*(st.floats(-0.49, size - 0.51) for size in SHAPE)))
def test_a_position_in_mm_is_the_voxel_that_lies_there(affine, place):
    point = point_in(volume(affine), world_of(affine, *place).tolist(), "mm")
    np.testing.assert_allclose(point, place, atol=1e-3)


def test_a_position_in_voxels_stays_as_it_is():
    assert point_in(volume(), (4, 3.25, 0), "voxel") == Point(4.0, 3.25, 0.0)


def test_rounding_of_a_float32_affine_does_not_move_positions():
    rough = LPS.astype(np.float32).astype(np.float64) + 1e-6
    assert point_in(volume(rough), world_of(LPS, 4, 3, 2).tolist(), "mm") == Point(4, 3, 2)


@pytest.mark.parametrize("affine", [LPS, PERMUTED, np.diag([0.3, 0.3, 0.9, 1])])
@pytest.mark.parametrize(
    "ranges", [[[1, 5], [2, 6], [3, 4]], [[0, 9], [6, 7], [0, 5]], [[8, 9], [1, 4], [0, 3]]]
)
def test_boxes_in_voxels_and_by_their_faces_in_mm_are_the_same(affine, ranges):
    faces = [(low - 0.5, high - 0.5) for low, high in ranges]
    corners = np.array([world_of(affine, *c) for c in itertools.product(*faces)])
    in_mm = np.stack([corners.min(axis=0), corners.max(axis=0)], axis=1).round(4).tolist()
    box = box_in(volume(affine), ranges, "voxel")
    assert box == Box(*zip(*ranges, strict=True))
    assert box_in(volume(affine), in_mm, "mm") == box


@pytest.mark.parametrize(
    ("ranges", "start", "stop"),
    [
        ([[2.6, 4.4], [0, 0], [1, 2]], (3, 0, 1), (5, 1, 3)),
        ([[2.4, 4.6], [0.4, 0.4], [1.6, 2]], (2, 0, 2), (6, 1, 3)),
        ([[2.5, 4.5], [0.6, 0.6], [1.2, 1.3]], (3, 1, 1), (5, 2, 2)),
    ],
)
def test_a_box_in_mm_covers_the_voxels_whose_cells_it_meets(ranges, start, stop):
    assert box_in(volume(np.eye(4)), ranges, "mm") == Box(start, stop)


def test_a_flat_box_in_mm_is_one_slice_also_on_a_turned_grid():
    middle = world_of(OBLIQUE, 4, 3, 2)
    ranges = [[m - e, m + e] for m, e in zip(middle.tolist(), (0, 1.8, 2.5), strict=True)]
    box = box_in(volume(OBLIQUE), ranges, "mm")
    # World x runs mainly along the first axis of the file.
    assert (box.start[0], box.stop[0]) == (4, 5)
    assert box.extent[1] > 1 and box.extent[2] > 1


@pytest.mark.parametrize(
    ("position", "coordinates", "message"),
    [
        ([4, 7, 0], "voxel", r"\[4.0, 7.0, 0.0\] voxel .* outside the image of \(9, 7, 5\)"),
        ([5, 8.625, 106], "mm", r"\[5.0, 8.625, 106.0\] mm \(RAS\+\) is at voxel \(10, -1.5, 2\)"),
        ([1, 2], "voxel", r"three numbers, got \[1, 2\]"),
        ([1, 2, np.nan], "mm", "three numbers"),
    ],
)
def test_a_position_of_no_use_is_refused(position, coordinates, message):
    with pytest.raises(PromptError, match=message):
        point_in(volume(), position, coordinates)


@pytest.mark.parametrize(
    "given",
    [
        4,
        None,
        [[1, 2], [3]],
        ["1", "2", "3"],
        [1, 2, None],
        [1, 2, {}],
        [1.5, 2, 10**400],
        [True, False, True],
        "a" * 1000,
        {"x": 1, "y": 2, "z": 3},
    ],
)
def test_what_is_no_numbers_is_refused_with_what_was_expected(given):
    with pytest.raises(PromptError, match=r"^three of them, got ") as refused:
        numbers(given, (3,), "three of them")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("ranges", "coordinates", "message"),
    [
        ([[1, 1], [3, 4], [0, 2]], "voxel", r"is empty; .* half-open"),
        ([[2, 1], [3, 4], [0, 2]], "voxel", "reversed"),
        ([[20, 10], [3, 4], [100, 102]], "mm", r"mm \(RAS\+\) has a reversed range"),
        ([[1, 2.5], [3, 4], [0, 2]], "voxel", "whole"),
        ([[1, 10], [3, 4], [0, 2]], "voxel", r"leaves the image of \(9, 7, 5\)"),
        (
            [[10, 15], [3, 4], [90, 102]],
            "mm",
            r"is voxels \(3, 5, -3\) to \(8, 7, 2\), which leaves",
        ),
        ([[1, 2, 3], [3, 4, 5]], "voxel", "three ranges"),
        ([[1, 2], [3, np.inf], [0, 2]], "voxel", "three ranges"),
    ],
)
def test_a_box_of_no_use_is_refused(ranges, coordinates, message):
    with pytest.raises(PromptError, match=message):
        box_in(volume(), ranges, coordinates)
