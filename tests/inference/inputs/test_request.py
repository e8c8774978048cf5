import importlib.resources
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.errors import DataError, PromptError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.inference.inputs.request import read_context, schema
from wsicl_jax.prompts import Negative, Point, Scribble

SHAPE = (9, 7, 5)
LPS = np.array([[-1.5, 0, 0, 20], [0, -0.75, 0, 7.5], [0, 0, 3, 100], [0, 0, 0, 1]])


def save(path, array, affine=LPS):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def label():
    array = np.zeros(SHAPE, np.uint8)
    array[2:4, 1:5, 3] = 1
    array[5:8, 2:4, 1:3] = 2
    array[0, 0, 0] = 7
    return array


@pytest.fixture
def folder(tmp_path):
    """Two subjects in `images`, the masks and prompts of other tools beside the request."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in ("sub1", "sub2"):
        save(tmp_path / f"images/{name}.nii.gz", rng.random(SHAPE, np.float32))
        save(tmp_path / f"{name}_label.nii.gz", label())
    (tmp_path / "sub1.csv").write_text("index,axis-0,axis-1,axis-2\n0,2,3,4\n")
    return tmp_path


def entry(name="sub1", **keys):
    return {"image": f"images/{name}.nii.gz"} | keys


def write(folder, request):
    path = folder / "context.json"
    path.write_text(request if isinstance(request, str) else json.dumps(request))
    return path


def read(folder, *entries, **keys):
    return read_context(write(folder, {"context": list(entries)} | keys))


def examples(folder, *entries, **keys):
    (found,) = read(folder, *entries, **keys).structures.values()
    return found


POINT = entry(points=[[0, 0, 0]])
MASK = entry("sub2", mask="sub2_label.nii.gz")


def test_points_scribbles_boxes_and_masks_are_read_in_the_files_axis_order(folder):
    path = [[4, 3.5, 2], [0, 0, 2]]
    prompts = {"points": [[4, 3.5, 2]], "scribbles": [path], "boxes": [[[1, 5], [2, 6], [3, 4]]]}
    first, second = [example.load() for example in examples(folder, entry(**prompts), MASK)]
    assert first.prompts == [
        Point(4.0, 3.5, 2.0),
        Scribble(tuple(map(tuple, path))),
        Box((1, 2, 3), (5, 6, 4)),
    ]
    np.testing.assert_array_equal(first.volume.affine, LPS)
    np.testing.assert_array_equal(second.prompts[0], label() > 0)
    assert not np.array_equal(first.volume.image, second.volume.image)


def test_coordinates_in_mm_hold_for_points_scribbles_and_boxes(folder):
    prompts = {
        "points": [[17, 5.25, 106]],
        "scribbles": [[[20, 7.5, 100], [17, 5.25, 106]]],
        "boxes": [[[14, 17], [5.25, 6], [106, 106]]],
    }
    (example,) = examples(folder, entry(**prompts), coordinates="mm")
    assert example.load().prompts == [
        Point(2, 3, 2),
        Scribble(((0.0, 0.0, 0.0), (2.0, 3.0, 2.0))),
        Box((2, 2, 2), (5, 4, 3)),
    ]


def test_labels_choose_what_the_mask_marks(folder):
    (example,) = examples(folder, entry(mask="sub1_label.nii.gz", labels=[1, 7]))
    np.testing.assert_array_equal(example.load().prompts[0], np.isin(label(), [1, 7]))


def test_prompts_of_other_tools_are_read_from_their_files(folder):
    keys = {"markups": ["sub1.csv", "sub2_label.nii.gz"]}
    plain, turned = examples(folder, entry(**keys), entry(markup_axes="zyx", **keys))
    assert [e.load().prompts[0] for e in (plain, turned)] == [Point(2, 3, 4), Point(4, 3, 2)]
    assert len(plain.load().prompts) == 4


def test_paths_may_be_absolute(folder):
    image = str(folder / "images/sub1.nii.gz")
    (example,) = examples(folder, {"image": image, "points": [[0, 0, 0]]})
    assert example.load().prompts


def test_examples_know_the_files_that_they_come_from(folder):
    (example,) = examples(folder, entry(mask="sub1_label.nii.gz", markups=["sub1.csv"]))
    names = ("images/sub1.nii.gz", "sub1_label.nii.gz", "sub1.csv")
    assert example.files == tuple(folder / name for name in names)


def test_images_are_not_read_before_they_are_needed(folder):
    (example,) = examples(folder, entry("sub3", points=[[0, 0, 0]]))
    message = rf"^{folder}/context\.json: context 1: image: .*sub3\.nii\.gz is missing"
    with pytest.raises(DataError, match=message):
        example.load()


def test_what_lies_outside_is_reported_with_file_entry_and_key(folder):
    _, example = examples(folder, POINT, entry("sub2", points=[[0, 0, 0], [4, 7, 0]]))
    message = rf"^{folder}/context\.json: context 2: points 2: \[4.0, 7.0, 0.0\] voxel .* outside"
    with pytest.raises(PromptError, match=message):
        example.load()


def test_nobody_has_to_name_a_single_structure(folder):
    context = read(folder, POINT, MASK)
    assert context.values == {"structure": 1}
    assert [len(found) for found in context.structures.values()] == [2]


def test_structures_have_values_in_the_order_of_their_appearance(folder):
    context = read(
        folder,
        POINT | {"structure": "spleen"},
        MASK | {"structures": {"liver": [1], "spleen": [2, 7]}},
    )
    assert context.values == {"spleen": 1, "liver": 2}
    assert list(context.structures) == ["spleen", "liver"]
    assert [len(found) for found in context.structures.values()] == [2, 1]
    spleen, liver = context.structures["spleen"][1].load(), context.structures["liver"][0].load()
    np.testing.assert_array_equal(spleen.prompts[0], np.isin(label(), [2, 7]))
    np.testing.assert_array_equal(liver.prompts[0], label() == 1)


def test_values_may_be_chosen(folder):
    context = read(
        folder,
        POINT | {"structure": "liver"},
        MASK | {"structure": "spleen"},
        structures={"liver": 5, "spleen": 2},
    )
    assert context.values == {"liver": 5, "spleen": 2}
    assert list(context.structures) == ["spleen", "liver"]


def test_the_name_of_an_only_structure_need_not_be_repeated(folder):
    context = read(folder, POINT, structures={"liver": 3})
    assert list(context.structures) == ["liver"] and context.values == {"liver": 3}


def test_the_network_that_a_file_names_changes_nothing_but_itself(folder):
    plain, named = read(folder, POINT), read(folder, POINT, network="small", software="x 1")
    assert (plain.network, named.network) == (None, "small")
    assert repr(replace(named, network=None)) == repr(plain)


NAMED = {"structures": {"liver": 2, "spleen": 5}}
LIVER, SPLEEN = POINT | {"structure": "liver"}, MASK | {"structure": "spleen"}
VALID = {
    "first version": {"coordinates": "voxel", "context": [POINT, MASK]},
    "all keys": {
        "$schema": "prompts.schema.json",
        "version": 1,
        "network": "small",
        "software": "wsicl_jax 0.1.0",
        "coordinates": "mm",
        **NAMED,
        "context": [
            LIVER | {"scribbles": [[[1, 2, 3.5]]], "boxes": [[[1, 5], [2, 6.5], [3, 3]]]},
            SPLEEN | {"labels": [1], "markups": ["sub1.csv"], "markup_axes": "zyx"},
            MASK | {"structures": {"liver": [1], "spleen": [2, 3]}},
        ],
    },
}


@pytest.mark.parametrize("name", VALID)
def test_what_is_documented_is_valid_by_the_reader_and_the_schema(folder, name):
    read_context(write(folder, VALID[name]))
    jsonschema.validate(VALID[name], schema())


def second(**keys):
    return {"context": [POINT, entry("sub2", **keys)]}


FORMED = {
    "unknown key": ({"contexts": [POINT]}, "unknown key 'contexts'; nearest is 'context'"),
    "unknown key of an entry": (
        second(point=[[0, 0, 0]]),
        "context 2: unknown key 'point'; nearest is 'points'",
    ),
    "no context": ({}, "key 'context' is missing"),
    "empty context": ({"context": []}, "context: .*at least 1"),
    "no list": ({"context": POINT}, "context: .*array"),
    "no object": ([POINT], ".*object"),
    "unknown version": ({"version": 2, "context": [POINT]}, "version: .*1, got 2"),
    "network of a wrong type": ({"network": 3, "context": [POINT]}, "network: .*string, got 3"),
    "unknown coordinates": (
        {"coordinates": "lps", "context": [POINT]},
        "coordinates: .*'voxel' or 'mm', got 'lps'",
    ),
    "no image": ({"context": [POINT, {"points": [[0, 0, 0]]}]}, "context 2: key 'image'"),
    "image of a wrong type": ({"context": [{"image": 3}]}, "context 1: image: .*string, got 3"),
    "image without name": ({"context": [{"image": ""}]}, "context 1: image: .*at least 1"),
    "point without list": (second(points=[4, 3, 2]), "context 2: points 1: .*got 4"),
    "point of two numbers": (second(points=[[1, 2, 3], [4, 3]]), "context 2: points 2"),
    "point of four numbers": (second(points=[[1, 2, 3, 4]]), "context 2: points 1: .*at most 3"),
    "point of text": (second(points=[[1, 2, "3"]]), "context 2: points 1: .*number, got '3'"),
    "empty scribble": (second(scribbles=[[]]), "context 2: scribbles 1: .*at least 1"),
    "box of two axes": (second(boxes=[[[1, 2], [3, 4]]]), "context 2: boxes 1"),
    "box as corners": (second(boxes=[[[1, 2, 3], [3, 4, 5]]]), "context 2: boxes 1: .*at most 2"),
    "box of six numbers": (
        second(boxes=[[9, 22, 29, 30, 10, 18]]),
        r"context 2: boxes 1: .*; a box is three ranges, \[\[x0, x1\], \[y0, y1\], \[z0, z1\]\]",
    ),
    "no prompt": (
        second(),
        "context 2: image has no prompt; give points, scribbles, boxes, mask or markups",
    ),
    "empty prompts": (second(points=[], markups=[]), "context 2: image has no prompt"),
    "labels without mask": (
        second(points=[[0, 0, 0]], labels=[1]),
        "context 2: labels: .*mask is missing",
    ),
    "no labels": (second(mask="sub2_label.nii.gz", labels=[]), "context 2: labels: .*at least 1"),
    "background": (second(mask="sub2_label.nii.gz", labels=[1, 0]), "context 2: labels 2: .*got 0"),
    "label of text": (
        second(mask="sub2_label.nii.gz", labels=["1"]),
        "context 2: labels 1: .*integer, got '1'",
    ),
    "markup without list": (second(markups="sub1.csv"), "context 2: markups: .*array"),
    "unknown axes": (
        second(markups=["sub1.csv"], markup_axes="xzy"),
        "context 2: markup_axes: .*'xyz' or 'zyx', got 'xzy'",
    ),
    "axes of nothing": (
        second(points=[[0, 0, 0]], markup_axes="zyx"),
        "context 2: markup_axes: there are no markups",
    ),
    "structure without name": (second(points=[[0, 0, 0]], structure=""), "context 2: structure: "),
    "structures without mask": (
        second(points=[[0, 0, 0]], structures={"liver": [1]}),
        "context 2: structures: .* mask is missing",
    ),
    "structures beside others": (
        second(mask="sub2_label.nii.gz", structures={"a": [1]}, labels=[2], points=[[0, 0, 0]]),
        "context 2: structures: it goes with mask alone, not with labels, points",
    ),
    "structures without labels": (
        second(mask="sub2_label.nii.gz", structures={"liver": []}),
        "context 2: structures: liver: .*at least 1",
    ),
    "value of zero": ({"structures": {"liver": 0}, "context": [LIVER]}, "structures: liver: .*got"),
    "large value": ({"structures": {"liver": 2**16}, "context": [LIVER]}, "structures: liver: .*"),
    "no structures": ({"structures": {}, "context": [LIVER]}, "structures: .*at least 1"),
}
"""What the schema finds too."""

MEANT = {
    "point of NaN": (second(points=[[1, 2, np.nan]]), "context 2: points 1: .*finite"),
    "two of a value": (
        {"structures": {"liver": 2, "spleen": 2}, "context": [LIVER, SPLEEN]},
        "structures: two have the same value",
    ),
    "unknown structure": (
        NAMED | {"context": [LIVER, SPLEEN, MASK | {"structure": "{livr}"}]},
        r"context 3: structure '\{livr\}' is not among structures, which are \['liver', 'spleen'\]",
    ),
    "unnamed structure": (
        NAMED | {"context": [LIVER, SPLEEN, MASK]},
        "context 3: structure 'structure' is not among structures",
    ),
    "structure not shown": (
        NAMED | {"context": [LIVER]},
        "structures: no context image shows 'spleen'",
    ),
    "twice a key": (
        '{"context": [{"image": "a.nii", "points": [[0, 0, 0]], "points": [[1, 1, 1]]}]}',
        "key 'points' is repeated",
    ),
}


@pytest.mark.parametrize("name", [*FORMED, *MEANT])
def test_a_wrong_request_is_refused_with_file_entry_and_key(folder, name):
    request, message = (FORMED | MEANT)[name]
    path = write(folder, request)
    with pytest.raises(PromptError, match=f"^{path}: {message}") as refused:
        read_context(path)
    assert len(str(refused.value).removeprefix(str(path))) < 250


@pytest.mark.parametrize("name", FORMED)
def test_the_schema_finds_what_is_wrong_with_the_form(name):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(FORMED[name][0], schema())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON"),
        ("", "no JSON"),
        ('{"context": [}', "no JSON: .*line 1 column 14"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_file_that_is_no_json_is_refused(folder, content, message):
    path = write(folder, content)
    with pytest.raises(DataError, match=f"^{path}: {message}"):
        read_context(path)


def test_bytes_that_are_no_text_are_refused(folder):
    path = folder / "context.json"
    path.write_bytes(b'{"context": "\xff\xfe"}')
    with pytest.raises((DataError, PromptError), match=f"^{path}: "):
        read_context(path)


def test_a_missing_request_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: cannot be read: No such file"):
        read_context(tmp_path / "none.json")


def test_the_published_schema_is_what_the_reader_says():
    published = importlib.resources.files("wsicl_jax.inference.inputs") / "prompts.schema.json"
    assert json.loads(published.read_text()) == schema(), (
        "write json.dumps(schema(), indent=2) to wsicl_jax/inference/inputs/prompts.schema.json"
    )


def test_the_schema_is_of_draft_2020_12_and_describes_each_key():
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for model in (found, *found["$defs"].values()):
        assert all(key["description"] for key in model["properties"].values())


def test_examples_of_the_documentation_are_valid(folder):
    documentation = (Path(__file__).parents[3] / "docs/how-to/prompts.md").read_text()
    blocks = re.findall(r"```json\n(.*?)```", documentation, re.DOTALL)
    assert blocks
    for block in blocks:
        jsonschema.validate(json.loads(block), schema())
        read_context(write(folder, block))


def test_paths_with_nul_and_endless_numbers_are_refused(folder):
    odd = {"image": "a\0.nii.gz", "points": [[0, 0, 0]]}
    with pytest.raises(DataError, match="an invalid character"):
        read_context(write(folder, json.dumps({"context": [odd]})))
    with pytest.raises(DataError, match="a number has 6,000 digits"):
        read_context(write(folder, '{"version": ' + "9" * 6000 + "}"))


def test_more_prompts_than_anybody_clicks_are_refused_at_once(folder):
    million = json.dumps([[1, 2, 3]] * 1_000_000)
    path = write(folder, f'{{"context": [{{"image": "a.nii", "points": {million}}}]}}')
    start = time.process_time()
    with pytest.raises(PromptError, match=r"context 1: points: .*at most 10000"):
        read_context(path)
    assert time.process_time() - start < 10


def test_negative_prompts_of_a_file_are_those_of_an_example(folder):
    keys = {
        "points": [[0, 0, 0]],
        "negative_points": [[4, 3.5, 2]],
        "negative_scribbles": [[[0, 0, 1], [4, 4, 1]]],
        "negative_markups": ["sub1.csv"],
    }
    (example,) = examples(folder, entry(**keys))
    assert example.load().prompts[1:] == [
        Negative(Point(4.0, 3.5, 2.0)),
        Negative(Scribble(((0.0, 0.0, 1.0), (4.0, 4.0, 1.0)))),
        Negative(Point(2.0, 3.0, 4.0)),
    ]
