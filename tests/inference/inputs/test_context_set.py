"""Context sets from files and from the training cases of data sets."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.errors import DataError, PromptError
from wsicl_jax.inference.inputs import context_set
from wsicl_jax.inference.inputs.context_set import from_dataset, from_files
from wsicl_jax.inference.inputs.example import Example

sys.path.append(str(Path(__file__).parents[2] / "data"))
from dicom_written import write_segmentation, write_series

SHAPE = (4, 5, 3)
CASES = [f"c{number}" for number in range(6)]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def label_of(name):
    """All have the liver, all but c0 the spleen, only c5 the gall bladder."""
    label = np.zeros(SHAPE, np.uint8)
    label[0] = 1
    label[1] = 2 * (name != "c0")
    label[2] = 5 * (name == "c5")
    return label


def described(folder, **changed):
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "liver": 1, "spleen": 2, "gall bladder": 5},
        "file_ending": ".nii.gz",
        **changed,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def nnunet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "Dataset001_Organs"
    for name in CASES:
        for channel in range(2):
            save(folder / f"imagesTr/{name}_000{channel}.nii.gz", np.full(SHAPE, channel, np.int16))
        save(folder / f"labelsTr/{name}.nii.gz", label_of(name))
    return described(folder)


@pytest.fixture
def of_json(monkeypatch, tmp_path):
    """`of_json(liver=[...], ...)`: a JSON file with these structures."""

    def make(**structures):
        values = {name: number for number, name in enumerate(structures, 7)}
        found = SimpleNamespace(structures=structures, values=values, network="small")
        monkeypatch.setattr(context_set, "read_context", lambda path: found)
        return tmp_path / "context.json"

    return make


def shown(found, name):
    return [(e.image.name, e.mask.name, e.labels) for e in found.structures[name]]


# Files.


def test_masks_alone_show_one_structure(tmp_path):
    pairs = [(tmp_path / "a.nii", tmp_path / "a_label.nii"), (tmp_path / "b.nii", tmp_path / "m")]
    found = from_files(None, pairs)
    assert found.values == {"structure": 1}
    assert shown(found, "structure") == [("a.nii", "a_label.nii", None), ("b.nii", "m", None)]
    assert found.files == (*pairs[0], *pairs[1])


def test_labels_make_several_structures_of_masks(tmp_path):
    found = from_files(None, [(tmp_path / "a", tmp_path / "m")], {4: "liver", 2: "spleen"})
    assert found.values == {"liver": 4, "spleen": 2}
    assert shown(found, "liver") == [("a", "m", [4])]
    assert shown(found, "spleen") == [("a", "m", [2])]
    assert found.files == (tmp_path / "a", tmp_path / "m")


def test_a_json_file_is_taken_as_it_is_and_protected_too(of_json, tmp_path):
    examples = [Example(tmp_path / "x.nii", points=[(0.0, 0.0, 0.0)])]
    path = of_json(liver=examples, spleen=[])
    found = from_files(path)
    assert found.structures == {"liver": examples, "spleen": []}
    assert found.values == {"liver": 7, "spleen": 8}
    assert found.files == (path, tmp_path / "x.nii")


def test_another_network_than_that_of_the_json_file_gives_a_note(of_json, tmp_path):
    found = from_files(of_json(liver=[Example(tmp_path / "x", points=[(0.0, 0.0, 0.0)])]))
    assert found.notes_for(["small"]) == ()
    assert found._replace(network="/elsewhere/runs/a").notes_for(["runs/a"]) == ()
    assert found._replace(network=None).notes_for(["runs/a"]) == ()
    for networks, named in ((["runs/a"], "runs/a"), (["small", "b"], "small and b")):
        (note,) = found.notes_for(networks)
        assert note == f"the context set was made with the network small, and is used with {named}"


@pytest.mark.parametrize("labels", [None, {3: "liver"}])
def test_masks_join_the_one_structure_of_a_json_file(of_json, tmp_path, labels):
    given = [Example(tmp_path / "x.nii", points=[(0.0, 0.0, 0.0)])]
    found = from_files(of_json(liver=given), [(tmp_path / "a", tmp_path / "m")], labels)
    assert found.values == {"liver": 7}
    first, second = found.structures["liver"]
    assert first is given[0] and second.image == tmp_path / "a"
    assert second.labels == (None if labels is None else [3])
    assert len(given) == 1


@pytest.mark.parametrize(
    ("structures", "labels"),
    [
        (["liver", "spleen"], None),
        (["liver"], {1: "spleen"}),
        (["liver"], {1: "liver", 2: "spleen"}),
    ],
)
def test_masks_of_other_structures_than_the_json_file_shows_are_refused(
    of_json, tmp_path, structures, labels
):
    path = of_json(**{name: [] for name in structures})
    with pytest.raises(PromptError, match="both must have the same one structure"):
        from_files(path, [(tmp_path / "a", tmp_path / "m")], labels)


def test_labels_without_masks_and_nothing_at_all_are_refused(of_json):
    with pytest.raises(DataError, match="add images with masks"):
        from_files(of_json(liver=[]), labels={1: "liver"})
    with pytest.raises(PromptError, match="no context set"):
        from_files(None)


# Data sets.


def test_a_data_set_shows_its_structures_with_its_own_values(nnunet):
    found = from_dataset(nnunet, subjects=6)
    assert found.values == {"liver": 1, "spleen": 2, "gall bladder": 5}
    images = {name: sorted(image for image, _, _ in shown(found, name)) for name in found.values}
    assert images["liver"] == [f"{name}_0000.nii.gz" for name in CASES]
    assert images["spleen"] == images["liver"][1:]
    assert shown(found, "gall bladder") == [("c5_0000.nii.gz", "c5.nii.gz", [5])]
    assert {nnunet / "imagesTr/c3_0001.nii.gz", nnunet / "labelsTr/c0.nii.gz"} < set(found.files)
    assert found.notes == (f"{nnunet}: 6 of 6 training cases: {', '.join(CASES)}",)


def test_the_same_seed_draws_the_same_cases_and_another_one_others(nnunet):
    drawn = [shown(from_dataset(nnunet, subjects=3, seed=s), "liver") for s in (0, 0, *range(1, 6))]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 3
    assert any(other != drawn[0] for other in drawn[2:])
    assert shown(from_dataset(nnunet, subjects=2), "liver") == drawn[0][:2]


def test_a_case_more_joins_for_a_structure_that_the_drawn_ones_lack(nnunet):
    for seed in range(6):
        found = from_dataset(nnunet, subjects=1, seed=seed)
        assert len(found.structures["liver"]) == 1
        assert shown(found, "gall bladder") == [("c5_0000.nii.gz", "c5.nii.gz", [5])]


def test_structures_and_channel_are_chosen(nnunet):
    found = from_dataset(nnunet, structures=["spleen"], channel=1, subjects=2)
    assert found.values == {"spleen": 2}
    assert all(image.endswith("_0001.nii.gz") for image, _, _ in shown(found, "spleen"))


def test_targets_never_show_themselves(nnunet):
    targets = [nnunet / f"imagesTr/../imagesTr/{name}_0000.nii.gz" for name in CASES[:4]]
    found = from_dataset(nnunet, targets=targets, structures=["liver"])
    assert sorted(image for image, _, _ in shown(found, "liver")) == [
        *("c4_0000.nii.gz", "c5_0000.nii.gz"),
    ]
    with pytest.raises(DataError, match="no training case to use: of 6, 6 are targets"):
        from_dataset(nnunet, targets=[nnunet / f"imagesTr/{n}_0000.nii.gz" for n in CASES])


def test_channels_within_a_file_are_read(tmp_path):
    for name in ("c0", "c1"):
        image = np.random.default_rng(0).random((*SHAPE, 2), np.float32)
        save(tmp_path / f"imagesTr/{name}.nii.gz", image)
        save(tmp_path / f"labelsTr/{name}.nii.gz", label_of(name))
    files = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in ("c0", "c1")
    ]
    content = {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "none", "1": "liver"}}
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "training": files}))
    found = from_dataset(tmp_path, channel=1)
    (first, _) = found.structures["liver"]
    np.testing.assert_array_equal(first.load().volume.image, image[..., 1])
    assert tmp_path / "imagesTr/c0.nii.gz" in found.files


def test_folders_of_images_and_labels_are_named_by_the_user(tmp_path):
    save(tmp_path / "images/a.nii.gz", np.ones(SHAPE, np.int16))
    save(tmp_path / "labels/a.nii.gz", label_of("c5"))
    with pytest.raises(DataError, match="--labels liver=1,spleen=2"):
        from_dataset(tmp_path)
    found = from_dataset(tmp_path, labels={5: "gall bladder"})
    assert shown(found, "gall bladder") == [("a.nii.gz", "a.nii.gz", [5])]


def test_a_structure_that_no_case_has_is_skipped_with_a_note_unless_it_was_requested(nnunet):
    labels = {1: "liver", 9: "heart", 10: "aorta"}
    context = from_dataset(nnunet, labels=labels)
    assert context.values == {"liver": 1} and list(context.structures) == ["liver"]
    assert context.notes[1] == f"{nnunet}: skipped heart, aorta, which no training case has"
    with pytest.raises(DataError, match=r"no training case of .* has heart; choose other"):
        from_dataset(nnunet, labels=labels, structures=["liver", "heart"])


def test_excluded_structures_are_not_in_the_task(nnunet):
    assert from_dataset(nnunet, exclude=["spleen"]).values == {"liver": 1, "gall bladder": 5}
    both = from_dataset(nnunet, structures=["liver", "spleen"], exclude=["spleen"])
    assert both.values == {"liver": 1}
    with pytest.raises(DataError, match=r"no structures \['heart'\]"):
        from_dataset(nnunet, exclude=["heart"])
    with pytest.raises(DataError, match=r"all structures of .* are excluded"):
        from_dataset(nnunet, structures=["liver"], exclude=["liver"])


def test_a_damaged_case_is_skipped_with_a_note(nnunet, tmp_path):
    for name in ("c1", "c2"):
        save(tmp_path / f"imagesTr/{name}_0000.nii.gz", np.ones(SHAPE, np.int16))
        save(tmp_path / f"labelsTr/{name}.nii.gz", label_of(name))
    (tmp_path / "labelsTr/c1.nii.gz").write_bytes(b"")
    (tmp_path / "labelsTr/lonely.nii.gz").write_bytes(b"")
    described(tmp_path, channel_names={"0": "T1"})
    found = from_dataset(tmp_path, structures=["liver"])
    assert [image for image, _, _ in shown(found, "liver")] == ["c2_0000.nii.gz"]
    assert "lonely has a label but no image" in found.notes[1]
    assert "c1.nii.gz is empty" in found.notes[1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"structures": ["liver", "heart"]}, r"no structures \['heart'\]; it has \['liver', 's"),
        ({"channel": 2}, r"channels \['T1', 'T2'\], numbered from 0; there is no channel 2"),
        ({"labels": {9: "heart"}}, "no training case of .* has heart"),
    ],
)
def test_what_a_data_set_does_not_have_is_reported(nnunet, options, reason):
    with pytest.raises(DataError, match=reason):
        from_dataset(nnunet, **options)


def test_dicom_is_refused(tmp_path):
    files = write_series(tmp_path / "p1/ct", np.ones(SHAPE, np.int16), np.eye(4))
    write_segmentation(tmp_path / "p1/seg.dcm", files, {"liver": np.ones(SHAPE, bool)})
    with pytest.raises(DataError, match=r"is DICOM, .* convert them to label maps"):
        from_dataset(tmp_path)
