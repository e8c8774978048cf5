import gzip
import json
import os
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.data.convert import convert
from wsicl_jax.data.store import UNFINISHED, Store
from wsicl_jax.errors import DataError
from wsicl_jax.progress import console

SHAPE = (4, 5, 7)
AFFINE = np.array([[0, -0.75, 0, 3], [1.5, 0, 0, -2], [0, 0, 3, 9], [0, 0, 0, 1]], float)
DESCRIPTION = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "front": 1, "back": 2, "unused": 9},
    "file_ending": ".nii.gz",
}


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


def add_case(source, name, **changed):
    parts = {"0000": image(0), "0001": image(1), "label": label(), "affine": AFFINE} | changed
    for channel in ("0000", "0001"):
        if parts[channel] is not None:
            save(source / f"imagesTr/{name}_{channel}.nii.gz", parts[channel])
    if parts["label"] is not None:
        save(source / f"labelsTr/{name}.nii.gz", parts["label"], parts["affine"])


def describe(source, **changed):
    source.mkdir(exist_ok=True)
    content = {k: v for k, v in (DESCRIPTION | changed).items() if v is not None}
    (source / "dataset.json").write_text(json.dumps(content))


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "Dataset007_Test"
    describe(source)
    add_case(source, "good")
    return source


def test_a_case_comes_with_channels_labels_and_affine(source, tmp_path):
    summary = convert(source, tmp_path / "store", workers=2)
    assert (summary.written, summary.skipped) == (("good",), {})
    store = Store.open(tmp_path / "store")
    assert (store.name, store.channel_names) == ("Dataset007_Test", ("T1", "T2"))
    assert store.label_names == {1: "front", 2: "back", 9: "unused"}
    np.testing.assert_array_equal(store.read_image("good", 0), image(0))
    np.testing.assert_array_equal(store.read_image("good", 1), image(1))
    np.testing.assert_array_equal(store.read_label("good"), label())
    case = store.case("good")
    np.testing.assert_array_equal(case.affine, AFFINE)
    assert (case.spacing_mm, case.voxel_counts) == ((1.5, 0.75, 3.0), {1: 4, 2: 3})


def test_affines_that_differ_by_rounding_are_one_grid(source, tmp_path):
    add_case(source, "rounded", affine=AFFINE + 1e-4 * (AFFINE != 0) * [[1], [1], [1], [0]])
    assert convert(source, tmp_path / "store", workers=1).written == ("good", "rounded")


def test_the_older_key_modality_and_plain_nii_are_understood(tmp_path):
    source = tmp_path / "Old"
    describe(source, channel_names=None, modality={"0": "CT"}, file_ending=".nii")
    save(source / "imagesTr/a_0000.nii", image())
    save(source / "labelsTr/a.nii", label())
    assert convert(source, tmp_path / "store", workers=1).written == ("a",)
    assert Store.open(tmp_path / "store").channel_names == ("CT",)


def test_hidden_files_are_no_cases(source, tmp_path):
    (source / "labelsTr/._good.nii.gz").write_text("resource fork")
    summary = convert(source, tmp_path / "store", workers=1)
    assert (summary.written, summary.skipped) == (("good",), {})


def cut_off(source):
    add_case(source, "bad")
    file = source / "imagesTr/bad_0000.nii.gz"
    file.write_bytes(file.read_bytes()[:300])


def stray_file(source):
    (source / "imagesTr/bad").write_text("notes")


def unnumbered_file(source):
    save(source / "imagesTr/bad.nii.gz", image())


def bad_affine(source):
    add_case(source, "bad")
    broken = nib.Nifti1Image(image(), AFFINE)
    broken.header["srow_x"] = 0
    broken.header["qform_code"] = 0
    content = nib.Nifti1Image(image(), None, broken.header).to_bytes()
    (source / "imagesTr/bad_0001.nii.gz").write_bytes(gzip.compress(content))


def changed(**parts):
    return lambda source: add_case(source, "bad", **parts)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (changed(**{"0000": None, "0001": None}), "has a label but no image"),
        (changed(label=None), "has an image but no label"),
        (changed(**{"0001": None}), "has image channels [0]; dataset.json names [0, 1]"),
        (cut_off, "bad_0000.nii.gz cannot be read as NIfTI"),
        (changed(label=label()[:3]), "bad.nii.gz is (3, 5, 7)"),
        (changed(**{"0001": image()[:3]}), "bad_0001.nii.gz is (3, 5, 7)"),
        (changed(affine=AFFINE + np.outer([0.5, 0, 0, 0], [0, 0, 0, 1])), "different affines"),
        (changed(affine=np.diag([-1, 1, 1, 1]) @ AFFINE), "different affines"),
        (changed(label=label() * 0.5), "are no integers"),
        (changed(label=label() * 3), "labels [3, 6] that dataset.json does not name"),
        (changed(label=np.stack([label()] * 2, -1)), "expected one 3D volume"),
        (changed(**{"0000": image()[0]}), "expected one 3D volume"),
        (changed(**{"0000": np.full(SHAPE, np.nan)}), "NaN or infinite"),
        (bad_affine, "bad_0001.nii.gz has a singular affine"),
        (stray_file, "does not end in .nii.gz"),
        (unnumbered_file, "no channel number"),
    ],
)
def test_a_case_that_cannot_be_used_is_left_out_and_named(source, tmp_path, spoil, reason):
    if reason == "different affines":
        reason = "and " + str(source / "labelsTr/bad.nii.gz") + " have different affines"
    spoil(source)
    summary = convert(source, tmp_path / "store", workers=2)
    assert summary.written == Store.open(tmp_path / "store").cases == ("good",)
    ((name, given),) = summary.skipped.items()
    assert "bad" in name
    assert reason in given


def test_the_closing_summary_counts_and_names(source, tmp_path, capsys):
    add_case(source, "bad[red]", label=None)
    summary = convert(source, tmp_path / "store", workers=1)
    with console().capture() as shown:
        console().print(summary.table())
    assert "1 of 2 written" in shown.get()
    (row,) = [line for line in shown.get().splitlines() if "bad[red]" in line]
    assert "has an image but no label" in row


def test_no_usable_case_leaves_no_store(source, tmp_path):
    (source / "labelsTr/good.nii.gz").unlink()
    summary = convert(source, tmp_path / "store", workers=1)
    assert (summary.written, list(summary.skipped)) == ((), ["good"])
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": {"background": 0, "all": [1, 2]}}, "'all' is a region"),
        ({"labels": {"background": 0, "one": "1"}}, "expected an integer"),
        ({"labels": {"background": 0, "one": True}}, "expected an integer"),
        ({"labels": {"background": 0, "one": 1, "uno": 1}}, "'one' and 'uno' are both 1"),
        ({"labels": {"background": 0, "one": 1, "ignore": 2}}, "'ignore' marks"),
        ({"labels": {"background": 0}}, "no label but background"),
        ({"labels": None}, "labels is None"),
        ({"channel_names": None}, "channel_names is None"),
        ({"channel_names": {"1": "T1"}}, "channel_names is {'1': 'T1'}"),
        ({"file_ending": ".mha"}, "file_ending '.mha' is not supported"),
        ({"file_ending": ".nii"}, "no usable"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(source, tmp_path, change, reason):
    describe(source, **change)
    if reason == "no usable":
        reason = "has no .nii files of cases"
    with pytest.raises(DataError) as error:
        convert(source, tmp_path / "store", workers=1)
    assert reason in str(error.value)
    assert not (tmp_path / "store").exists()


def test_a_folder_without_description_or_with_a_broken_one_is_refused(source, tmp_path):
    (source / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset.json cannot be read as JSON"):
        convert(source, tmp_path / "store", workers=1)
    (source / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"dataset.json is missing"):
        convert(source, tmp_path / "store", workers=1)


def test_an_existing_store_is_not_touched(source, tmp_path):
    (tmp_path / "store").mkdir()
    with pytest.raises(DataError, match="exists already"):
        convert(source, tmp_path / "store", workers=1)
    assert not [*(tmp_path / "store").iterdir()]


def test_a_write_that_fails_ends_the_conversion(source, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise DataError("case good cannot be written: No space left on device")

    monkeypatch.setattr("wsicl_jax.data.convert.write_case", full)
    with pytest.raises(DataError, match="No space left"):
        convert(source, tmp_path / "store", workers=1)
    assert (tmp_path / "store" / UNFINISHED).exists()


def test_a_conversion_that_dies_before_its_first_case_is_unfinished(source, tmp_path, monkeypatch):
    def dies(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("wsicl_jax.data.convert.ThreadPoolExecutor", dies)
    with pytest.raises(MemoryError):
        convert(source, tmp_path / "store", workers=1)
    with pytest.raises(DataError, match="did not finish"):
        Store.open(tmp_path / "store")


def test_a_killed_conversion_leaves_only_whole_cases(tmp_path):
    source, store = tmp_path / "Many", tmp_path / "store"
    describe(source)
    for i in range(60):
        add_case(source, f"case{i:03}")
    code = f"from wsicl_jax.data.convert import convert; convert({str(source)!r}, {str(store)!r}, "
    process = subprocess.Popen([sys.executable, "-c", code + "workers=2)"])
    whole = store / "cases"
    while process.poll() is None and len([*whole.glob("case*")]) < 5:
        time.sleep(0.0005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    with pytest.raises(DataError, match="did not finish"):
        Store.open(store)
    (store / UNFINISHED).unlink()
    left = Store.open(store)
    assert 5 <= len(left.cases) < 60
    for name in left.cases:
        assert left.case(name).shape == SHAPE
        np.testing.assert_array_equal(left.read_image(name, 0), image(0))
        np.testing.assert_array_equal(left.read_image(name, 1), image(1))
        np.testing.assert_array_equal(left.read_label(name), label())
