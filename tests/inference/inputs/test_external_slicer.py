import contextlib
import itertools
import json
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsicl_jax.data.images import Volume
from wsicl_jax.errors import DataError, PromptError, WsiclError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.inference.inputs.external import read_prompts
from wsicl_jax.prompts import Point, Scribble

SHAPE = (19, 17, 15)
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
TURN = 0.4
OBLIQUE = np.array(
    [
        [0, -0.8 * np.cos(TURN), 3 * np.sin(TURN), 31],
        [-1.25, 0, 0, 42],
        [0, 0.8 * np.sin(TURN), 3 * np.cos(TURN), -55],
        [0, 0, 0, 1],
    ]
)
"""Permuted, flipped, oblique, and of unequal spacings 1.25, 0.8 and 3 mm."""

DISPLAY = {
    "visibility": True,
    "opacity": 1.0,
    "color": [0.4, 1.0, 1.0],
    "selectedColor": [1.0, 0.5000076295109483, 0.5000076295109483],
    "activeColor": [0.4, 1.0, 0.0],
    "propertiesLabelVisibility": False,
    "pointLabelsVisibility": True,
    "textScale": 3.0,
    "glyphType": "Sphere3D",
    "glyphScale": 3.0,
    "glyphSize": 5.0,
    "useGlyphScale": True,
    "sliceProjection": False,
    "sliceProjectionUseFiducialColor": True,
    "sliceProjectionOutlinedBehindSlicePlane": False,
    "sliceProjectionColor": [1.0, 1.0, 1.0],
    "sliceProjectionOpacity": 0.6,
    "lineThickness": 0.2,
    "lineColorFadingStart": 1.0,
    "lineColorFadingEnd": 10.0,
    "lineColorFadingSaturation": 1.0,
    "lineColorFadingHueOffset": 0.0,
    "handlesInteractive": False,
    "translationHandleVisibility": True,
    "rotationHandleVisibility": True,
    "scaleHandleVisibility": True,
    "interactionHandleScale": 3.0,
    "snapMode": "toVisibleSurface",
}
UPRIGHT = [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0]


def volume(affine=OBLIQUE):
    return Volume(np.zeros(SHAPE, np.float32), affine)


def world_of(*voxel, affine=OBLIQUE):
    return (affine @ [*voxel, 1])[:3]


def control_point(ras, number=1, system="LPS", **keys):
    signs = LPS_TO_RAS if system in ("LPS", "1") else 1
    return {
        "id": str(number),
        "label": f"F-{number}",
        "description": "",
        "associatedNodeID": "vtkMRMLScalarVolumeNode1",
        "position": (signs * np.array(ras)).tolist(),
        "orientation": UPRIGHT,
        "selected": True,
        "locked": False,
        "visibility": True,
        "positionStatus": "defined",
    } | keys


def markup(kind, control_points, system="LPS", **keys):
    """One markup with all that Slicer 5 writes."""
    return {
        "type": kind,
        "coordinateSystem": system,
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(control_points),
        **keys,
        "controlPoints": control_points,
        "measurements": [{"name": "length", "enabled": False, "printFormat": "%-#4.4g%s"}],
        "display": DISPLAY,
    }


def placed(kind, voxels, system="LPS"):
    return markup(
        kind,
        [control_point(world_of(*v), n, system) for n, v in enumerate(voxels, 1)],
        system,
    )


def region(centre, axes, size, system="LPS", **keys):
    """A region whose centre and axes (columns) are given in RAS+."""
    signs = LPS_TO_RAS if system in ("LPS", "1") else np.ones(3)
    return markup(
        "ROI",
        [control_point(centre, 1, system)],
        system,
        **{
            "roiType": "Box",
            "center": (signs * centre).tolist(),
            "orientation": (signs[:, None] * axes).ravel().tolist(),
            "size": np.array(size, float).tolist(),
            "insideOut": False,
            **keys,
        },
    )


SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)


def write(folder, *markups, name="F.mrk.json"):
    path = folder / name
    path.write_text(json.dumps({"@schema": SCHEMA, "markups": list(markups)}, indent=4))
    return path


def read(folder, *markups, affine=OBLIQUE):
    return read_prompts(write(folder, *markups), volume(affine))


def grid_axes(affine=OBLIQUE):
    """Directions of the grid's own axes; the second is turned round, as a rotation may need."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return axes * [1, np.sign(np.linalg.det(axes)), 1]


VOXELS = [(4, 3, 2), (18, 0, 14), (0, 16.25, 7)]
SPACING = np.array([1.25, 0.8, 3])


@pytest.mark.parametrize("system", ["LPS", "RAS", "1", "0"])
def test_points_lie_at_their_voxels_in_both_systems(tmp_path, system):
    found = read(tmp_path, placed("Fiducial", VOXELS, system))
    assert found == [Point(*map(float, voxel)) for voxel in VOXELS]


def test_a_file_as_slicer_saves_it_is_read(tmp_path):
    """Literally, so that it does not depend on how this test writes files."""
    path = tmp_path / "liver.mrk.json"
    path.write_text("""{
    "@schema": "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#",
    "markups": [
        {
            "type": "Fiducial",
            "coordinateSystem": "LPS",
            "coordinateUnits": "mm",
            "locked": false,
            "fixedNumberOfControlPoints": false,
            "labelFormat": "%N-%d",
            "lastUsedControlPointNumber": 2,
            "controlPoints": [
                {
                    "id": "1",
                    "label": "liver-1",
                    "description": "",
                    "associatedNodeID": "vtkMRMLScalarVolumeNode1",
                    "position": [-10.0, -4.5, 6.0],
                    "orientation": [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0],
                    "selected": true,
                    "locked": false,
                    "visibility": true,
                    "positionStatus": "defined"
                },
                {
                    "id": "2",
                    "label": "liver-2",
                    "description": "",
                    "associatedNodeID": "",
                    "position": [-12.0, -6.0, 9.0],
                    "orientation": [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0],
                    "selected": true,
                    "locked": false,
                    "visibility": true,
                    "positionStatus": "defined"
                }
            ],
            "measurements": [],
            "display": {
                "visibility": true,
                "opacity": 1.0,
                "color": [0.4, 1.0, 1.0],
                "snapMode": "toVisibleSurface"
            }
        }
    ]
}
""")
    found = read_prompts(path, volume(np.diag([2, 1.5, 3, 1])))
    assert found == [Point(5, 3, 2), Point(6, 4, 3)]


@pytest.mark.parametrize("system", ["LPS", "RAS"])
@pytest.mark.parametrize("kind", ["Line", "Curve", "ClosedCurve"])
def test_lines_are_scribbles_and_closed_ones_end_where_they_begin(tmp_path, kind, system):
    (found,) = read(tmp_path, placed(kind, VOXELS, system))
    path = [tuple(map(float, voxel)) for voxel in VOXELS]
    assert found == Scribble(tuple(path + path[:1] if kind == "ClosedCurve" else path))


@pytest.mark.parametrize("system", ["LPS", "RAS"])
@pytest.mark.parametrize(
    ("start", "stop"), [((2, 3, 4), (9, 16, 7)), ((0, 0, 0), SHAPE), ((5, 1, 14), (6, 3, 15))]
)
def test_a_region_along_the_grid_is_the_box_of_the_voxels_inside(tmp_path, start, stop, system):
    middle = (np.array(start) + stop) / 2 - 0.5
    size = (np.array(stop) - start) * SPACING
    found = read(tmp_path, region(world_of(*middle), grid_axes(), size, system))
    assert found == [Box(start, stop)]


def test_systems_agree_on_a_turned_region_that_the_box_goes_around(tmp_path):
    centre, size = world_of(9, 8, 7), np.array([4, 6, 9])
    turn = np.array([[0, 0.6, -0.8], [0, 0.8, 0.6], [1, 0, 0]])
    boxes = [read(tmp_path, region(centre, turn, size, system))[0] for system in ("LPS", "RAS")]
    assert boxes[0] == boxes[1]
    half = np.array(list(itertools.product((-0.5, 0.5), repeat=3))) * size
    corners = (centre + half @ turn.T - OBLIQUE[:3, 3]) @ np.linalg.inv(OBLIQUE[:3, :3]).T
    np.testing.assert_array_equal(boxes[0].start, np.floor(corners.min(axis=0) + 0.5))
    np.testing.assert_array_equal(boxes[0].stop, np.ceil(corners.max(axis=0) + 0.5))
    # Its columns, not its rows, are the region's axes.
    assert read(tmp_path, region(centre, turn.T, size)) != [boxes[0]]


@pytest.mark.parametrize("system", ["LPS", "RAS"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thickness", [0, 0.9])
def test_a_region_thinner_than_a_voxel_is_one_slice(tmp_path, axis, thickness, system):
    middle = np.array([9.0, 8.0, 7.0])
    middle[axis] += 0.45  # so that it reaches into the next slice
    size = 4 * SPACING
    size[axis] = thickness * SPACING[axis]
    (box,) = read(tmp_path, region(world_of(*middle), grid_axes(), size, system))
    assert (box.start[axis], box.stop[axis]) == (int(middle[axis]), int(middle[axis]) + 1)
    assert sorted(box.extent) == [1, 5, 5]


def test_a_flat_region_along_the_world_is_one_slice_of_an_oblique_image(tmp_path):
    # The third axis of the grid runs mainly upwards.
    (box,) = read(tmp_path, region(world_of(9, 8, 7), np.eye(3), (10, 6, 0)))
    assert (box.start[2], box.stop[2]) == (7, 8)
    assert box.extent[0] > 1 and box.extent[1] > 1


def test_the_centre_of_a_region_may_come_from_its_control_point_alone(tmp_path):
    whole = region(world_of(9, 8, 7), grid_axes(), 3 * SPACING)
    bare = {key: value for key, value in whole.items() if key != "center"}
    assert read(tmp_path, bare) == read(tmp_path, whole) == [Box((8, 7, 6), (11, 10, 9))]


def test_markups_of_a_file_come_in_their_order(tmp_path):
    found = read(
        tmp_path,
        placed("Line", VOXELS[:2]),
        region(world_of(9, 8, 7), grid_axes(), 3 * SPACING),
        placed("Fiducial", VOXELS),
    )
    assert [type(prompt) for prompt in found] == [Scribble, Box, Point, Point, Point]


def test_what_has_defaults_may_be_missing(tmp_path):
    position = (LPS_TO_RAS * world_of(4, 3, 2)).tolist()
    bare = {"type": "Fiducial", "controlPoints": [{"position": position}]}
    assert read(tmp_path, bare) == [Point(4, 3, 2)]
    coded = bare | {"coordinateUnits": ["mm", "UCUM", "millimeter"]}
    assert read(tmp_path, coded) == [Point(4, 3, 2)]


@pytest.mark.parametrize(
    "unused",
    [
        {"positionStatus": "undefined", "position": ""},
        {"positionStatus": "missing", "position": ""},
        {"positionStatus": "preview"},
        {"selected": False},
    ],
)
def test_control_points_that_are_skipped_are_counted_in_a_warning(tmp_path, unused):
    points = [
        control_point(world_of(4, 3, 2), 1),
        control_point(world_of(5, 5, 5), 2, **unused),
        control_point(world_of(6, 6, 6), 3),
    ]
    with pytest.warns(UserWarning, match=r"F\.mrk\.json: 2 control points are not selected or"):
        found = read(tmp_path, markup("Fiducial", points), markup("Curve", points))
    assert found == [Point(4, 3, 2), Point(6, 6, 6), Scribble(((4.0, 3.0, 2.0), (6.0, 6.0, 6.0)))]


def test_what_is_merely_hidden_counts(tmp_path):
    hidden = control_point(world_of(4, 3, 2), visibility=False, locked=True)
    assert read(tmp_path, markup("Fiducial", [hidden])) == [Point(4, 3, 2)]


def point(**keys):
    return markup("Fiducial", [control_point(world_of(4, 3, 2)), control_point((0, 0, 0), **keys)])


BLOCK = region(world_of(9, 8, 7), grid_axes(), 3 * SPACING)
GOOD = placed("Fiducial", VOXELS)
WRONG = {
    "plane": (markup("Plane", []), "type is 'Plane'; expected one of Fiducial"),
    "angle": (placed("Angle", VOXELS), "type is 'Angle'"),
    "no type": ({"controlPoints": []}, "type is None"),
    "type of a list": ({"type": ["ROI"]}, r"type is \['ROI'\]"),
    "no markup": ("Fiducial", "it is 'Fiducial'; expected an object"),
    "system": (GOOD | {"coordinateSystem": "IJK"}, "coordinate system is 'IJK'; expected LPS or"),
    "units": (GOOD | {"coordinateUnits": "um"}, "coordinateUnits are 'um'; expected mm"),
    "points of a wrong type": (GOOD | {"controlPoints": {}}, "controlPoints is {}; .* a list"),
    "point of a wrong type": (GOOD | {"controlPoints": [[1, 2, 3]]}, "control point 1: it is"),
    "outside": (point(position=[500, 0, 0]), r"control point 2: \[-500.0, -?0.0, 0.0\] mm \(RAS"),
    "two numbers": (point(position=[1, 2]), r"control point 2: .* three numbers, got \[1, 2\]"),
    "text": (point(position=["1", "2", "3"]), "control point 2: .* three numbers"),
    "NaN": (point(position=[1, 2, np.nan]), "control point 2: .* three numbers"),
    "no position": (point(position=None), "control point 2: .* three numbers, got None"),
    "status": (point(positionStatus="set"), "control point 2: positionStatus is 'set'"),
    "selected": (point(selected="yes"), "control point 2: selected is 'yes'; expected true"),
    "region without size": (BLOCK | {"size": None}, "size of a region is three numbers"),
    "negative size": (BLOCK | {"size": [1, -2, 3]}, r"size is \[1.0, -2.0, 3.0\]"),
    "no centre": (BLOCK | {"center": None, "controlPoints": []}, "center of a region is three"),
    "no rotation": (BLOCK | {"orientation": [0.0] * 9}, "orientation .* is no rotation"),
    "short orientation": (BLOCK | {"orientation": [1.0]}, "orientation of a region is nine"),
    "inside out": (BLOCK | {"insideOut": True}, "the region is inside out"),
    "region outside": (BLOCK | {"size": [90, 1, 1]}, "a region of 90 x 1 x 1 mm is voxels .* leav"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_markup_is_refused_with_file_markup_and_control_point(tmp_path, case):
    wrong, message = WRONG[case]
    with pytest.raises(PromptError, match=rf"F\.mrk\.json: markup 2: {message}"):
        read(tmp_path, GOOD, wrong)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ('{"markups": [{"type": "Fidu', DataError, "no JSON, it may be damaged or cut off"),
        ("[" * 100_000, DataError, "no JSON"),
        ("[]", PromptError, r"it is \[\]; expected an object"),
        ('{"markups": {}}', PromptError, "markups is {}; expected a list"),
        ("{}", PromptError, "markups is None; expected a list"),
        ('{"markups": []}', PromptError, "holds no prompt"),
        ('{"markups": [{"type": "Fiducial"}]}', PromptError, "holds no prompt"),
        ('{"context": []}', PromptError, "names a context set"),
        (" \n", DataError, "empty"),
        (b"\xff\xfe\x00{", DataError, "no text in UTF-8"),
    ],
)
def test_a_file_that_holds_no_markups_is_refused(tmp_path, content, kind, message):
    path = tmp_path / "F.mrk.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(kind, match=rf"F\.mrk\.json: {message}"):
        read_prompts(path, volume())


def test_a_file_whose_points_are_all_skipped_says_why(tmp_path):
    with pytest.raises(PromptError, match="holds no prompt: 1 control points are not selected"):
        read(tmp_path, markup("Fiducial", [control_point((0, 0, 0), selected=False)]))


FCSV = """# Markups fiducial file version = 4.11
# CoordinateSystem = {}
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
vtkMRMLMarkupsFiducialNode_0,{},0,0,0,1,1,1,0,F-1,,vtkMRMLScalarVolumeNode1
vtkMRMLMarkupsFiducialNode_1,{},0,0,0,1,1,{},0,"F, 2",,
"""


def fcsv(folder, system, *voxels, selected=1):
    signs = LPS_TO_RAS if system in ("LPS", "1") else 1
    rows = [",".join(map(repr, (signs * world_of(*v)).tolist())) for v in voxels]
    path = folder / "F.fcsv"
    path.write_text(FCSV.format(system, *rows, selected))
    return path


@pytest.mark.parametrize("system", ["0", "RAS", "1", "LPS"])
def test_older_lists_of_points_lie_at_their_voxels_in_both_systems(tmp_path, system):
    found = read_prompts(fcsv(tmp_path, system, *VOXELS[1:]), volume())
    assert found == [Point(*map(float, voxel)) for voxel in VOXELS[1:]]


def test_points_of_an_older_list_that_are_not_selected_are_counted_in_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"F\.fcsv: 1 control points"):
        found = read_prompts(fcsv(tmp_path, "LPS", *VOXELS[:2], selected=0), volume())
    assert found == [Point(4, 3, 2)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# CoordinateSystem = LPS\n", "", "has no line '# CoordinateSystem = LPS'"),
        ("= LPS", "= 2", "coordinate system is '2'"),
        ("id,x,y,z", "id,l,p,s", r"its columns are .*; \['x', 'y', 'z'\] are missing"),
        ("_1,", "_1,left,", "point 2: a position is three numbers, got"),
        ("_1,", "_1,nan,", "point 2: a position is three numbers, got"),
        ("_1,", "_1,1e3,", "point 2: .* outside the image"),
    ],
)
def test_a_wrong_older_list_is_refused_with_the_point(tmp_path, old, new, message):
    path = fcsv(tmp_path, "LPS", *VOXELS[:2])
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(PromptError, match=rf"F\.fcsv: {message}"):
        read_prompts(path, volume())


def _places(value, path=()):
    """All places of a JSON document."""
    yield path
    if isinstance(value, dict | list):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield from _places(value[key], (*path, key))


ODD = st.sampled_from([None, True, 0, -1.5, 1e300, np.nan, "", "x", [], [1, 2, 3], {}, {"a": 1}])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(data=st.data())
def test_whatever_stands_in_a_file_only_errors_of_use_come(tmp_path, data):
    document = json.loads(json.dumps({"markups": [GOOD, BLOCK, placed("Curve", VOXELS)]}))
    place = data.draw(st.sampled_from(list(_places(document))))
    odd = data.draw(ODD)
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    if place:
        holder[place[-1]] = odd
    path = tmp_path / "F.mrk.json"
    path.write_text(json.dumps(document if place else odd))
    with contextlib.suppress(WsiclError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_prompts(path, volume())


def test_more_control_points_than_anybody_sets_are_refused_at_once(tmp_path):
    for count, message in ((10_001, "10,001 prompts"), (60_000, "60,000 control points")):
        points = [{"position": [0, 0, 0]}] * count
        file = tmp_path / "F.mrk.json"
        markup = {"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": points}
        file.write_text(json.dumps({"markups": [markup]}))
        with pytest.raises(PromptError, match=f"there are {message}"):
            read_prompts(file, volume())


def test_an_endless_cell_of_a_list_of_points_is_refused(tmp_path):
    file = tmp_path / "F.fcsv"
    file.write_text("# CoordinateSystem = RAS\n0," + "1" * 140_000 + ",2,3\n")
    with pytest.raises(DataError, match=r"no table.*field larger than field limit"):
        read_prompts(file, volume())


def test_a_region_beyond_all_bounds_is_refused(tmp_path):
    file = tmp_path / "R.mrk.json"
    region = {"type": "ROI", "center": [1e308, -1e308, 1e308], "size": [1e308, 1, 1]}
    file.write_text(json.dumps({"markups": [region]}))
    with warnings.catch_warnings(), pytest.raises(PromptError, match="markup 1: "):
        warnings.simplefilter("ignore")  # of numbers that overflow
        read_prompts(file, volume())


@pytest.mark.parametrize("status", ["undefined", "preview", "missing"])
def test_a_control_point_without_position_is_reported_also_where_others_have_one(tmp_path, status):
    inside = world_of(3, 4, 5).tolist()
    points = [{"position": inside}, {"position": inside, "positionStatus": status}]
    for kind in ("Fiducial", "Curve"):
        file = tmp_path / f"{kind}.mrk.json"
        markup = {"type": kind, "coordinateSystem": "RAS", "controlPoints": points}
        file.write_text(json.dumps({"markups": [markup]}))
        with pytest.warns(UserWarning, match="1 control points are not selected or have no pos"):
            read_prompts(file, volume())
