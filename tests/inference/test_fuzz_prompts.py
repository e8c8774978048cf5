"""Damaged files of prompts: every mutant is read, or refused with the package's own error."""

import json
import warnings
from contextlib import suppress

import nibabel as nib
import numpy as np
import pytest
from fuzz import failures

from wsicl_jax.data.images import Volume
from wsicl_jax.errors import WsiclError
from wsicl_jax.inference.inputs.external import read_prompts
from wsicl_jax.inference.inputs.request import read_context

SHAPE = (19, 17, 15)
VOLUME = Volume(np.zeros(SHAPE, np.float32), np.diag([0.5, 1, 3, 1]))
COUNTS = [50, pytest.param(2000, marks=pytest.mark.slow)]

WORDS = (
    *(b'"undefined"', b'"preview"', b'"Angle"', b'"ROI"', b'"ClosedCurve"', b'"LPS"', b'"RAS"'),
    *(b'"\\u0000"', b'"\\ud800"', b"NaN", b"Infinity", b"1e400", b'"a\\u0000.nii"', b"[[[[]]]]"),
    *(b'"points": [[0, 0, 0]]', b'"markups": ["a.nii"]', b'"mask": "/dev/zero"', b'"labels": [0]'),
    *(b"axis-0", b"axis-5", b"shape-type", b"polygon", b"ellipse", b"rectangle", b'"', b"index"),
    *(b"# CoordinateSystem = 1", b"# columns = x,x", b"1e308", b"-1e308", b"," * 100),
)


def markups() -> bytes:
    def points(status="defined"):
        places = [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 5.0, 9.0]]
        return [
            {"id": str(i), "position": p, "selected": True, "positionStatus": status}
            for i, p in enumerate(places)
        ]

    common = {"coordinateSystem": "RAS", "coordinateUnits": "mm"}
    region = {"center": [4.0, 8.0, 20.0], "size": [3.0, 4.0, 6.0], "insideOut": False}
    region["orientation"] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    kinds = [
        {"type": kind, **common, "controlPoints": points()}
        for kind in ("Fiducial", "Line", "Curve", "ClosedCurve")
    ]
    return json.dumps({"markups": [*kinds, {"type": "ROI", **common, **region}]}, indent=1).encode()


FCSV = b"""\
# Markups fiducial file version = 4.11
# CoordinateSystem = RAS
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
0,1.0,2.0,3.0,0,0,0,1,1,1,0,F-1,,
1,2.0,4.0,6.0,0,0,0,1,1,0,0,"F, 2",,
"""
POINTS = b"index,axis-0,axis-1,axis-2\r\n0.0,4.0,3.0,2.0\r\n1.0,8.0,0.0,4.25\r\n"
SHAPES = b"index,shape-type,vertex-index,axis-0,axis-1,axis-2\n" + b"".join(
    f"{number},{kind},{i},{x},{y},3\n".encode()
    for number, kind in enumerate(("rectangle", "ellipse", "line", "path", "polygon"))
    for i, (x, y) in enumerate(((2, 2), (2, 7), (8, 7), (8, 2)))
)
CONTEXT = json.dumps(
    {
        "version": 1,
        "coordinates": "voxel",
        "structures": {"liver": 1, "spleen": 2},
        "context": [
            {
                "image": "a.nii",
                "structure": "liver",
                "points": [[1, 2, 3], [4.5, 5, 6]],
                "scribbles": [[[1, 1, 1], [2, 2, 2]]],
                "boxes": [[[1, 4], [2, 5], [3, 4]]],
                "markups": ["a.mrk.json", "a.csv"],
                "markup_axes": "xyz",
            },
            {"image": "a.nii", "structure": "spleen", "mask": "a.nii", "labels": [1]},
        ],
    },
    indent=1,
).encode()


def read_markups(path):
    """The prompts of a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_prompts(path, VOLUME)


def read_request(path):
    """A context set with all its images, each of them whatever the others are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for examples in read_context(path).structures.values():
            for example in examples:
                with suppress(WsiclError):
                    example.load()


def image() -> bytes:
    label = np.zeros(SHAPE, np.uint8)
    label[3:8, 4:9, 5:10] = 1
    return nib.Nifti1Image(label, VOLUME.affine).to_bytes()


SEEDS = {
    "markups": [{"a.mrk.json": markups()}],
    "fcsv": [{"a.fcsv": FCSV}],
    "napari": [{"a.csv": POINTS}, {"a.csv": SHAPES}],
}
REQUEST = {"a.json": CONTEXT, "a.mrk.json": markups(), "a.csv": POINTS, "a.nii": image()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SEEDS)
def test_the_seeds_are_sound(tmp_path, name):
    for seed in SEEDS[name]:
        for file, content in seed.items():
            (tmp_path / file).write_bytes(content)
            assert read_prompts(tmp_path / file, VOLUME)


def test_the_seed_of_a_context_set_is_sound(tmp_path):
    for file, content in REQUEST.items():
        (tmp_path / file).write_bytes(content)
    (liver,) = read_context(tmp_path / "a.json").structures["liver"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(liver.load().prompts) > 4


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", SEEDS)
def test_a_damaged_file_of_prompts_is_refused_or_read(tmp_path, name, count):
    found = failures(read_markups, SEEDS[name], tmp_path, count=count, words=WORDS)
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_context_set_is_refused_or_read(tmp_path, count):
    found = failures(read_request, [REQUEST], tmp_path, count=count, words=WORDS)
    assert not found, "\n".join(map(str, found))
