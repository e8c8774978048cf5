import nibabel as nib
import numpy as np
import pytest
from dicom_written import write_segmentation, write_series

from wsicl_jax.data.conversion.source_case import read_source_case, scan_labels, source_files
from wsicl_jax.data.layouts.find import find_layout
from wsicl_jax.errors import DataError

SHAPE = (9, 8, 7)
AFFINE = np.array([[0, -0.75, 0, 3], [1.5, 0, 0, -2], [0, 0, 3.0, 9], [0, 0, 0, 1]])


def image():
    return np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)


def masks(*names):
    found = {name: np.zeros(SHAPE, bool) for name in names}
    for number, mask in enumerate(found.values()):
        mask[number, 2:5, 1:4] = True
    return found


def add_case(source, name, *structures, **changed):
    images = write_series(source / name / "CT", image(), AFFINE, **changed)
    if structures:
        write_segmentation(source / name / "seg.dcm", images, masks(*structures))
    return images


def test_a_folder_for_each_case_has_a_series_and_its_segments(tmp_path):
    add_case(tmp_path, "visit2", "spleen", "liver")
    add_case(tmp_path, "visit1", "liver")
    add_case(tmp_path, "other", "aorta", PatientID="")
    layout = find_layout(tmp_path)
    assert (layout.kind, layout.channel_names, layout.skipped) == ("dicom", ("CT",), {})
    assert layout.label_names == {1: "aorta", 2: "liver", 3: "spleen"}
    subjects = [(case.name, case.subject) for case in layout.cases]
    assert subjects == [("other", "other"), ("visit1", "P7"), ("visit2", "P7")]
    raw = read_source_case(layout, layout.cases[2], layout.label_names)
    np.testing.assert_array_equal(raw.image[0], image())
    np.testing.assert_array_equal(raw.affine, AFFINE)
    found = masks("spleen", "liver")
    np.testing.assert_array_equal(raw.label, found["spleen"] * 3 + found["liver"] * 2)
    named = [file.name for file in source_files(layout, layout.cases[1])]
    assert named == [f"visit1/CT/{i:03}.dcm" for i in range(7)] + ["visit1/seg.dcm"]


def test_a_label_file_may_lie_beside_the_series(tmp_path):
    add_case(tmp_path, "a")
    flipped = AFFINE.copy()
    flipped[:3, 3] += AFFINE[:3, 1] * (SHAPE[1] - 1)
    flipped[:3, 1] *= -1  # as converters from DICOM to NIfTI have it
    label = masks("x")["x"].astype(np.uint8) * 4
    nib.save(nib.Nifti1Image(label[:, ::-1], flipped), tmp_path / "a/truth.nii.gz")
    layout = find_layout(tmp_path)
    assert layout.label_names is None
    names = scan_labels(layout)
    assert names == {4: "label 4"}
    raw = read_source_case(layout, layout.cases[0], names)
    np.testing.assert_array_equal(raw.label, label)
    assert raw.remarks == ("axes of the label map turned to the image's",)


def test_a_folder_that_holds_the_files_itself_is_one_case(tmp_path):
    add_case(tmp_path, ".", "liver")
    (case,) = find_layout(tmp_path, kind="dicom").cases
    assert (case.name, len(case.images[0])) == (tmp_path.name, 7)


def no_label(source):
    add_case(source, "bad")


def two_series(source):
    add_case(source, "bad", "liver")
    write_series(source / "bad/scout", image(), AFFINE, SeriesDescription="scout")


def no_image(source):
    (source / "bad").mkdir()
    (source / "good/seg.dcm").rename(source / "bad/seg.dcm")
    add_case(source, "good", "liver")


def broken(source):
    add_case(source, "bad", "liver")
    (source / "bad/CT/003.dcm").write_bytes(b"")


def broken_segments(source):
    add_case(source, "bad", "liver")
    content = (source / "bad/seg.dcm").read_bytes()
    (source / "bad/seg.dcm").write_bytes(content.replace(b"liver ", b"      "))


def other_labels(source):
    add_case(source, "bad")
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE), source / "bad/truth.nii.gz")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (no_label, "has an image but no label: neither DICOM-SEG nor a label file"),
        (two_series, "has 2 image series"),
        (two_series, "scout (7 files)"),
        (two_series, "thorax (7 files)"),
        (two_series, "give each case a folder with one series"),
        (no_image, "has no image series"),
        (broken, "003.dcm cannot be read as DICOM: no DICOM header"),
        (broken_segments, "has segments without a label"),
        (other_labels, "has a label file, while other cases have DICOM-SEG"),
    ],
)
def test_a_folder_without_a_case_is_skipped_with_the_reason(tmp_path, spoil, reason):
    add_case(tmp_path, "good", "liver")
    spoil(tmp_path)
    layout = find_layout(tmp_path)
    assert [case.name for case in layout.cases] == ["good"]
    assert reason in layout.skipped["bad"]


def test_overlapping_segments_are_reported_when_the_case_is_read(tmp_path):
    images = add_case(tmp_path, "bad")
    both = masks("liver")["liver"]
    write_segmentation(tmp_path / "bad/seg.dcm", images, {"liver": both, "tumour": both})
    layout = find_layout(tmp_path)
    with pytest.raises(DataError, match="'liver' and 'tumour' overlap"):
        read_source_case(layout, layout.cases[0], layout.label_names)
