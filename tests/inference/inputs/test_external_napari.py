import time

import numpy as np
import pytest

from wsicl_jax.data.images import Volume
from wsicl_jax.errors import DataError, PromptError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.inference.inputs.external import read_prompts
from wsicl_jax.prompts import Point, Scribble, SliceMask

SHAPE = (19, 17, 15)
VOLUME = Volume(np.zeros(SHAPE, np.float32), np.diag([0.5, 1, 3, 1]))

POINTS = "index,axis-0,axis-1,axis-2\r\n0.0,4.0,3.0,2.0\r\n1.0,8.0,0.0,4.25\r\n"
"""As napari 0.6 writes a layer of points."""

FEATURES = 'index,axis-0,axis-1,axis-2,label\r\n0,4.0,3.0,2.0,a\r\n1,8.0,0.0,4.25,"b, c"\r\n'

SHAPES = """index,shape-type,vertex-index,axis-0,axis-1,axis-2
0,rectangle,0,1.2,2.0,3.0
0,rectangle,1,1.2,5.0,3.0
0,rectangle,2,4.0,5.0,3.0
0,rectangle,3,4.0,2.0,3.0
1,line,0,1.0,2.0,3.0
1,line,1,4.0,2.0,3.0
2,path,0,1.0,2.0,3.0
2,path,1,4.0,2.0,3.0
2,path,2,4.0,5.0,3.0
""".replace("\n", "\r\n")
HEADER = "index,shape-type,vertex-index,axis-0,axis-1,axis-2\n"


def write(folder, text, name="layer.csv"):
    path = folder / name
    path.write_bytes(text.encode())
    return path


def read(folder, text, axes="xyz"):
    return read_prompts(write(folder, text), VOLUME, axes=axes)


def shape(kind, vertices, number=0):
    rows = [f"{number},{kind},{i},{x},{y},{z}\n" for i, (x, y, z) in enumerate(vertices)]
    return "".join(rows)


@pytest.mark.parametrize("text", [POINTS, FEATURES])
def test_points_are_points(tmp_path, text):
    assert read(tmp_path, text) == [Point(4, 3, 2), Point(8, 0, 4.25)]


def test_rectangles_lines_and_paths_are_boxes_and_scribbles(tmp_path):
    assert read(tmp_path, SHAPES) == [
        Box((1, 2, 3), (5, 6, 4)),
        Scribble(((1.0, 2.0, 3.0), (4.0, 2.0, 3.0))),
        Scribble(((1.0, 2.0, 3.0), (4.0, 2.0, 3.0), (4.0, 5.0, 3.0))),
    ]


def test_axes_may_be_those_of_an_array_that_itk_gave(tmp_path):
    assert read(tmp_path, POINTS, "zyx") == [Point(2, 3, 4), Point(4.25, 0, 8)]
    box, *_ = read(tmp_path, SHAPES, "zyx")
    assert box == Box((3, 2, 1), (4, 6, 5))


def turned(points, axis, index):
    """Positions on a slice as positions in 3D."""
    return np.insert(np.array(points, float), axis, index, axis=1).tolist()


CORNERS = [(2, 3), (2, 9), (8, 9), (8, 3)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shape_lies_on_the_slice_where_its_vertices_do(tmp_path, axis):
    text = HEADER + shape("rectangle", turned(CORNERS, axis, 5.4))
    text += shape("polygon", turned(CORNERS, axis, 5.4), 1)
    box, mask = read(tmp_path, text)
    filled = np.zeros(np.delete(SHAPE, axis), bool)
    filled[2:9, 3:10] = True
    assert (mask.axis, mask.index) == (axis, 5)
    np.testing.assert_array_equal(mask.mask, filled)
    assert box.start[axis] == 5
    assert np.array_equal(box.extent, np.insert([7, 7], axis, 1))


def test_a_polygon_marks_the_voxels_whose_centres_it_holds(tmp_path):
    vertices = [(0, 0), (0, 12), (6, 6), (12, 12), (12, 0)]
    (found,) = read(tmp_path, HEADER + shape("polygon", turned(vertices, 2, 7)))
    x, y = np.indices(SHAPE[:2])
    inside = (x <= 12) & (y <= 12) & (y <= np.maximum(12 - x, x))
    assert isinstance(found, SliceMask)
    # Of what lies on the outline, either side will do.
    np.testing.assert_array_equal(found.mask[1:12, 1:], inside[1:12, 1:])


@pytest.mark.parametrize("degrees", [0, 30, 90])
def test_an_ellipse_fills_the_rectangle_around_it_that_may_be_turned(tmp_path, degrees):
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    half, centre = np.array([5.2, 3.1]), np.array([9, 8])
    corners = centre + np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * half @ matrix.T
    (found,) = read(tmp_path, HEADER + shape("ellipse", turned(corners, 2, 7)))
    offsets = (np.indices(SHAPE[:2]).reshape(2, -1).T - centre) @ matrix
    inside = ((offsets / half) ** 2).sum(axis=1) <= 1
    np.testing.assert_array_equal(found.mask, inside.reshape(SHAPE[:2]))
    assert (found.axis, found.index) == (2, 7)


def test_an_ellipse_may_touch_the_border_that_its_rectangle_crosses(tmp_path):
    # The corners of a turned square around a circle lie outside of it.
    corners = [(-2.4, 8), (5, 15.4), (12.4, 8), (5, 0.6)]
    (found,) = read(tmp_path, HEADER + shape("ellipse", turned(corners, 2, 7)))
    assert found.mask[0, 8] and found.mask.sum() == pytest.approx(np.pi * 7.4**2 / 2, rel=0.05)


def test_a_turned_rectangle_is_the_box_around_it(tmp_path):
    corners = [(5, 1), (9, 5), (5, 9), (1, 5)]
    found = read(tmp_path, HEADER + shape("rectangle", turned(corners, 1, 4)))
    assert found == [Box((1, 4, 1), (10, 5, 10))]


def edited(old, new):
    assert old in SHAPES
    return SHAPES.replace(old, new)


SLANTED = [(1, 2, 3), (1, 5, 3), (4, 5, 9), (4, 2, 9)]
WRONG = {
    "no layer": ("x,y,z\n1,2,3\n", "its first line is 'x,y,z'; expected what napari writes"),
    "no axes": ("index,x,y,z\n0,1,2,3\n", "its first line is"),
    "2D": ("index,axis-0,axis-1\n0,1,2\n", "the layer has 2 axes; expected 3"),
    "4D": ("index,axis-0,axis-1,axis-2,axis-3\n0,1,2,3,4\n", "the layer has 4 axes"),
    "no rows": (HEADER, "the layer is empty"),
    "text": (POINTS.replace("4.25", "four"), "point 2: a position is three numbers, got"),
    "NaN": (POINTS.replace("4.25", "nan"), "point 2: a position is three numbers, got"),
    "outside": (POINTS.replace("4.25", "14.6"), r"point 2: .* outside the image of \(19, 17, 15\)"),
    "cut off": (POINTS[:-11], "point 2: its row has 2 columns, the first line 4"),
    "shape cut off": (SHAPES[:-7], "shape 3: vertex 3: its row has 5 columns"),
    "shape of one cell": (SHAPES + "3", "shape 4: vertex 1: its row has 1 columns"),
    "rectangle cut off": (SHAPES[:130], "shape 1: it has 3 vertices; expected 4"),
    "unknown shape": (edited("line", "star"), "shape 2: its type is 'star'; expected one of rect"),
    "shape outside": (edited("2,4.0,5.0", "2,4.0,50"), "shape 1: .* outside the image"),
    "polygon outside": (
        HEADER + shape("polygon", turned([(-3, 3), (2, 9), (8, 9)], 2, 1)),
        "shape 1: .* outside the image",
    ),
    "ellipse outside": (
        HEADER + shape("ellipse", turned([(-3, 3), (-3, 9), (8, 9), (8, 3)], 2, 1)),
        "shape 1: .* outside the image",
    ),
    "slanted": (HEADER + shape("rectangle", SLANTED), "shape 1: its vertices lie on no common"),
    "slanted polygon": (HEADER + shape("polygon", SLANTED), "shape 1: its vertices lie on no"),
    "small polygon": (
        HEADER + shape("polygon", [(1.2, 1.2, 3), (1.2, 1.8, 3), (1.8, 1.8, 3)]),
        "shape 1: it holds no voxel's centre",
    ),
    "flat ellipse": (
        HEADER + shape("ellipse", turned([(2, 3), (2, 9), (2, 9), (2, 3)], 2, 1)),
        "shape 1: the ellipse has no area",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_layer_is_refused_with_file_and_point_or_shape(tmp_path, case):
    text, message = WRONG[case]
    with pytest.raises(PromptError, match=rf"layer\.csv: {message}"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "header",
    ["index,axis-1,axis-2,axis-3", "index,axis-0,axis-0,axis-1", "index,axis-x,axis-y,axis-z"],
)
def test_a_layer_without_the_axes_of_napari_is_refused(tmp_path, header):
    with pytest.raises(PromptError, match=r"its axes are .*; expected axis-0, axis-1, axis-2"):
        read(tmp_path, f"{header}\n0,1,2,3\n")


def test_an_endless_cell_is_refused(tmp_path):
    with pytest.raises(DataError, match="line 2: field larger than field limit"):
        read(tmp_path, POINTS.split("\n")[0] + "\n0," + "1" * 140_000 + ",2,3\n")


def test_more_points_or_vertices_than_anybody_draws_are_refused_at_once(tmp_path):
    start = time.process_time()
    with pytest.raises(PromptError, match="there are 300,000 prompts; expected at most 10,000"):
        read(tmp_path, POINTS.split("\n")[0] + "\n" + "0,1,2,3\n" * 300_000)
    with pytest.raises(PromptError, match="there are 60,000 vertices; expected at most 50,000"):
        read(tmp_path, HEADER + "0,path,0,1,2,3\n" * 60_000)
    assert time.process_time() - start < 10
