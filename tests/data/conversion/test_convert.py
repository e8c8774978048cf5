import json
import os
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.config import PreparationConfig
from wsicl_jax.data.conversion import convert as conversion
from wsicl_jax.data.conversion.convert import convert
from wsicl_jax.data.store import CATALOGUE, Store, complete_cases, read_skipped
from wsicl_jax.data.verify import verify
from wsicl_jax.errors import DataError
from wsicl_jax.storage.location import Location
from wsicl_jax.terminal.progress import console

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


def state(path):
    """Every file of a store with its content and time."""
    return {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in path.rglob("*") if f.is_file()}


def test_a_case_comes_with_channels_labels_and_affine(source, tmp_path):
    summary = convert(source, tmp_path / "store")
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
    assert [file.name for file in case.source.files][-1].endswith("good.nii.gz")


def test_a_case_that_cannot_be_used_is_skipped_with_the_reason(source, tmp_path):
    add_case(source, "bad", label=label()[:3])
    add_case(source, "alone", label=None)
    summary = convert(source, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    assert summary.written == store.cases == ("good",)
    assert set(summary.skipped) == {"bad", "alone"}
    assert "bad.nii.gz is (3, 5, 7)" in summary.skipped["bad"]
    assert read_skipped(store.location) == summary.skipped


def test_the_closing_report_counts_and_names(source, tmp_path, capsys):
    add_case(source, "bad[red]", label=None)
    add_case(source, "empty", label=label() * 0)
    summary = convert(source, tmp_path / "store")
    with console().capture() as shown:
        console().print(summary.report())
    assert "2 of 3 written" in shown.get()
    (row,) = [line for line in shown.get().splitlines() if "bad[red]" in line]
    assert "has an image but no label" in row
    (row,) = [line for line in shown.get().splitlines() if "empty" in line and "remark" not in line]
    assert "1" in row


def test_no_usable_case_leaves_no_store(source, tmp_path):
    (source / "labelsTr/good.nii.gz").unlink()
    summary = convert(source, tmp_path / "store")
    assert (summary.written, list(summary.skipped)) == ((), ["good"])
    assert not (tmp_path / "store").exists()
    add_case(source, "good", label=label()[:3])
    summary = convert(source, tmp_path / "store")
    assert (summary.written, list(summary.skipped)) == ((), ["good"])
    assert not (tmp_path / "store").exists()


def test_a_directory_with_other_things_in_it_is_not_touched(source, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/thesis.tex").write_text("")
    with pytest.raises(DataError, match="exists already"):
        convert(source, tmp_path / "store")
    assert [f.name for f in (tmp_path / "store").iterdir()] == ["thesis.tex"]


def test_a_conversion_done_again_changes_nothing(source, tmp_path):
    add_case(source, "bad", label=None)
    convert(source, tmp_path / "store")
    before = state(tmp_path / "store/cases")
    summary = convert(source, tmp_path / "store")
    assert (summary.written, summary.existing) == ((), ("good",))
    assert state(tmp_path / "store/cases") == before
    assert Store.open(tmp_path / "store").cases == ("good",)


def test_a_damaged_case_is_made_again_and_the_others_stay(source, tmp_path):
    add_case(source, "other")
    convert(source, tmp_path / "store")
    before = state(tmp_path / "store/cases/good")
    (tmp_path / "store/cases/other/labels/structures/0/c/0/0/0").write_bytes(b"")
    summary = convert(source, tmp_path / "store")
    assert (summary.written, summary.existing) == (("other",), ("good",))
    assert state(tmp_path / "store/cases/good") == before
    assert verify(tmp_path / "store") == (2, [])


def test_a_store_follows_its_source(source, tmp_path):
    for name in ("gone", "changed", "bad"):
        add_case(source, name)
    add_case(source, "mended", label=None)
    convert(source, tmp_path / "store")
    for file in [*source.rglob("gone*")]:
        file.unlink()
    add_case(source, "changed", label=label() * 0)
    add_case(source, "bad", label=label() * 5)
    add_case(source, "mended")
    add_case(source, "new")
    summary = convert(source, tmp_path / "store")
    assert summary.written == ("changed", "mended", "new")
    assert (summary.existing, summary.removed) == (("good",), ("gone",))
    assert list(summary.skipped) == list(read_skipped(Location.of(tmp_path / "store"))) == ["bad"]
    store = Store.open(tmp_path / "store")
    assert store.cases == ("changed", "good", "mended", "new")
    assert store.case("changed").voxel_counts == {}
    assert verify(tmp_path / "store") == (4, [])


def test_a_label_that_was_corrected_is_noticed_though_its_file_is_as_large(tmp_path):
    source = tmp_path / "Plain"
    describe(source, channel_names={"0": "CT"}, file_ending=".nii")
    save(source / "imagesTr/a_0000.nii", image())
    save(source / "labelsTr/a.nii", label())
    convert(source, tmp_path / "store")
    save(source / "labelsTr/a.nii", label()[::-1])
    assert convert(source, tmp_path / "store").written == ("a",)
    np.testing.assert_array_equal(Store.open(tmp_path / "store").read_label("a"), label()[::-1])


def test_a_store_is_not_continued_with_other_data_or_options(source, tmp_path):
    convert(source, tmp_path / "store")
    before = state(tmp_path / "store")
    with pytest.raises(DataError, match="was begun with preparation"):
        convert(source, tmp_path / "store", PreparationConfig(ras=True))
    describe(source, labels={"background": 0, "front": 1, "back": 2, "more": 3})
    with pytest.raises(DataError, match="was begun with label_names"):
        convert(source, tmp_path / "store")
    assert state(tmp_path / "store") == before


def test_a_store_whose_creation_was_interrupted_becomes_complete(source, tmp_path):
    convert(source, tmp_path / "whole")
    convert(source, tmp_path / "cut")
    (tmp_path / "cut/cases/zarr.json").unlink()
    convert(source, tmp_path / "cut")
    cut, whole = (tmp_path / name / "cases/zarr.json" for name in ("cut", "whole"))
    assert cut.read_bytes() == whole.read_bytes()


def test_parts_make_one_store_whatever_their_order(source, tmp_path):
    names = sorted(["good", *(f"case{i}" for i in range(6))])
    for name in names[:-1]:
        add_case(source, name)
    add_case(source, "zzz", label=label() * 7)
    for number, missing in ((3, 6), (1, 3), (2, 0)):
        summary = convert(source, tmp_path / "parts", part=(number, 3))
        assert summary.missing == missing
        if missing:
            with pytest.raises(DataError, match="is not finished"):
                Store.open(tmp_path / "parts")
    convert(source, tmp_path / "whole")
    assert Store.open(tmp_path / "parts").cases == tuple(names)
    for file in (CATALOGUE, "skipped.json", "zarr.json"):
        parts, whole = (tmp_path / kind / file for kind in ("parts", "whole"))
        assert parts.read_bytes() == whole.read_bytes()


def test_parts_may_run_at_the_same_time_and_with_many_processes(source, tmp_path):
    for i in range(7):
        add_case(source, f"case{i}")
    command = [sys.executable, "-m", "wsicl_jax", "convert", str(source), str(tmp_path / "store")]
    parts = [
        subprocess.Popen([*command, "--part", part, "--workers", "2"], stdout=subprocess.PIPE)
        for part in ("1/2", "2/2")
    ]
    assert [part.wait() for part in parts] == [0, 0]
    assert len(Store.open(tmp_path / "store").cases) == 8
    assert verify(tmp_path / "store") == (8, [])


def test_what_is_prepared_is_recorded(source, tmp_path):
    ready = PreparationConfig(ras=True, grid=(6, 6, 6), percentiles=(1.0, 99.0))
    convert(source, tmp_path / "store", ready)
    store = Store.open(tmp_path / "store")
    case = store.case("good")
    assert store.root.preparation == ready
    assert (case.shape, case.orientation, case.source.grid.shape) == ((6, 6, 6), "RAS", SHAPE)
    np.testing.assert_array_equal(case.source.affine, AFFINE)
    assert 0 <= store.read_image("good").min() < store.read_image("good").max() <= 1
    assert case.source.grid.restore_label(store.read_label("good")).shape == SHAPE


def test_nonfinite_voxels_are_replaced_on_request(source, tmp_path):
    bad = image()
    bad[0, 0, 0], bad[1, 1, 1] = np.nan, np.inf
    add_case(source, "bad", **{"0000": bad})
    assert list(convert(source, tmp_path / "a").skipped) == ["bad"]
    summary = convert(source, tmp_path / "b", PreparationConfig(replace_nonfinite=-5.0))
    assert summary.skipped == {}
    (remark,) = summary.remarks["bad"]
    assert remark == "NaN or infinite voxels replaced by -5"
    read = Store.open(tmp_path / "b").read_image("bad", 0)
    assert (read[0, 0, 0], read[1, 1, 1]) == (-5, -5)


def test_a_failed_write_ends_the_conversion_and_the_same_command_continues(
    source, tmp_path, monkeypatch
):
    def full(*args, **kwargs):
        raise DataError("case good cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "write_case", full)
        with pytest.raises(DataError, match="No space left"):
            convert(source, tmp_path / "store")
    with pytest.raises(DataError, match="is not finished"):
        Store.open(tmp_path / "store")
    assert convert(source, tmp_path / "store").written == ("good",)


def test_a_conversion_writes_to_an_object_store_and_continues_there(source, s3):
    add_case(source, "bad", label=None)
    assert convert(source, f"{s3}/test").written == ("good",)
    assert convert(source, f"{s3}/test").existing == ("good",)
    store = Store.open(f"{s3}/test")
    np.testing.assert_array_equal(store.read_image("good", 1), image(1))
    assert list(read_skipped(store.location)) == ["bad"]


def test_a_killed_conversion_leaves_only_complete_cases_and_continues(tmp_path):
    source, store = tmp_path / "Many", tmp_path / "store"
    describe(source)
    for i in range(60):
        add_case(source, f"case{i:03}")
    module = "wsicl_jax.data.conversion.convert"
    code = f"from {module} import convert; convert({str(source)!r}, {str(store)!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    while process.poll() is None and len([*store.glob("cases/case*/zarr.json")]) < 5:
        time.sleep(0.0005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    with pytest.raises(DataError, match="is not finished"):
        Store.open(store)
    whole = complete_cases(Location.of(store))
    assert 5 <= len(whole) < 60
    summary = convert(source, store)
    assert set(summary.existing) == whole
    assert len(summary.written) == 60 - len(whole)
    assert verify(store) == (60, [])
    np.testing.assert_array_equal(Store.open(store).read_label("case007"), label())


def test_images_without_orientation_get_a_remark_or_the_requested_one(tmp_path):
    source = tmp_path / "raw"
    describe(source, channel_names={"0": "T1"})
    for name in ("imagesTr/a_0000", "labelsTr/a"):
        array = image() if "images" in name else label()
        unsaid = nib.Nifti1Image(array, None)
        unsaid.header["pixdim"][1:4] = (1.5, 0.75, 3)
        (source / name).parent.mkdir()
        nib.save(unsaid, source / f"{name}.nii.gz")
    first = convert(source, tmp_path / "first")
    assert any("no orientation in its header, axes taken as LAS" in r for r in first.remarks["a"])
    preparation = PreparationConfig(assume_orientation="RPI")
    second = convert(source, tmp_path / "second", preparation)
    assert any("axes taken as RPI, as requested" in r for r in second.remarks["a"])
    store = Store.open(tmp_path / "second")
    assert nib.aff2axcodes(store.catalogue["a"].affine) == tuple("RPI")
    with pytest.raises(DataError, match="was begun with preparation"):
        convert(source, tmp_path / "second")


def test_pairs_of_header_and_voxels_are_cases(tmp_path):
    for folder, array in (("images", image()), ("labels", label())):
        (tmp_path / "raw" / folder).mkdir(parents=True)
        nib.Nifti1Pair(array, AFFINE).to_filename(tmp_path / "raw" / folder / "a.hdr")
    found = convert(tmp_path / "raw", tmp_path / "store")
    assert (found.written, found.skipped, found.remarks) == (("a",), {}, {})
    sources = Store.open(tmp_path / "store").catalogue["a"].source.files
    assert [file.name for file in sources] == [
        *("images/a.hdr", "images/a.img", "labels/a.hdr", "labels/a.img")
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_only_an_image_that_would_kill_a_native_reader_is_skipped(tmp_path, workers):
    for number in range(3):
        save(tmp_path / f"raw/images/{number}.nii.gz", image(number))
        save(tmp_path / f"raw/labels/{number}.nii.gz", label())
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 7\nencoding: raw\nendian: little\n"
    (tmp_path / "raw/images/1.nii.gz").unlink()
    (tmp_path / "raw/images/1.nrrd").write_text(f"{header}{'9' * 5000}\n\n")
    found = convert(tmp_path / "raw", tmp_path / "store", workers=workers)
    assert found.written == ("0", "2")
    assert "is no field" in found.skipped["1"] and len(found.skipped["1"]) < 400


def test_a_case_above_the_memory_limit_is_skipped(tmp_path):
    describe(tmp_path / "raw")
    add_case(tmp_path / "raw", "a")
    found = convert(tmp_path / "raw", tmp_path / "store", max_memory_gb=0.001)
    assert "max_memory_gb is 0.001" in found.skipped["a"]
