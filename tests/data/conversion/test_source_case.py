"""The voxels of a case from real files: channels, grids, labels, and what is wrong with them."""

import json
import os

import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.data.conversion.source_case import read_source_case, scan_labels, source_files
from wsicl_jax.data.layouts.find import find_layout
from wsicl_jax.data.layouts.layout import CaseFiles, Layout
from wsicl_jax.errors import DataError

SHAPE = (4, 5, 7)
AFFINE = np.array([[0, -0.75, 0, 3], [1.5, 0, 0, -2], [0, 0, 3, 9], [0, 0, 0, 1]], float)
NAMES = {1: "front", 2: "back"}


def image(seed=0):
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def label():
    array = np.zeros(SHAPE, np.uint8)
    array[1:3, 2:4, 5] = 1
    array[0, 0, :3] = 2
    return array


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def case(folder, **changed):
    """The layout of one paired case of two channels and its files."""
    parts = {"0000": image(0), "0001": image(1), "label": label(), "affine": AFFINE} | changed
    for channel in ("0000", "0001"):
        save(folder / f"images/a_{channel}.nii.gz", parts[channel])
    save(folder / "labels/a.nii.gz", parts["label"], parts["affine"])
    layout = find_layout(folder)
    return layout, layout.cases[0]


def test_channels_of_several_files_come_together(tmp_path):
    raw = read_source_case(*case(tmp_path), NAMES)
    np.testing.assert_array_equal(raw.image, np.stack([image(0), image(1)]))
    np.testing.assert_array_equal(raw.label, label())
    np.testing.assert_array_equal(raw.affine, AFFINE)
    assert raw.remarks == ()


def test_channels_of_one_file_stay_together(tmp_path):
    array = np.stack([image(0), image(1), image(2)], axis=-1)
    save(tmp_path / "imagesTr/a.nii.gz", array)
    save(tmp_path / "labelsTr/a.nii.gz", label())
    description = {
        "modality": {"0": "T1", "1": "T2", "2": "FLAIR"},
        "labels": {"0": "background", "1": "front", "2": "back"},
        "training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    layout = find_layout(tmp_path)
    raw = read_source_case(layout, layout.cases[0], layout.label_names)
    np.testing.assert_array_equal(raw.image, np.moveaxis(array, -1, 0))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(), (1,), (0, 1, 2)])
def test_a_label_map_with_its_axes_in_another_order_is_turned_to_the_image(tmp_path, order, flips):
    affine = AFFINE.copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (SHAPE[axis] - 1)
        affine[:3, axis] *= -1
    stored = np.flip(label(), flips).transpose(order)
    raw = read_source_case(*case(tmp_path, label=stored, affine=affine[:, [*order, 3]]), NAMES)
    np.testing.assert_array_equal(raw.label, label())
    np.testing.assert_allclose(raw.affine, AFFINE, atol=1e-6)
    turned = (order, flips) != ((0, 1, 2), ())
    assert raw.remarks == (("axes of the label map turned to the image's",) if turned else ())


def test_affines_that_differ_by_rounding_are_one_grid(tmp_path):
    rounded = AFFINE + 1e-4 * (AFFINE != 0) * [[1], [1], [1], [0]]
    np.testing.assert_array_equal(
        read_source_case(*case(tmp_path, affine=rounded), NAMES).label, label()
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": label()[:3]}, "a.nii.gz is (3, 5, 7)"),
        ({"0001": image()[:3]}, "is (3, 5, 7)"),
        ({"affine": AFFINE + np.outer([0.5, 0, 0, 0], [0, 0, 0, 1])}, "have different affines"),
        ({"affine": np.diag([-1, 1, 1, 1]) @ AFFINE}, "have different affines"),
        ({"label": label() * 0.5}, "are no integers"),
        ({"label": label() * 3}, "labels [3, 6] that have no name"),
        ({"label": label().astype(np.int16) * -1}, "labels [-2, -1] that have no name"),
        ({"label": np.stack([label()] * 2, -1)}, "expected one 3D volume"),
        ({"0000": np.stack([image()] * 2, -1)}, "has 3 channels; the data set has channel 0, ch"),
        ({"0000": image()[0]}, "expected a 3D volume"),
        ({"0000": np.full(SHAPE, np.nan)}, "NaN or infinite"),
        ({"0001": np.full(SHAPE, 4, np.int16)}, "a_0001.nii.gz is 4 everywhere"),
    ],
)
def test_a_case_that_cannot_be_used_says_why(tmp_path, change, reason):
    with pytest.raises(DataError) as error:
        read_source_case(*case(tmp_path, **change), NAMES)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ({"label": label() * 0}, "empty label map"),
        ({"label": label().astype(np.float32)}, "floating-point labels"),
        ({"label": label()[..., None]}, "4D with one frame"),
        ({"0001": image()[..., None]}, "4D with one frame"),
    ],
)
def test_what_is_unusual_but_clear_is_taken_with_a_remark(tmp_path, change, remark):
    (found,) = read_source_case(*case(tmp_path, **change), NAMES).remarks
    assert remark in found


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.write_bytes(b""), "is empty"),
        (lambda file: file.write_bytes(file.read_bytes()[:60]), "damaged or cut off"),
        (lambda file: file.write_bytes(b"not gzip at all"), "damaged or cut off"),
        (lambda file: file.unlink(), "is missing"),
    ],
)
@pytest.mark.parametrize("file", ["images/a_0001.nii.gz", "labels/a.nii.gz"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, file, spoil, reason):
    layout, files = case(tmp_path)
    spoil(tmp_path / file)
    with pytest.raises(DataError, match=reason) as error:
        read_source_case(layout, files, NAMES)
    assert str(tmp_path / file) in str(error.value)


def test_the_files_of_a_case_have_path_size_and_time(tmp_path):
    layout, files = case(tmp_path)
    *_, last = found = source_files(layout, files)
    assert [file.name for file in found] == [
        "images/a_0000.nii.gz",
        "images/a_0001.nii.gz",
        "labels/a.nii.gz",
    ]
    assert last.size == (tmp_path / "labels/a.nii.gz").stat().st_size
    os.utime(tmp_path / "labels/a.nii.gz", ns=(1, 1))
    assert source_files(layout, files)[-1].changed_ns == 1
    (tmp_path / "labels/a.nii.gz").unlink()
    with pytest.raises(DataError, match="is missing"):
        source_files(layout, files)


@pytest.mark.parametrize(("header", "voxels"), [("a.mhd", "a.raw"), ("a.nhdr", "a.raw.gz")])
def test_the_voxels_beside_a_header_are_files_of_the_case(tmp_path, header, voxels):
    (tmp_path / header).write_text("")
    (tmp_path / voxels).write_text("voxels")
    (tmp_path / "b.raw").write_text("of another case")
    files = CaseFiles("a", "a", ((tmp_path / header,),), ())
    layout = Layout("paired", tmp_path, "x", ("image",), None, (files,), {})
    assert [file.name for file in source_files(layout, files)] == [header, voxels]


def test_labels_without_names_are_found_and_numbered(tmp_path):
    layout, _ = case(tmp_path)
    assert scan_labels(layout) == {1: "label 1", 2: "label 2"}
    with pytest.raises(DataError, match="no label map with a value but 0"):
        scan_labels(case(tmp_path / "empty", label=label() * 0)[0])
