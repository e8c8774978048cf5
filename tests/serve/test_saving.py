"""Results that are saved in other formats than NIfTI, read again by other libraries."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from data.dicom_written import write_series
from inference.volumes import LPS
from serve.steps import A, C, D, mark, prepared, segmented, use

from wsicl_jax.data.formats.dicom_seg import read_segmentation
from wsicl_jax.data.images import read_label

SHAPE = (9, 7, 5)


def saved(client, session, folder, ending):
    """The directory and the names of what is saved in a format."""
    answer = client.post(f"{session}/save", json={"format": ending})
    assert answer.status_code == 200, answer.text
    return folder / answer.json()["folder"], answer.json()["files"]


def kept(client, session, image):
    """The label map of a target, as the service answers."""
    raw = client.get(f"{session}/images/{image}/result/voxels")
    voxels = np.frombuffer(raw.content, raw.headers["x-voxel-type"]).reshape(SHAPE, order="F")
    assert voxels.any()
    assert (voxels == 0).any()
    return voxels


@pytest.fixture
def session(client):
    """Two structures, with results for C and D."""
    session = prepared(client)
    structures = [
        {"value": 1, "name": "structure", "colour": "#000000"},
        {"value": 7, "name": "second one", "colour": "#0000ff"},
    ]
    assert client.put(f"{session}/structures", json={"structures": structures}).is_success
    mark(client, session, A, structure=7, box=[[0, 4], [0, 4], [1, 2]])
    assert set(segmented(client, session)["finished"]) == {C, D}
    return session


@pytest.mark.parametrize("ending", ["seg.nrrd", "nrrd", "mha"])
def test_label_maps_are_saved_in_the_format_chosen_on_the_grid_of_the_image(
    client, folder, session, ending
):
    output, files = saved(client, session, folder, ending)
    assert set(files) == {f"c.{ending}", f"d.{ending}", "task.json", "session.json"}
    label_map = read_label(output / f"c.{ending}")
    np.testing.assert_array_equal(label_map.label, kept(client, session, C))
    np.testing.assert_allclose(label_map.affine, nib.load(folder / C).affine, atol=1e-5)


def test_a_slicer_segmentation_has_the_names_and_values_of_the_structures(client, folder, session):
    output, _ = saved(client, session, folder, "seg.nrrd")
    header = SimpleITK.ReadImage(output / "c.seg.nrrd")
    named = {
        header.GetMetaData(f"Segment{n}_Name"): header.GetMetaData(f"Segment{n}_LabelValue")
        for n in (0, 1)
    }
    assert named == {"structure": "1", "second one": "7"}


def test_results_of_dicom_series_are_saved_as_dicom_seg(client, folder):
    session = prepared(client)
    use(client, session, C, "unused")
    use(client, session, D, "unused")
    voxels = np.random.default_rng(4).gamma(2, 100, SHAPE).astype(np.int16)
    series = write_series(folder / "ct", voxels, LPS)
    assert {"id": "ct", "name": "ct"} in client.post("/api/scan").json()["images"]
    use(client, session, "ct", "target")
    assert segmented(client, session)["finished"] == ["ct"]
    output, files = saved(client, session, folder, "dcm")
    assert set(files) == {"ct.dcm", "task.json", "session.json"}
    affine = np.array(client.get("/api/images/ct").json()["affine"])
    found = read_segmentation([output / "ct.dcm"], {"structure": 1}, SHAPE, affine)
    np.testing.assert_array_equal(found, kept(client, session, "ct"))
    written = pydicom.dcmread(output / "ct.dcm")
    source = pydicom.dcmread(series[0])
    assert written.Modality == "SEG"
    assert written.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert written.StudyInstanceUID == source.StudyInstanceUID


def test_dicom_seg_of_another_image_is_refused_with_what_to_do(client, folder, session):
    answer = client.post(f"{session}/save", json={"format": "dcm"})
    assert answer.status_code == 422
    assert "is no DICOM file; choose another format" in answer.json()["error"]
    assert not list((folder / "wsicl_results").rglob("*.dcm"))


def test_saving_again_in_another_format_keeps_the_task(client, folder, session):
    first, _ = saved(client, session, folder, "nii.gz")
    task = (first / "task.json").read_text()
    second, files = saved(client, session, folder, "mha")
    assert second == first
    assert "c.mha" in files and (first / C).is_file()
    assert (first / "task.json").read_text() == task
