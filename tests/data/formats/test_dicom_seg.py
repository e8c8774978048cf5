"""DICOM-SEG as highdicom writes it, read on the grid of its image."""

import numpy as np
import pydicom
import pytest
from dicom_written import headers, segmentation, write_all, write_segmentation, write_series

from wsicl_jax.data.formats.dicom import read_series, scan
from wsicl_jax.data.formats.dicom_seg import read_segmentation, segment_names
from wsicl_jax.errors import DataError

SHAPE = (9, 8, 7)
AFFINE = np.array([[0, -0.75, 0, 3], [1.5, 0, 0, -2], [0, 0, 3.0, 9], [0, 0, 0, 1]])
VALUES = {"liver": 1, "spleen": 300}


def masks():
    liver, spleen = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    liver[1:3, 2:4, 5], liver[4, 1:7, 1:3] = True, True
    spleen[0, 0, :3] = True
    return {"spleen": spleen, "liver": liver}


def expected():
    found = masks()
    return found["liver"] * 1 + found["spleen"] * 300


def series(folder, shape=SHAPE):
    return write_series(folder, np.arange(np.prod(shape), dtype=np.int16).reshape(shape), AFFINE)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("empty_frames", ["omitted", "kept"])
def test_segments_become_a_label_map_on_the_images_grid(tmp_path, kind, empty_frames):
    images = series(tmp_path / "image")
    file = write_segmentation(
        tmp_path / "seg.dcm", images, masks(), kind, omit_empty_frames=empty_frames == "omitted"
    )
    label = read_segmentation([file], VALUES, SHAPE, read_series(images).affine)
    np.testing.assert_array_equal(label, expected())
    assert label.dtype == np.uint16
    assert segment_names([file]) == ("liver", "spleen")
    assert scan(tmp_path)[1] == [file]


def test_one_file_for_each_segment_and_several_segments_of_one_label(tmp_path):
    images = series(tmp_path / "image")
    found = masks()
    parts = [found["liver"].copy(), found["liver"].copy()]
    parts[0][:, :, 5:], parts[1][:, :, :5] = False, False
    files = [
        write_segmentation(tmp_path / "a.dcm", images, {"spleen": found["spleen"]}),
        write_segmentation(tmp_path / "b.dcm", images, {"liver": parts[0]}),
        write_segmentation(tmp_path / "c.dcm", images, {"liver": parts[1]}),
    ]
    label = read_segmentation(files, VALUES, SHAPE, AFFINE)
    np.testing.assert_array_equal(label, expected())
    assert segment_names(files) == ("liver", "spleen")


def test_the_grid_may_have_its_axes_in_any_order_and_direction(tmp_path):
    file = write_segmentation(tmp_path / "seg.dcm", series(tmp_path / "image"), masks())
    turned = AFFINE.copy()
    turned[:3, 3] += AFFINE[:3, 1] * (SHAPE[1] - 1)
    turned[:3, 1] *= -1
    turned = turned[:, [2, 0, 1, 3]]
    label = read_segmentation([file], VALUES, (7, 9, 8), turned)
    np.testing.assert_array_equal(label, expected()[:, ::-1].transpose(2, 0, 1))


def test_a_segment_on_one_slice_only_has_its_place(tmp_path):
    mask = np.zeros(SHAPE, bool)
    mask[3, 4, 6] = True
    file = write_segmentation(tmp_path / "seg.dcm", series(tmp_path / "image"), {"liver": mask})
    label = read_segmentation([file], VALUES, SHAPE, AFFINE)
    np.testing.assert_array_equal(label, mask)


def test_segments_that_overlap_are_refused(tmp_path):
    found = masks()
    found["spleen"][1, 2, 5] = True
    file = write_segmentation(tmp_path / "seg.dcm", series(tmp_path / "image"), found)
    with pytest.raises(DataError, match="'spleen' and 'liver' overlap"):
        read_segmentation([file], VALUES, SHAPE, AFFINE)


@pytest.mark.parametrize(
    ("values", "moved", "shape", "reason"),
    [
        ({"liver": 1}, 0, SHAPE, r"segments \['spleen'\] that have no value"),
        (VALUES, 1.0, SHAPE, r"not on the image's grid, up to 0\.33 voxels off"),
        (VALUES, 6.0, SHAPE, "reaches outside of the image"),
        (VALUES, 0, (9, 8, 5), "reaches outside of the image"),
    ],
)
def test_a_segmentation_of_another_image_is_refused(tmp_path, values, moved, shape, reason):
    file = write_segmentation(tmp_path / "seg.dcm", series(tmp_path / "image"), masks())
    affine = AFFINE + moved * np.outer([0, 0, 1, 0], [0, 0, 0, 1])
    with pytest.raises(DataError, match=f"seg.dcm.*{reason}"):
        read_segmentation([file], values, shape, affine)


def test_fractions_are_refused(tmp_path):
    images = series(tmp_path / "image")
    found = {"liver": masks()["liver"] * 0.5}
    file = write_segmentation(tmp_path / "seg.dcm", images, found, "FRACTIONAL")
    with pytest.raises(DataError, match="fractional segments"):
        read_segmentation([file], VALUES, SHAPE, AFFINE)


def test_segments_without_labels_are_refused(tmp_path):
    written = segmentation(series(tmp_path / "image"), masks())
    written.SegmentSequence[0].SegmentLabel = ""
    (file,) = write_all(tmp_path, [written])
    with pytest.raises(DataError, match="segments without a label"):
        segment_names([file])
    written.SegmentSequence = []
    write_all(tmp_path, [written])
    with pytest.raises(DataError, match="segments without a label"):
        segment_names([file])


def test_a_damaged_segmentation_is_named(tmp_path):
    file = write_segmentation(tmp_path / "seg.dcm", series(tmp_path / "image"), masks())
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"seg\.dcm cannot be read as DICOM"):
        read_segmentation([file], VALUES, SHAPE, AFFINE)


def test_an_image_is_no_segmentation(tmp_path):
    (file, *_) = write_all(tmp_path, headers(np.zeros((3, 4, 2), np.int16), AFFINE))
    assert "SegmentSequence" not in pydicom.dcmread(file)
    with pytest.raises(DataError, match="cannot be read as DICOM"):
        segment_names([file])
