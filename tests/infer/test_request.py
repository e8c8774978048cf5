import itertools
import json

import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.axes import Box
from wsicl_jax.config import VolumeConfig
from wsicl_jax.errors import DataError, PromptError
from wsicl_jax.infer.request import example_with_mask, read_context
from wsicl_jax.infer.segmenter import Segmenter
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
POINTS = [[4, 3, 2], [8, 0, 4], [0, 6, 0]]
BOXES = [[[1, 5], [2, 6], [3, 4]], [[0, 9], [6, 7], [0, 5]], [[8, 9], [1, 4], [0, 3]]]


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
    """Two subjects in `images`, the masks beside the request."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in ("sub1", "sub2"):
        save(tmp_path / f"images/{name}.nii.gz", rng.random(SHAPE, np.float32))
        save(tmp_path / f"{name}_label.nii.gz", label())
    return tmp_path


def entry(name="sub1", **keys):
    return {"image": f"images/{name}.nii.gz"} | keys


def write(folder, request):
    path = folder / "context.json"
    path.write_text(request if isinstance(request, str) else json.dumps(request))
    return path


def read(folder, *entries, **keys):
    return read_context(write(folder, {"context": list(entries)} | keys))


def test_points_boxes_and_masks_are_read_in_the_files_axis_order(folder):
    first, second = read(
        folder,
        entry(points=[[4, 3.5, 2]], boxes=[[[1, 5], [2, 6], [3, 4]]]),
        entry("sub2", mask="sub2_label.nii.gz"),
    )
    assert first.prompts == [Point(4.0, 3.5, 2.0), Box((1, 2, 3), (5, 6, 4))]
    assert first.volume.image.shape == SHAPE
    np.testing.assert_array_equal(first.volume.affine, LPS)
    np.testing.assert_array_equal(second.prompts[0], label() > 0)
    assert not np.array_equal(first.volume.image, second.volume.image)


def test_labels_choose_what_the_mask_marks(folder):
    (example,) = read(folder, entry(mask="sub1_label.nii.gz", labels=[1, 7]))
    np.testing.assert_array_equal(example.prompts[0], np.isin(label(), [1, 7]))


def test_paths_may_be_absolute(folder):
    image = str(folder / "images/sub1.nii.gz")
    assert len(read(folder, {"image": image, "points": [[0, 0, 0]]})) == 1


def test_a_mask_file_marks_every_voxel_that_is_not_zero(folder):
    files = folder / "images/sub1.nii.gz", folder / "sub1_label.nii.gz"
    example = example_with_mask(*files)
    np.testing.assert_array_equal(example.prompts[0], label() > 0)
    np.testing.assert_array_equal(example.volume.image, nib.load(files[0]).get_fdata())


def test_examples_know_the_files_that_they_were_read_from(folder):
    image, mask = folder / "images/sub1.nii.gz", folder / "sub1_label.nii.gz"
    pointed, masked = read(folder, entry(points=[[0, 0, 0]]), entry(mask="sub1_label.nii.gz"))
    assert list(pointed.files) == [image]
    assert list(masked.files) == [image, mask]
    assert list(example_with_mask(str(image), str(mask)).files) == [image, mask]


def world_of(affine, *voxel):
    return (affine @ [*voxel, 1])[:3]


def in_mm(ranges, affine):
    """World ranges of the outer faces of a box of voxels."""
    faces = [(low - 0.5, high - 0.5) for low, high in ranges]
    corners = np.array([world_of(affine, *c) for c in itertools.product(*faces)])
    return np.stack([corners.min(axis=0), corners.max(axis=0)], axis=1).round(4).tolist()


@pytest.mark.parametrize("affine", [LPS, PERMUTED, np.diag([0.3, 0.3, 0.9, 1])])
def test_voxels_and_mm_paint_the_same_channels(model, tmp_path, affine):
    save(tmp_path / "a.nii", np.random.default_rng(0).random(SHAPE, np.float32), affine)
    points = [world_of(affine, *p).round(4).tolist() for p in POINTS]
    boxes = [in_mm(box, affine) for box in BOXES]
    voxel = read(tmp_path, {"image": "a.nii", "points": POINTS, "boxes": BOXES})
    mm = read(tmp_path, {"image": "a.nii", "points": points, "boxes": boxes}, coordinates="mm")
    assert mm[0].prompts[3:] == voxel[0].prompts[3:]
    segmenter = Segmenter(model, VolumeConfig(grid=(8, 4, 6)))
    np.testing.assert_array_equal(segmenter.context(mm).prompts, segmenter.context(voxel).prompts)


def box_in_mm(folder, ranges, affine):
    save(folder / "a.nii", np.zeros(SHAPE, np.float32), affine)
    (example,) = read(folder, {"image": "a.nii", "boxes": [ranges]}, coordinates="mm")
    return example.prompts[0]


@pytest.mark.parametrize(
    ("ranges", "start", "stop"),
    [
        ([[2.6, 4.4], [0, 0], [1, 2]], (3, 0, 1), (5, 1, 3)),
        ([[2.4, 4.6], [0.4, 0.4], [1.6, 2]], (2, 0, 2), (6, 1, 3)),
        ([[2.5, 4.5], [0.6, 0.6], [1.2, 1.3]], (3, 1, 1), (5, 2, 2)),
    ],
)
def test_a_box_in_mm_covers_the_voxels_whose_cells_it_meets(tmp_path, ranges, start, stop):
    assert box_in_mm(tmp_path, ranges, np.eye(4)) == Box(start, stop)


def test_a_flat_box_in_mm_is_one_slice_also_on_a_turned_grid(tmp_path):
    middle = world_of(OBLIQUE, 4, 3, 2)
    ranges = [[m - e, m + e] for m, e in zip(middle.tolist(), (0, 1.8, 2.5), strict=True)]
    box = box_in_mm(tmp_path, ranges, OBLIQUE)
    # World x runs mainly along the first axis of the file.
    assert (box.start[0], box.stop[0]) == (4, 5)
    assert box.extent[1] > 1 and box.extent[2] > 1


POINT = entry(points=[[0, 0, 0]])


def second(**keys):
    return {"context": [POINT, entry("sub2", **keys)]}


def second_mm(**keys):
    return {"coordinates": "mm", "context": [entry(mask="sub1_label.nii.gz"), entry(**keys)]}


WRONG = {
    "unknown key": ({"contexts": []}, "unknown key 'contexts'; nearest is 'context'"),
    "unknown key of an entry": (
        second(point=[[0, 0, 0]]),
        "context 2: unknown key 'point'; nearest is 'points'",
    ),
    "no context": ({}, "key 'context' is missing"),
    "empty context": ({"context": []}, "context: .*at least 1"),
    "no list": ({"context": POINT}, "context: .*array"),
    "no object": ([POINT], ".*object"),
    "unknown coordinates": (
        {"coordinates": "lps", "context": [POINT]},
        "coordinates: .*'voxel' or 'mm', got 'lps'",
    ),
    "no image": ({"context": [POINT, {"points": [[0, 0, 0]]}]}, "context 2: key 'image'"),
    "image of a wrong type": ({"context": [{"image": 3}]}, "context 1: image: .*string, got 3"),
    "point without list": (second(points=[4, 3, 2]), "context 2: points 1: .*got 4"),
    "point of two numbers": (second(points=[[1, 2, 3], [4, 3]]), "context 2: points 2"),
    "point of four numbers": (second(points=[[1, 2, 3, 4]]), "context 2: points 1: .*at most 3"),
    "point of text": (second(points=[[1, 2, "3"]]), "context 2: points 1: .*number, got '3'"),
    "point of NaN": (second(points=[[1, 2, np.nan]]), "context 2: points 1: .*finite"),
    "point outside": (
        second(points=[[0, 0, 0], [4, 7, 0]]),
        r"context 2: points 2: \[4.0, 7.0, 0.0\] voxel .* outside the image of \(9, 7, 5\)",
    ),
    "point outside in mm": (
        second_mm(points=[[20, 7.5, 100], [5, 8.625, 106]]),
        r"context 2: points 2: \[5.0, 8.625, 106.0\] mm is at voxel \(10, -1.5, 2\), outside",
    ),
    "box of two axes": (second(boxes=[[[1, 2], [3, 4]]]), "context 2: boxes 1"),
    "box as corners": (second(boxes=[[[1, 2, 3], [3, 4, 5]]]), "context 2: boxes 1: .*at most 2"),
    "empty box": (second(boxes=[[[1, 1], [3, 4], [0, 2]]]), "context 2: boxes 1: .* is empty"),
    "reversed box": (second(boxes=[[[2, 1], [3, 4], [0, 2]]]), "context 2: boxes 1: .*reversed"),
    "reversed box in mm": (
        second_mm(boxes=[[[20, 10], [3, 4], [100, 102]]]),
        "context 2: boxes 1: .* mm has a reversed range",
    ),
    "fractional box": (second(boxes=[[[1, 2.5], [3, 4], [0, 2]]]), "context 2: boxes 1: .*whole"),
    "box outside": (
        second(boxes=[[[1, 10], [3, 4], [0, 2]]]),
        r"context 2: boxes 1: .*leaves the image of \(9, 7, 5\)",
    ),
    "box outside in mm": (
        second_mm(boxes=[[[10, 15], [3, 4], [90, 102]]]),
        r"context 2: boxes 1: .* mm is voxels \(3, 5, -3\) to \(8, 7, 2\), which leaves",
    ),
    "no prompt": (
        second(),
        "context 2: image has no prompt; give points, scribbles, boxes or mask",
    ),
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
    "absent label": (
        second(mask="sub2_label.nii.gz", labels=[3, 4]),
        r"context 2: mask: .*sub2_label.* no voxel of labels \[3, 4\]; it has labels \[1, 2, 7\]",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_refused_with_file_entry_and_key(folder, name):
    request, message = WRONG[name]
    path = write(folder, request)
    with pytest.raises(PromptError, match=f"^{path}: {message}") as refused:
        read_context(path)
    assert len(str(refused.value).removeprefix(str(path))) < 250


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "no JSON"), ("", "no JSON"), ('{"context": [}', "no JSON: .*line 1 column 14")],
)
def test_a_file_that_is_no_json_is_refused(folder, content, message):
    path = write(folder, content)
    with pytest.raises(DataError, match=f"^{path}: {message}"):
        read_context(path)


def test_a_missing_request_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: cannot be read: No such file"):
        read_context(tmp_path / "none.json")


def test_a_missing_image_is_refused_with_its_entry(folder):
    with pytest.raises(DataError, match=r"json: context 2: image: .*sub3\.nii\.gz is missing"):
        read(folder, POINT, entry("sub3", points=[[0, 0, 0]]))


def test_a_mask_of_another_shape_is_refused(folder):
    save(folder / "small.nii.gz", label()[1:])
    message = r"context 1: mask: .*small\.nii\.gz is \(8, 7, 5\) but .*sub1\.nii\.gz is \(9, 7, 5\)"
    with pytest.raises(DataError, match=message):
        read(folder, entry(mask="small.nii.gz"))


@pytest.mark.parametrize(("column", "change_mm"), [(0, 0.1), (3, 0.3)])
def test_a_mask_of_another_affine_is_refused(folder, column, change_mm):
    affine = LPS.copy()
    affine[0, column] += change_mm
    save(folder / "moved.nii.gz", label(), affine)
    with pytest.raises(DataError, match=r"context 1: mask: .*moved\.nii\.gz .*different affines"):
        read(folder, entry(mask="moved.nii.gz"))


def test_affines_that_differ_by_rounding_are_the_same(folder):
    save(folder / "rounded.nii.gz", label(), LPS + 1e-5 * (LPS != 0))
    assert read(folder, entry(mask="rounded.nii.gz"))


def test_an_empty_mask_is_refused(folder):
    save(folder / "empty.nii.gz", np.zeros(SHAPE, np.uint8))
    with pytest.raises(PromptError, match=r"empty\.nii\.gz has no voxel non-zero"):
        example_with_mask(folder / "images/sub1.nii.gz", folder / "empty.nii.gz")
