"""Files that people reported to other tools: each is one row of the table in tests/README.md.

They are tried with a task, `read_target` or `convert`, as far as what was reported goes.
"""

import json
import re
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from inference.volumes import VOLUME
from pydicom.uid import JPEGLSLossless, RLELossless, SecondaryCaptureImageStorage, generate_uid

from wsicl_jax.data.conversion.convert import convert
from wsicl_jax.data.images import read_volume
from wsicl_jax.data.store import Store
from wsicl_jax.errors import DataError, PromptError
from wsicl_jax.inference.batch.predict import predict
from wsicl_jax.inference.batch.targets import find_targets, read_target
from wsicl_jax.inference.inputs.example import Example

sys.path.append(str(Path(__file__).parents[1] / "data"))
from dicom_written import headers, write_all, write_segmentation

SHAPE = (14, 12, 10)
AFFINE = np.array([[-1.5, 0, 0, 20], [0, -0.75, 0, 7.5], [0, 0, 3, 100], [0, 0, 0, 1.0]])
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 900, SHAPE).astype(np.int16)
MASK = np.zeros(SHAPE, np.uint8)
MASK[4:9, 3:8, 2:7] = 1


def nifti(path, voxels=IMAGE, affine=AFFINE, **header):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine, dtype=voxels.dtype)
    for field, value in header.items():
        image.header[field] = value
    nib.save(image, path)
    return path


def loaded(image, **marks):
    return Example(image, **marks).load()


def mask_of(image, **marks):
    (found,) = loaded(image, **marks).prompts
    return found


def series(folder, *, changed=lambda made: None, array=IMAGE, affine=AFFINE, **header):
    made = headers(array, affine, **header)
    changed(made)
    return write_all(folder, made)


def nnunet(folder, cases, labels=None, channels=("MR",)):
    """An nnU-Net folder: files by name, below the folder."""
    described = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": labels or {"background": 0, "liver": 1},
        "file_ending": ".nii.gz",
    }
    for name, voxels in cases.items():
        nifti(folder / name, voxels)
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


# DICOM


def test_a_tilted_gantry_shears_the_volume_and_is_remarked(tmp_path, segmenter):
    sheared = AFFINE.copy()
    sheared[1, 2] = 0.9
    series(tmp_path / "head", affine=sheared)
    (target,) = find_targets([tmp_path / "head"], tmp_path / "out").targets
    volume, remarks = read_target(target)
    np.testing.assert_allclose(volume.affine, sheared, atol=1e-6)
    assert any("sheared by 16.7 degrees" in remark for remark in remarks)
    found = segmenter.task([Example(volume, mask=MASK)]).segment(volume)
    assert found.label_map.shape == SHAPE


def without_a_slice(made):
    made.pop(4)


def with_a_slice_twice(made):
    made.append(made[3])


def with_a_localizer(made):
    made[-1].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def with_a_screenshot(made):
    made[2].SOPClassUID = made[2].file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    made[2].SamplesPerPixel, made[2].PhotometricInterpretation = 3, "RGB"
    made[2].PlanarConfiguration = 0
    made[2].BitsAllocated, made[2].BitsStored, made[2].HighBit = 8, 8, 7
    made[2].PixelData = bytes(3 * made[2].Rows * made[2].Columns)


def with_two_times(made):
    for data in headers(IMAGE, AFFINE):
        data.SeriesInstanceUID = made[0].SeriesInstanceUID
        made.append(data)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without_a_slice, "not evenly spaced.*most likely 1 are missing there"),
        (with_a_slice_twice, "lie at one place.*split it"),
        (with_a_localizer, "unlike orientation or pixel spacing; split the series"),
        (with_a_screenshot, r"002\.dcm has voxels of colours; expected grey values"),
        (with_two_times, "lie at one place; the series has more than one volume"),
    ],
)
def test_a_series_that_is_no_volume_says_why_and_the_batch_goes_on(
    tmp_path, segmenter, spoil, reason
):
    series(tmp_path / "in" / "bad", changed=spoil)
    series(tmp_path / "in" / "good", SeriesInstanceUID=generate_uid())
    targets = find_targets([tmp_path / "in"], tmp_path / "out").targets
    task = segmenter.task([Example(read_volume(tmp_path / "in" / "good"), mask=MASK)])
    summary = predict(task, targets, tmp_path / "out")
    assert [path.name for path in summary.written] == ["good.nii.gz"]
    ((name, why),) = summary.failed.items()
    assert name.endswith("bad") and re.search(reason, why)


@pytest.mark.parametrize("codec", [RLELossless, JPEGLSLossless])
def test_compressed_series_are_as_uncompressed_ones(tmp_path, codec):
    def compress(made):
        for data in made:
            data.compress(codec)

    series(tmp_path, changed=compress)
    np.testing.assert_array_equal(read_volume(tmp_path).image, IMAGE)


def test_inverted_grey_values_are_remarked(tmp_path):
    series(tmp_path / "in", PhotometricInterpretation="MONOCHROME1")
    (target,) = find_targets([tmp_path / "in"], tmp_path / "out").targets
    _, remarks = read_target(target)
    assert remarks == ("low values are bright, as the header says (MONOCHROME1)",)


def test_notes_of_a_vendor_of_an_unknown_type_are_skipped(tmp_path):
    files = series(tmp_path)
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content.replace(b"\x10\x00\x20\x00LO", b"\x10\x00\x20\x00QQ"))
    np.testing.assert_array_equal(read_volume(tmp_path).image, IMAGE)


def test_a_many_framed_file_is_a_volume(tmp_path):
    made = headers(IMAGE, AFFINE)
    one = made[0]
    one.NumberOfFrames = len(made)
    one.PixelData = b"".join(data.PixelData for data in made)
    frames = []
    for data in made:
        place, item = pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = data.ImagePositionPatient
        item.PlanePositionSequence = [place]
        frames.append(item)
    turn, measures, shared = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    turn.ImageOrientationPatient = one.ImageOrientationPatient
    measures.PixelSpacing = one.PixelSpacing
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turn], [measures]
    one.PerFrameFunctionalGroupsSequence, one.SharedFunctionalGroupsSequence = frames, [shared]
    for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(one, key)
    (file,) = write_all(tmp_path, [one])
    found = read_volume(file)
    np.testing.assert_array_equal(found.image, IMAGE)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-6)


def test_segments_without_their_empty_slices_have_their_place_in_the_image(tmp_path):
    files = series(tmp_path / "image")
    other = np.roll(MASK, 5, 0)
    path = write_segmentation(
        tmp_path / "seg.dcm", files, {"liver": MASK > 0, "spleen": other > MASK}
    )
    image = tmp_path / "image"
    np.testing.assert_array_equal(mask_of(image, mask=path, labels=[1]), MASK > 0)
    np.testing.assert_array_equal(mask_of(image, mask=path, labels=[2]), other > MASK)


def test_segments_outside_of_the_image_are_refused(tmp_path):
    moved = AFFINE.copy()
    moved[2, 3] += 60
    files = series(tmp_path / "image")
    path = write_segmentation(
        tmp_path / "seg.dcm", series(tmp_path / "other", affine=moved), {"liver": MASK > 0}
    )
    with pytest.raises(DataError, match="segment 'liver' reaches outside of the image"):
        loaded(files[0].parent, mask=path)


def test_contours_as_a_mask_say_what_to_do(tmp_path):
    image = series(tmp_path / "image")[0].parent
    data = headers(IMAGE, AFFINE)[0]
    for key in ("Rows", "Columns", "PixelData"):
        delattr(data, key)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    write_all(tmp_path / "rt", [data])
    with pytest.raises(DataError, match=r"holds contours \(RTSTRUCT\).*to a label map first"):
        loaded(image, mask=tmp_path / "rt" / "000.dcm")


# Intensities


def test_padding_of_a_ct_changes_nothing(segmenter):
    task = segmenter.task([Example(nib.Nifti1Image(IMAGE, AFFINE), mask=MASK)])
    padded = AFFINE.copy()
    padded[:3, 3] += AFFINE[:3, :3] @ [-20, -20, -20]
    ct = nib.Nifti1Image(np.pad(IMAGE, 20, constant_values=-3024), padded)
    found = task.segment(ct).mask
    expected = task.segment(nib.Nifti1Image(IMAGE + np.int16(0), AFFINE)).mask
    np.testing.assert_array_equal(found[20:-20, 20:-20, 20:-20], expected)


def test_colours_in_nifti_are_refused(tmp_path):
    rgb = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    image = nib.Nifti1Image(rgb, AFFINE)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="expected grey values"):
        read_volume(tmp_path / "a.nii.gz")


def test_of_a_series_in_time_one_time_is_chosen_or_requested(tmp_path):
    cine = np.stack([IMAGE, IMAGE[::-1]], axis=-1)
    path = nifti(tmp_path / "cine.nii.gz", cine)
    (target,) = find_targets([path], tmp_path / "out", channel=1).targets
    volume, remarks = read_target(target)
    np.testing.assert_array_equal(volume.image, IMAGE[::-1])
    assert remarks == ("channel 1 of 2",)
    with pytest.raises(DataError, match=r"shape \(14, 12, 10, 2\); expected one 3D volume"):
        read_volume(path)


def test_vectors_are_channels(tmp_path):
    image = sitk.GetImageFromArray(np.stack([IMAGE, IMAGE[::-1]], -1), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    (target,) = find_targets([tmp_path / "a.nrrd"], tmp_path / "out", channel=1).targets
    volume, remarks = read_target(target)
    np.testing.assert_array_equal(volume.image, IMAGE[::-1].T)
    assert "channel 1 of 2" in remarks


def test_an_empty_result_says_so(segmenter):
    nothing = segmenter.task([Example(nib.Nifti1Image(IMAGE, AFFINE), mask=MASK)])
    scores = segmenter.predict
    try:
        segmenter.predict = lambda *given: np.zeros(VOLUME.grid, np.float32)
        found = nothing.segment(nib.Nifti1Image(IMAGE[::-1].copy(), AFFINE))
    finally:
        segmenter.predict = scores
    assert not found.mask.any() and "nothing was found of structure" in found.remarks[0]


# Labels


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.float64, np.int32])
def test_labels_of_any_width_are_labels(tmp_path, kind):
    mask = nifti(tmp_path / "mask.nii.gz", (MASK * 201).astype(kind))
    image = nifti(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(mask_of(image, mask=mask, labels=[201]), MASK > 0)


@pytest.mark.parametrize(
    ("factor", "told"),
    [(0.99999, None), (0.9882, "no label map: 125 voxels are no integers, such as 0.9882")],
)
def test_labels_off_by_rounding_are_labels_and_others_are_refused(tmp_path, factor, told):
    mask = nifti(tmp_path / "mask.nii.gz", MASK * np.float32(factor))
    image = nifti(tmp_path / "image.nii.gz")
    if told is None:
        np.testing.assert_array_equal(mask_of(image, mask=mask), MASK > 0)
    else:
        with pytest.raises(DataError, match=told):
            loaded(image, mask=mask)


def test_an_image_in_the_place_of_a_label_map_gets_a_remark(tmp_path):
    found = loaded(nifti(tmp_path / "image.nii.gz"), mask=nifti(tmp_path / "mask.nii.gz"))
    assert "the mask looks like an image" in found.remarks[0]


@pytest.mark.parametrize("flips", [(0,), (1, 2), (0, 1, 2)])
def test_a_label_map_in_another_orientation_comes_to_its_place(tmp_path, flips):
    image = nifti(tmp_path / "image.nii.gz")
    turned, affine = np.flip(MASK, flips), AFFINE.copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (SHAPE[axis] - 1)
        affine[:3, axis] *= -1
    found = loaded(image, mask=nifti(tmp_path / "mask.nii.gz", turned, affine))
    np.testing.assert_array_equal(found.prompts[0], MASK > 0)
    assert found.remarks == ("axes of the label map turned to the image's",)


def test_a_label_map_of_its_smallest_extent_comes_to_its_place(tmp_path):
    image = nifti(tmp_path / "image.nii.gz")
    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ [4, 3, 2]
    found = loaded(image, mask=nifti(tmp_path / "mask.nii.gz", MASK[4:9, 3:8, 2:7], affine))
    np.testing.assert_array_equal(found.prompts[0], MASK > 0)
    assert found.remarks == (
        "the label map has another extent than the image; placed by its affine",
    )
    affine[2, 3] += 60
    with pytest.raises(DataError, match=r"is \(5, 5, 5\) but"):
        loaded(image, mask=nifti(tmp_path / "mask.nii.gz", MASK[4:9, 3:8, 2:7], affine))


@pytest.mark.parametrize(
    ("voxels", "told"), [(1e-5, None), (0.5, "voxels lie up to 0.50 voxels apart")]
)
def test_origins_off_by_rounding_are_the_same_and_half_a_voxel_is_not(tmp_path, voxels, told):
    image = nifti(tmp_path / "image.nii.gz")
    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ [0, 0, voxels]
    mask = nifti(tmp_path / "mask.nii.gz", MASK, affine)
    if told is None:
        np.testing.assert_array_equal(mask_of(image, mask=mask), MASK > 0)
    else:
        with pytest.raises(DataError, match=told):
            loaded(image, mask=mask)


def test_voxels_in_micrometres_are_micrometres(tmp_path):
    tiny = AFFINE * np.array([[1000], [1000], [1000], [1]])
    path = nifti(tmp_path / "a.nii.gz", IMAGE, tiny, xyzt_units=3)
    np.testing.assert_allclose(read_volume(path).affine, AFFINE, rtol=1e-6)


# Data sets


def test_label_values_may_have_gaps(tmp_path):
    labels = {"background": 0, "liver": 5, "spleen": 200}
    label = MASK * 5 + np.roll(MASK, 5, 0) * np.uint8(200) * (MASK == 0)
    source = nnunet(
        tmp_path / "in", {"imagesTr/a_0000.nii.gz": IMAGE, "labelsTr/a.nii.gz": label}, labels
    )
    convert(source, tmp_path / "store")
    np.testing.assert_array_equal(Store.open(tmp_path / "store").read_label("a"), label)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"background": 0, "liver": 1, "ignore": 2}, "'ignore' marks voxels without truth"),
        ({"background": 0, "whole": [1, 2], "core": 2}, "'whole' is a region.*one integer"),
    ],
)
def test_labels_that_are_more_than_one_value_say_what_to_do(tmp_path, labels, reason):
    source = nnunet(
        tmp_path / "in", {"imagesTr/a_0000.nii.gz": IMAGE, "labelsTr/a.nii.gz": MASK}, labels
    )
    with pytest.raises(DataError, match=reason):
        convert(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_case_without_one_of_its_channels_is_skipped(tmp_path):
    files = {f"imagesTr/{case}_000{i}.nii.gz": IMAGE for case in "ab" for i in range(2)}
    files |= {f"labelsTr/{case}.nii.gz": MASK for case in "ab"}
    del files["imagesTr/b_0001.nii.gz"]
    source = nnunet(tmp_path / "in", files, channels=("T1", "T2"))
    summary = convert(source, tmp_path / "store")
    assert summary.written == ("a",)
    assert "1" in summary.skipped["b"]
    # To predict the folder one channel at a time, nothing may be missing.
    (problem,) = find_targets([source / "imagesTr"], tmp_path / "out").problems
    assert "'b' has [0]" in problem


@pytest.mark.parametrize("name", ["sub.01.T1", "Müller, Jörg (2)", "患者 1", "a  b"])
def test_names_with_dots_blanks_and_umlauts_go_all_the_way(tmp_path, segmenter, name):
    files = {f"imagesTr/{name}_0000.nii.gz": IMAGE, f"labelsTr/{name}.nii.gz": MASK}
    source = nnunet(tmp_path / "Daten für alle", files)
    assert convert(source, tmp_path / "store").written == (name,)
    np.testing.assert_array_equal(Store.open(tmp_path / "store").read_label(name), MASK)
    targets = find_targets([source / "imagesTr"], tmp_path / "Ergebnis").targets
    example = Example(
        source / f"imagesTr/{name}_0000.nii.gz", mask=source / f"labelsTr/{name}.nii.gz"
    )
    summary = predict(segmenter.task([example]), targets, tmp_path / "Ergebnis")
    assert [path.name for path in summary.written] == [f"{name}.nii.gz"]


def test_channels_behind_a_dot_are_not_taken_for_channels(tmp_path):
    files = {f"imagesTr/case.001.000{i}.nii.gz": IMAGE for i in range(2)}
    source = nnunet(tmp_path / "in", files | {"labelsTr/case.001.nii.gz": MASK})
    summary = convert(source, tmp_path / "store")
    assert not summary.written
    assert any("no channel number such as _0000" in why for why in summary.skipped.values())


def test_a_label_map_without_any_label_is_remarked(tmp_path):
    files = {f"imagesTr/{case}_0000.nii.gz": IMAGE for case in "ab"}
    files |= {"labelsTr/a.nii.gz": MASK, "labelsTr/b.nii.gz": MASK * 0}
    summary = convert(nnunet(tmp_path / "in", files), tmp_path / "store")
    assert summary.remarks == {"b": ("empty label map",)}


# Markups of 3D Slicer


def markup(path, kind, points, **more):
    given = {"type": kind, "coordinateSystem": "LPS", "controlPoints": points, **more}
    path.write_text(json.dumps({"markups": [given]}))
    return path


def at(voxel, **more):
    """A control point at a voxel, in LPS mm."""
    position = (AFFINE[:3] @ [*voxel, 1]) * [-1, -1, 1]
    return {"position": position.tolist(), **more}


def test_control_points_without_a_position_are_skipped_with_a_warning(tmp_path):
    image = nifti(tmp_path / "image.nii.gz")
    points = [at((5, 4, 3)), {"position": [0, 0, 0], "positionStatus": "undefined"}]
    path = markup(tmp_path / "a.mrk.json", "Fiducial", points)
    with pytest.warns(UserWarning, match="1 control points are not selected or have no position"):
        (found,) = loaded(image, markups=[path]).prompts
    np.testing.assert_allclose(found, (5, 4, 3), atol=1e-4)
    alone = markup(tmp_path / "b.mrk.json", "Fiducial", points[1:])
    with pytest.raises(PromptError, match="holds no prompt"):
        loaded(image, markups=[alone])


def test_hidden_control_points_count(tmp_path):
    image = nifti(tmp_path / "image.nii.gz")
    points = [at((5, 4, 3), visibility=False), at((6, 4, 3))]
    path = markup(tmp_path / "a.mrk.json", "Curve", points)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = loaded(image, markups=[path]).prompts
    np.testing.assert_allclose(found.path, [(5, 4, 3), (6, 4, 3)], atol=1e-4)


def test_a_closed_curve_ends_where_it_begins(tmp_path):
    image = nifti(tmp_path / "image.nii.gz")
    points = [at((5, 4, 3)), at((8, 4, 3)), at((8, 7, 3))]
    path = markup(tmp_path / "a.mrk.json", "ClosedCurve", points)
    (found,) = loaded(image, markups=[path]).prompts
    np.testing.assert_allclose(found.path, [(5, 4, 3), (8, 4, 3), (8, 7, 3), (5, 4, 3)], atol=1e-4)


def test_a_turned_region_becomes_the_box_around_it(tmp_path):
    image = nifti(tmp_path / "image.nii.gz")
    sine = np.sqrt(0.5)
    turn = [sine, -sine, 0, sine, sine, 0, 0, 0, 1]
    centre = at((6, 6, 5))["position"]
    path = markup(
        tmp_path / "a.mrk.json", "ROI", [], center=centre, size=[3, 3, 9], orientation=turn
    )
    (found,) = loaded(image, markups=[path]).prompts
    extent = np.array(found.extent) * [1.5, 0.75, 3]
    assert (extent >= [3, 3 * sine * 2 - 0.75, 9]).all() and (extent <= [6, 6, 12]).all()


def test_the_table_names_tests_that_there_are():
    tests = Path(__file__).parents[1]
    named = set(re.findall(r"`(test_\w+)`", (tests / "README.md").read_text()))
    there = {
        name
        for file in tests.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(named) > 25 and named <= there
