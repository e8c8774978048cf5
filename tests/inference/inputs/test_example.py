import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.errors import DataError, PromptError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.inputs.images import as_label_map, as_volume
from wsicl_jax.prompts import Negative, Point, Scribble, SliceMask

SHAPE = (9, 7, 5)
LPS = np.array([[-1.5, 0, 0, 20], [0, -0.75, 0, 7.5], [0, 0, 3, 100], [0, 0, 0, 1]])
IMAGE = np.random.default_rng(0).random(SHAPE, np.float32)


def label():
    array = np.zeros(SHAPE, np.uint8)
    array[2:4, 1:5, 3] = 1
    array[5:8, 2:4, 1:3] = 2
    array[0, 0, 0] = 7
    return array


def save(path, array, affine=LPS):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def world_of(*voxel):
    return (LPS @ [*voxel, 1])[:3].tolist()


def array_example(**given):
    return Example(IMAGE, affine=LPS, **given)


def test_prompts_of_all_kinds_are_mixed_in_voxels_of_the_image():
    ready = SliceMask(2, 1, np.ones(SHAPE[:2], bool))
    volume, prompts, _ = array_example(
        prompts=[ready],
        points=[(4, 3.5, 2)],
        points_mm=[world_of(1, 2, 3)],
        scribbles=[[(0, 0, 1), (4, 4, 1)]],
        scribbles_mm=[[world_of(1, 1, 1)]],
        boxes=[[[1, 5], [2, 6], [3, 4]], Box((0, 0, 0), (2, 2, 2))],
        boxes_mm=[[[14, 17], [5.25, 6], [106, 106]]],
        mask=label(),
        labels=[1, 7],
    ).load()
    np.testing.assert_array_equal(volume.image, IMAGE)
    assert prompts[0] is ready
    assert prompts[1:-1] == [
        Point(4.0, 3.5, 2.0),
        Point(1.0, 2.0, 3.0),
        Scribble(((0.0, 0.0, 1.0), (4.0, 4.0, 1.0))),
        Scribble(((1.0, 1.0, 1.0),)),
        Box((1, 2, 3), (5, 6, 4)),
        Box((0, 0, 0), (2, 2, 2)),
        Box((2, 2, 2), (5, 4, 3)),
    ]
    np.testing.assert_array_equal(prompts[-1], np.isin(label(), [1, 7]))


def test_a_mask_without_labels_marks_all_that_is_not_zero(tmp_path):
    image = save(tmp_path / "image.nii.gz", IMAGE)
    mask = save(tmp_path / "mask.nii.gz", label())
    (found,) = Example(image, mask=str(mask)).load().prompts
    np.testing.assert_array_equal(found, label() > 0)


def test_points_may_come_as_an_array():
    points = np.array([[4, 3, 2], [1, 2, 3]])
    assert array_example(points=points).load().prompts == [Point(4, 3, 2), Point(1, 2, 3)]


def test_files_of_other_tools_give_prompts(tmp_path):
    (tmp_path / "p.csv").write_text("index,axis-0,axis-1,axis-2\n0,2,3,4\n")
    markups = [tmp_path / "p.csv"]
    assert array_example(markups=markups).load().prompts == [Point(2, 3, 4)]
    turned = array_example(markups=markups, markup_axes="zyx")
    assert turned.load().prompts == [Point(4, 3, 2)]


def test_nothing_is_read_before_it_is_loaded():
    example = Example("none.nii.gz", mask="none_label.nii.gz", markups=["none.mrk.json"])
    assert [str(file) for file in example.files] == [
        "none.nii.gz",
        "none_label.nii.gz",
        "none.mrk.json",
    ]
    with pytest.raises(DataError, match=r"^image: none\.nii\.gz is missing"):
        example.load()


def test_only_files_are_among_its_files():
    assert array_example(mask=label()).files == ()


def test_what_is_given_as_a_path_is_read_by_the_callers_readers(tmp_path):
    image = save(tmp_path / "image.nii.gz", IMAGE)
    read = []

    def read_image(path):
        read.append(path)
        return as_volume(path)

    def read_label(path, volume):
        read.append(path)
        return as_label_map(label(), volume)

    Example(image, mask=image).load(read_image, read_label)
    assert read == [image, image]


WRONG = {
    "no prompt": ({}, PromptError, "image has no prompt; give points"),
    "point outside": ({"points": [(0, 0, 0), (9, 0, 0)]}, PromptError, "points 2: .* outside"),
    "scribble outside": ({"scribbles": [[(0, 0, 9)]]}, PromptError, "scribbles 1: .* outside"),
    "empty scribble": ({"scribbles_mm": [[]]}, PromptError, "scribbles 1: .* at least one"),
    "box outside": ({"boxes": [Box((0, 0, 0), (9, 8, 1))]}, PromptError, "boxes 1: .* leaves"),
    "labels alone": (
        {"labels": [1], "points": [(0, 0, 0)]},
        PromptError,
        "labels: .* mask is missing",
    ),
    "absent label": ({"mask": label(), "labels": [3]}, PromptError, r"mask: .*\[3\].*\[1, 2, 7\]"),
    "background": ({"mask": label(), "labels": [0, 1]}, PromptError, "mask: .* 0 means no"),
    "empty mask": ({"mask": np.zeros(SHAPE, int)}, PromptError, "mask: .* no voxel non-zero"),
    "mask of another shape": ({"mask": label()[1:]}, DataError, r"mask: .*\(8, 7, 5\)"),
    "markups missing": ({"markups": ["none.csv"]}, DataError, r"markups: none\.csv: cannot be"),
    "markup axes": (
        {"markups": ["none.csv"], "markup_axes": "xzy"},
        PromptError,
        "markups: axes are 'xzy'",
    ),
    "two places": ({"spacing_mm": (1, 1, 1), "points": [(0, 0, 0)]}, DataError, "image: .* one of"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_reported_with_the_examples_name_and_the_place(case):
    given, kind, message = WRONG[case]
    with pytest.raises(kind, match=f"^context 3: {message}"):
        array_example(name="context 3", **given).load()


@pytest.mark.parametrize(("column", "change_mm"), [(0, 0.1), (3, 0.3)])
def test_a_mask_of_another_affine_is_refused(tmp_path, column, change_mm):
    affine = LPS.copy()
    affine[0, column] += change_mm
    mask = save(tmp_path / "moved.nii.gz", label(), affine)
    with pytest.raises(DataError, match=r"^mask: .*moved\.nii\.gz have different affines"):
        array_example(mask=mask).load()


def test_affines_that_differ_by_rounding_are_the_same(tmp_path):
    mask = save(tmp_path / "rounded.nii.gz", label(), LPS + 1e-5 * (LPS != 0))
    assert array_example(mask=mask).load().prompts


def test_more_prompts_than_anybody_clicks_are_refused_at_once():
    points = np.ones((1_000_000, 3))
    with pytest.raises(PromptError, match="there are 1,000,000 prompts; expected at most 10,000"):
        Example(np.zeros((4, 4, 4), np.float32), spacing_mm=(1, 1, 1), points=points).load()
    with pytest.raises(PromptError, match="scribbles 1: there are 1,000,000 positions"):
        Example(np.zeros((4, 4, 4), np.float32), spacing_mm=(1, 1, 1), scribbles=[points]).load()


@pytest.mark.parametrize("given", [{"image": "a\0.nii.gz"}, {"mask": "a\0.nii.gz"}])
def test_a_path_with_nul_is_refused(given):
    image = {"image": np.zeros((4, 4, 4), np.float32), "spacing_mm": (1, 1, 1)}
    image = {} if "image" in given else image
    with pytest.raises(DataError, match="NUL"):
        Example(**image, **given, points=[(1, 1, 1)]).load()


def test_negative_prompts_are_placed_as_positive_ones(tmp_path):
    points = tmp_path / "points.csv"
    points.write_text("index,axis-0,axis-1,axis-2\n0,2,3,4\n")
    _, prompts, _ = array_example(
        points=[(0, 0, 0)],
        negative_points=[(4, 3.5, 2)],
        negative_points_mm=[world_of(1, 2, 3)],
        negative_scribbles=[[(0, 0, 1), (4, 4, 1)]],
        negative_scribbles_mm=[[world_of(1, 1, 1)]],
        negative_markups=[points],
    ).load()
    assert prompts == [
        Point(0.0, 0.0, 0.0),
        Negative(Point(4.0, 3.5, 2.0)),
        Negative(Point(1.0, 2.0, 3.0)),
        Negative(Scribble(((0.0, 0.0, 1.0), (4.0, 4.0, 1.0)))),
        Negative(Scribble(((1.0, 1.0, 1.0),))),
        Negative(Point(2.0, 3.0, 4.0)),
    ]


def test_only_points_and_scribbles_can_be_negative(tmp_path):
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[:, :, 2] = 1
    path = save(tmp_path / "drawn.nii", drawn)
    with pytest.raises(PromptError, match="negative_markups: holds a box; only points and scrib"):
        array_example(points=[(0, 0, 0)], negative_markups=[path]).load()
    with pytest.raises(PromptError, match=r"negative_points 1: \[0.0, 0.0, 9.0\] .* outside"):
        array_example(negative_points=[(0, 0, 9)]).load()


def test_the_files_of_negative_prompts_are_among_those_that_no_result_replaces(tmp_path):
    example = Example("a.nii", points=[(0, 0, 0)], negative_markups=["b.csv"])
    assert {file.name for file in example.files} == {"a.nii", "b.csv"}
    assert "1 points, 1 negative_markups" in repr(example)
