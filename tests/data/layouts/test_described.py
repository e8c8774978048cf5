"""nnU-Net and Decathlon folders: what dataset.json may say, and which files make a case."""

import json

import pytest

from wsicl_jax.data.conversion.source_case import source_files
from wsicl_jax.data.layouts.find import find_layout
from wsicl_jax.errors import DataError

NNUNET = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "front": 1, "back": 2},
    "file_ending": ".nii.gz",
}
DECATHLON = {
    "modality": {"0": "FLAIR", "1": "T1w"},
    "labels": {"0": "background", "1": "edema", "2": "tumour"},
    "training": [
        {"image": "./imagesTr/BRATS_002.nii.gz", "label": "./labelsTr/BRATS_002.nii.gz"},
        {"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"},
    ],
    "test": ["./imagesTs/BRATS_009.nii.gz"],
}

BRATS = [f"{folder}/BRATS_00{i}.nii.gz" for folder in ("imagesTr", "labelsTr") for i in (1, 2)]


def make(folder, description, *files):
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(description))
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def nnunet(folder, *files, **changed):
    description = {k: v for k, v in (NNUNET | changed).items() if v is not None}
    return make(folder, description, *files)


GOOD = ("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")


def test_an_nnunet_case_has_a_file_for_each_channel_and_its_label(tmp_path):
    layout = find_layout(nnunet(tmp_path / "Dataset007_Test", *GOOD))
    assert (layout.kind, layout.name, layout.skipped) == ("nnunet", "Dataset007_Test", {})
    assert layout.channel_names == ("T1", "T2")
    assert layout.label_names == {1: "front", 2: "back"}
    (case,) = layout.cases
    assert (case.name, case.subject) == ("a", "a")
    assert [[file.name for file in files] for files in case.images] == [
        ["a_0000.nii.gz"],
        ["a_0001.nii.gz"],
    ]
    assert [file.name for file in case.labels] == ["a.nii.gz"]


def test_files_listed_for_each_nnunet_case_are_taken_wherever_they_are(tmp_path):
    listed = {
        "b": {"images": ["../raw/x.nii.gz", "../raw/y.nii.gz"], "label": "../raw/z.nii.gz"},
        "c": {"images": ["../raw/x.nii.gz"], "label": "../raw/z.nii.gz"},
        "d": {"images": ["../raw/x.nii.gz", "../raw/lost.nii.gz"], "label": "../raw/z.nii.gz"},
    }
    files = [f"../raw/{name}.nii.gz" for name in "xyz"]
    layout = find_layout(nnunet(tmp_path / "Dataset008_Listed", *files, dataset=listed))
    (case,) = layout.cases
    assert (case.name, [f.name for (f,) in case.images]) == ("b", ["x.nii.gz", "y.nii.gz"])
    assert "expected [0, 1]" in layout.skipped["c"]
    assert "lost.nii.gz is missing" in layout.skipped["d"]
    assert [file.name for file in source_files(layout, case)] == files
    for wrong in ({"b": {"images": []}}, ["b"], {"b": None}):
        with pytest.raises(DataError, match=r"dataset\.json: dataset"):
            find_layout(nnunet(tmp_path / "Dataset008_Listed", dataset=wrong))


@pytest.mark.parametrize(
    ("files", "name", "reason"),
    [
        (("labelsTr/b.nii.gz",), "b", "has a label but no image"),
        (("imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz"), "b", "has an image but no label"),
        (
            ("imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz"),
            "b",
            "has image channels [0]; expected [0, 1]",
        ),
        (("imagesTr/notes",), "imagesTr/notes", "does not end in .nii.gz"),
        (("imagesTr/b.nii.gz",), "imagesTr/b.nii.gz", "has no channel number such as _0000"),
    ],
)
def test_files_without_a_case_are_skipped_with_the_reason(tmp_path, files, name, reason):
    layout = find_layout(nnunet(tmp_path / "d", *GOOD, *files))
    assert [case.name for case in layout.cases] == ["a"]
    assert layout.skipped == {name: reason}


def test_hidden_files_are_no_cases(tmp_path):
    layout = find_layout(nnunet(tmp_path / "d", *GOOD, "labelsTr/._a.nii.gz"))
    assert layout.skipped == {}


def test_the_older_layout_of_nnunet_is_understood(tmp_path):
    old = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver"},
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
    }
    layout = find_layout(make(tmp_path / "d", old, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"))
    assert (layout.kind, layout.channel_names) == ("nnunet", ("CT",))
    assert layout.label_names == {1: "liver"}
    assert [case.name for case in layout.cases] == ["a"]


def test_another_ending_of_a_known_format_is_understood(tmp_path):
    files = ("imagesTr/a_0000.nrrd", "labelsTr/a.nrrd")
    one = {"channel_names": {"0": "CT"}, "file_ending": ".nrrd"}
    assert len(find_layout(nnunet(tmp_path / "d", *files, **one)).cases) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": {"background": 0, "all": [1, 2]}}, "'all' is a region"),
        ({"labels": {"background": 0, "one": "1"}}, "expected an integer"),
        ({"labels": {"background": 0, "one": True}}, "expected an integer"),
        ({"labels": {"background": 0, "one": 1, "uno": 1}}, "'one' and 'uno' are both 1"),
        ({"labels": {"background": 0, "one": 1, "ignore": 2}}, "'ignore' marks"),
        ({"labels": {"background": 0}}, "no label but background"),
        ({"labels": {}}, "no label but background"),
        ({"labels": None}, "labels is None"),
        ({"channel_names": None}, "channel_names is None"),
        ({"channel_names": {"1": "T1"}}, "channel_names is {'1': 'T1'}"),
        ({"file_ending": ".png"}, "file_ending '.png' is not supported"),
        ({"file_ending": ".nii"}, "has no .nii files of cases"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(tmp_path, change, reason):
    with pytest.raises(DataError) as error:
        find_layout(nnunet(tmp_path / "d", *GOOD, **change))
    assert reason in str(error.value)


@pytest.mark.parametrize(("content", "reason"), [("{", "cannot be read as JSON"), ("[]", "list")])
def test_a_broken_description_is_refused(tmp_path, content, reason):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=reason):
        find_layout(tmp_path)


def test_a_folder_of_nnunet_without_description_is_refused(tmp_path):
    make(tmp_path / "d", {}, *GOOD)
    (tmp_path / "d/dataset.json").unlink()
    with pytest.raises(DataError, match=r"dataset\.json is missing"):
        find_layout(tmp_path / "d", kind="nnunet")


def test_the_decathlons_cases_are_those_of_its_list(tmp_path):
    files = [f"{folder}/BRATS_00{i}.nii.gz" for folder in ("imagesTr", "labelsTr") for i in (1, 2)]
    layout = find_layout(
        make(tmp_path / "Task01", DECATHLON, *files, "imagesTr/._BRATS_001.nii.gz")
    )
    assert (layout.kind, layout.channel_names) == ("msd", ("FLAIR", "T1w"))
    assert layout.label_names == {1: "edema", 2: "tumour"}
    assert [case.name for case in layout.cases] == ["BRATS_001", "BRATS_002"]
    assert [case.labels[0].name for case in layout.cases] == [
        "BRATS_001.nii.gz",
        "BRATS_002.nii.gz",
    ]
    assert layout.skipped == {}


def test_what_the_decathlons_list_and_folders_do_not_share_is_named(tmp_path):
    files = ("imagesTr/BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz", "labelsTr/BRATS_003.nii.gz")
    layout = find_layout(make(tmp_path / "d", DECATHLON, *files))
    assert [case.name for case in layout.cases] == ["BRATS_001"]
    assert "missing" in layout.skipped["BRATS_002"]
    assert layout.skipped["labelsTr/BRATS_003.nii.gz"] == "is not in dataset.json"


def test_a_case_that_is_listed_twice_is_skipped(tmp_path):
    description = DECATHLON | {"training": DECATHLON["training"] * 2}
    layout = find_layout(make(tmp_path / "d", description, *BRATS))
    assert layout.cases == ()
    assert set(layout.skipped) == {"BRATS_001", "BRATS_002"}


def test_a_list_of_something_else_is_refused(tmp_path):
    with pytest.raises(DataError, match="training has 'a'; expected"):
        find_layout(make(tmp_path / "d", DECATHLON | {"training": ["a"]}))
