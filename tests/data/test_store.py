import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import wsicl_jax.data.store
from wsicl_jax.data.catalogue import SourceFile, SourceGrid
from wsicl_jax.data.store import (
    CATALOGUE,
    SKIPPED,
    Store,
    complete_cases,
    is_intact,
    read_case,
    read_skipped,
)
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.storage.digests import CHECKSUM, is_valid_line, to_line, with_digest
from wsicl_jax.storage.location import Location

SHAPE = (4, 5, 7)
AFFINE = np.array([[0, -0.7, 0.1, 3], [1.5, 0, 0, -2], [0.2, 0, 3.1, 9], [0, 0, 0, 1]], float)
IMAGE = np.arange(2 * 4 * 5 * 7, dtype=np.float32).reshape(2, *SHAPE)
LABEL = np.zeros(SHAPE, np.int32)
LABEL[1:3, 2:5, 6] = 2
LABEL[0, 0, 0] = 300
WAY = WorkingGrid((7, 6, 5), SHAPE, (2, 1, 0), (True, False, False), Box((0, 0, 0), (4, 5, 7)))
FILES = (SourceFile("b_0000.nii.gz", 120, 7), SourceFile("b.nii.gz", 30, 2**61 + 1))
SOURCE = SourceGrid(FILES, np.eye(4), WAY, ((0.0, 3.5),) * 2)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "two words"
    create_store(path, "Dataset001_Test", ("T1", "T2"), {2: "left", 300: "right", 7: "rare"})
    write_case(path, "b", IMAGE, LABEL, AFFINE, subject="B", source=SOURCE, remarks=["odd"])
    write_case(path, "a", IMAGE + 1, LABEL * 0, AFFINE)
    finish_store(path)
    return path


def test_what_was_written_is_read(path):
    store = Store.open(path)
    assert store.name == "Dataset001_Test"
    assert store.channel_names == ("T1", "T2")
    assert store.label_names == {2: "left", 7: "rare", 300: "right"}
    assert store.cases == ("a", "b")
    np.testing.assert_array_equal(store.read_image("b"), IMAGE[0])
    np.testing.assert_array_equal(store.read_image("b", channel=1), IMAGE[1])
    np.testing.assert_array_equal(store.read_label("b"), LABEL)


def test_a_case_tells_its_grid_and_labels_without_its_voxels(path):
    for chunk in [*(path / "cases" / "b").glob("**/c")]:
        chunk.rename(chunk.with_name("away"))
    case = Store.open(path).case("b")
    assert (case.name, case.shape) == ("b", SHAPE)
    np.testing.assert_array_equal(case.affine, AFFINE)
    np.testing.assert_allclose(case.spacing_mm, np.linalg.norm(AFFINE[:3, :3], axis=0))
    assert case.voxel_counts == {2: 6, 300: 1}
    assert case.boxes == {2: Box((1, 2, 6), (3, 5, 7)), 300: Box((0, 0, 0), (1, 1, 1))}
    assert (case.subject, case.remarks, case.orientation) == ("B", ("odd",), "ALS")


def test_a_case_tells_what_it_was_made_of(path):
    source = Store.open(path).case("b").source
    assert (source.files, source.grid) == (SOURCE.files, WAY)
    assert source.intensities == SOURCE.intensities
    np.testing.assert_array_equal(source.affine, np.eye(4))
    assert Store.open(path).case("a").source.grid == WorkingGrid(SHAPE, SHAPE)


def test_a_case_without_structures_has_no_boxes(path):
    case = Store.open(path).case("a")
    assert (case.voxel_counts, case.boxes) == ({}, {})


def test_a_store_goes_through_pickle_and_another_working_directory(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    pickled = pickle.dumps(Store.open(path.name))
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(pickle.loads(pickled).read_image("b"), IMAGE[0])


def test_zarr_python_reads_the_same_numbers(path):
    case = zarr.open_group(path, mode="r")["cases/b"]
    np.testing.assert_array_equal(case["0"][:], IMAGE)
    np.testing.assert_array_equal(case["labels/structures/0"][:], LABEL)
    assert sorted(zarr.open_group(path, mode="r")["cases"].group_keys()) == ["a", "b"]


def test_metadata_is_ome_zarr_0_5(path):
    case = zarr.open_group(path, mode="r")["cases/b"]
    spacing = np.linalg.norm(AFFINE[:3, :3], axis=0).tolist()
    for group, axes, scale in (
        (case, "cxyz", [1, *spacing]),
        (case["labels/structures"], "xyz", spacing),
    ):
        assert group.attrs["ome"]["version"] == "0.5"
        (image,) = group.attrs["ome"]["multiscales"]
        assert [axis["name"] for axis in image["axes"]] == list(axes)
        assert {axis.get("unit") for axis in image["axes"][-3:]} == {"millimeter"}
        (dataset,) = image["datasets"]
        transform, *_ = dataset["coordinateTransformations"]
        assert (dataset["path"], transform["type"]) == ("0", "scale")
        np.testing.assert_allclose(transform["scale"], scale)
        assert group["0"].metadata.dimension_names == tuple(axes)
    assert case["labels"].attrs["ome"]["labels"] == ["structures"]
    described = case["labels/structures"].attrs["ome"]["image-label"]["properties"]
    assert {"label-value": 300, "name": "right"} in described


def test_labels_take_the_smallest_type_and_integer_images_keep_theirs(tmp_path):
    create_store(tmp_path / "s", "s", ("CT",), {1: "liver"})
    write_case(tmp_path / "s", "a", np.zeros((1, *SHAPE), np.int16), LABEL * 0, AFFINE)
    finish_store(tmp_path / "s")
    store = Store.open(tmp_path / "s")
    assert store.read_label("a").dtype == np.uint8
    assert store.read_image("a").dtype == np.int16


def test_volumes_larger_than_a_chunk_are_read_completely(tmp_path):
    label = np.zeros((130, 3, 257), np.uint8)
    label[129, 2, 120:256] = 1
    create_store(tmp_path / "s", "s", ("CT",), {1: "liver"})
    write_case(tmp_path / "s", "a", label[None].astype(np.float32), label, AFFINE)
    finish_store(tmp_path / "s")
    store = Store.open(tmp_path / "s")
    np.testing.assert_array_equal(store.read_label("a"), label)
    np.testing.assert_array_equal(store.read_image("a"), label)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), shape=hnp.array_shapes(min_dims=3, max_dims=3, max_side=6))
def test_any_case_comes_back(tmp_path_factory, data, shape):
    labels = hnp.arrays(np.int64, shape, elements=st.sampled_from([0, 1, 5, 70_000]))
    kinds = st.sampled_from([np.float32, np.uint8, np.int16, np.uint32])
    image = data.draw(kinds.flatmap(lambda kind: hnp.arrays(kind, (1, *shape))))
    label = data.draw(labels)
    affine = np.eye(4)
    affine[:3] = data.draw(hnp.arrays(np.float64, (3, 4), elements=st.floats(-1e3, 1e3)))
    affine[:3, :3] += 1e4 * np.eye(3)  # never singular
    path = tmp_path_factory.mktemp("any") / "store"
    create_store(path, "any", ("MR",), {1: "a", 5: "b", 70_000: "c"})
    write_case(path, "case", image, label, affine)
    finish_store(path)
    store = Store.open(path)
    case = store.case("case")
    assert store.read_image("case").dtype == image.dtype
    np.testing.assert_array_equal(store.read_image("case"), image[0])
    np.testing.assert_array_equal(store.read_label("case"), label)
    np.testing.assert_array_equal(case.affine, affine)
    present = {value for value in (1, 5, 70_000) if (label == value).any()}
    assert case.voxel_counts == {value: (label == value).sum() for value in present}
    assert case.boxes == {value: Box.around(label == value) for value in present}


def damage(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize("spoil", [damage, lambda f: f.write_bytes(b""), lambda f: f.unlink()])
@pytest.mark.parametrize(
    ("array", "read"), [("0", Store.read_image), ("labels/structures/0", Store.read_label)]
)
def test_a_damaged_or_missing_chunk_names_case_and_array(path, array, read, spoil):
    (spoilt,) = (path / "cases" / "b" / array).glob("c/0/0/0" + "/0" * (array == "0"))
    spoil(spoilt)
    with pytest.raises(DataError, match=f"case b: array {array} cannot be read"):
        read(Store.open(path), "b")


def test_a_store_that_has_vanished_is_not_to_be_converted_again(path):
    store = Store.open(path)
    shutil.move(path, path.with_name("moved"))
    with pytest.raises(DataError, match=r"not there any more; bring it back") as told:
        store.read("b")
    assert "convert" not in str(told.value)


def test_a_channel_is_read_without_the_others(path):
    damage(path / "cases/b/0/c/1/0/0/0")
    np.testing.assert_array_equal(Store.open(path).read_image("b", 0), IMAGE[0])


def test_a_missing_array_names_case_and_array(path):
    (path / "cases/b/0/zarr.json").unlink()
    with pytest.raises(DataError, match="case b: array 0 cannot be read"):
        Store.open(path).read_image("b")


@pytest.mark.parametrize("spoil", [damage, lambda f: f.write_text("{}\n")])
def test_a_damaged_catalogue_is_named_with_its_line(path, spoil):
    spoil(path / CATALOGUE)
    with pytest.raises(DataError, match=rf"{CATALOGUE} is damaged in line [12]"):
        Store.open(path)


def test_catalogues_with_keys_in_any_order_are_read_alike(path):
    def properties():
        return [
            (c.name, c.affine.tolist(), c.boxes, c.voxel_counts, str(c.source.grid), c.remarks)
            for c in Store.open(path).catalogue.values()
        ]

    expected, lines = properties(), (path / CATALOGUE).read_bytes().splitlines()
    assert all(map(is_valid_line, lines))
    other = [json.dumps(dict(reversed(json.loads(line).items()))).encode() for line in lines]
    assert not any(map(is_valid_line, other))
    (path / CATALOGUE).write_bytes(b"\n".join(other))
    assert properties() == expected


def with_subject(path: Path, subject: str) -> None:
    """Rename the subject of the catalogue's first case, with a valid checksum."""
    first, *others = (path / CATALOGUE).read_bytes().splitlines()
    entry = json.loads(first) | {"subject": subject}
    del entry[CHECKSUM]
    (path / CATALOGUE).write_bytes(b"\n".join([to_line(with_digest(entry)), *others]))


def test_letters_of_any_script_in_a_catalogue_are_read(path):
    with_subject(path, "Zo\u00eb \u5f20")
    assert next(iter(Store.open(path).catalogue.values())).subject == "Zo\u00eb \u5f20"


@pytest.mark.parametrize("subject", ["\ud800", "a\0"])
def test_what_is_no_character_in_a_catalogue_is_damage_even_with_a_valid_checksum(path, subject):
    with_subject(path, subject)
    with pytest.raises(DataError, match=rf"{CATALOGUE} is damaged in line 1"):
        Store.open(path)


@pytest.mark.parametrize("content", ["{", "[]", '{"attributes": {"wsicl": {"shape": [1]}}}'])
def test_a_case_with_damaged_metadata_is_not_taken_for_one(path, content):
    (path / "cases/b/zarr.json").write_text(content)
    assert read_case(Location.of(path), "b") is None


@pytest.mark.parametrize("array", ["0/c/1/0/0/0", "labels/structures/0/c/0/0/0"])
def test_a_case_is_intact_until_a_byte_of_it_is_changed(path, array):
    case = Store.open(path).case("b")
    assert is_intact(Location.of(path), case)
    damage(path / "cases/b" / array)
    assert not is_intact(Location.of(path), case)


def test_equal_cases_have_equal_digests_and_any_other_voxel_another_one(path):
    first = Store.open(path).case("b").digest
    write_case(path, "b", IMAGE, LABEL, AFFINE)
    assert read_case(Location.of(path), "b").digest == first
    other = LABEL.copy()
    other[3, 3, 3] = 7
    write_case(path, "b", IMAGE, other, AFFINE)
    assert read_case(Location.of(path), "b").digest != first


def test_an_unknown_case_or_channel_is_named_with_the_existing_ones(path):
    store = Store.open(path)
    with pytest.raises(DataError, match="no case 'bb'; nearest is 'b'"):
        store.case("bb")
    with pytest.raises(DataError, match=re.escape("no channel 2; it has ('T1', 'T2')")):
        store.read_image("b", channel=2)


def test_a_missing_store_is_named_with_the_nearest(path):
    with pytest.raises(DataError, match=r"no store at .*two_words; nearest is .*two words"):
        Store.open(path.parent / "two_words")


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(DataError, match="is no store of wsicl_jax"):
        Store.open(tmp_path)
    zarr.open_group(tmp_path, mode="w", attributes={"other": 1})
    with pytest.raises(DataError, match="is no store of wsicl_jax"):
        Store.open(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match="a data set's folder"):
        Store.open(tmp_path)


@pytest.mark.parametrize(("other", "advice"), [(3, "install a newer one"), (1, "convert")])
def test_another_format_is_refused(path, other, advice):
    file = path / "zarr.json"
    root = json.loads(file.read_text())
    root["attributes"]["wsicl"]["format"] = other
    file.write_text(json.dumps(root))
    with pytest.raises(DataError, match=f"format {other}, this wsicl_jax reads format 2; {advice}"):
        Store.open(path)


def test_a_store_is_not_opened_before_it_is_finished(tmp_path):
    create_store(tmp_path / "s", "s", ("T1", "T2"), {2: "left", 300: "right"})
    write_case(tmp_path / "s", "a", IMAGE, LABEL, AFFINE)
    with pytest.raises(DataError, match="is not finished; run the command that started it again"):
        Store.open(tmp_path / "s")
    finish_store(tmp_path / "s")
    assert Store.open(tmp_path / "s").cases == ("a",)


def test_a_case_is_complete_only_when_all_of_it_is_written(tmp_path, monkeypatch):
    def told(self, key, content):
        if key.startswith("cases/a"):
            seen.append(key)
            assert complete_cases(self) == set()
        write(self, key, content)

    seen, write = [], Location.write
    create_store(tmp_path / "s", "s", ("T1", "T2"), {2: "left", 300: "right"})
    monkeypatch.setattr(wsicl_jax.data.store.Location, "write", told)
    write_case(tmp_path / "s", "a", IMAGE, LABEL, AFFINE)
    assert seen[-1] == "cases/a/zarr.json"
    assert complete_cases(Location.of(tmp_path / "s")) == {"a"}


def test_what_a_case_had_before_is_gone_when_it_is_written_again(path):
    (path / "cases/b/0/c/9").write_text("left over")
    write_case(path, "b", IMAGE, LABEL, AFFINE)
    assert not (path / "cases/b/0/c/9").exists()


def test_a_requested_incomplete_case_does_not_finish_a_store(path):
    with pytest.raises(DataError, match="case c is incomplete"):
        finish_store(path, ["a", "c"])
    assert Store.open(path).cases == ("a", "b")


def test_an_existing_path_is_not_overwritten(path):
    with pytest.raises(DataError, match="exists already"):
        create_store(path, "other", ("T1",), {1: "a"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "../c"}, "cannot name a case"),
        ({"name": ".c"}, "cannot name a case"),
        ({"image": IMAGE[:1]}, "expected channels"),
        ({"label": LABEL[:3]}, "equal sides"),
        ({"label": LABEL * 0 - 1}, r"labels \[-1\] have no name"),
    ],
)
def test_a_case_that_does_not_fit_leaves_no_trace(path, change, reason):
    before = sorted((path / "cases").iterdir())
    case = {"name": "c", "image": IMAGE, "label": LABEL, "affine": AFFINE} | change
    with pytest.raises(DataError, match=reason):
        write_case(path, **case)
    assert sorted((path / "cases").iterdir()) == before


def changed_entry(path, change):
    """Change the line of case b, and give it the right checksum."""
    lines = (path / CATALOGUE).read_text().splitlines()
    entry = json.loads(lines[1])
    entry.pop("checksum")
    change(entry)
    (path / CATALOGUE).write_text(f"{lines[0]}\n{json.dumps(with_digest(entry))}\n")


OTHER_SHAPES = {
    "labels are a list": lambda e: e.update(labels=[1, 2]),
    "a shape of text": lambda e: e.update(shape=["4", "5", "7"]),
    "a shape of two": lambda e: e.update(shape=[4, 5]),
    "a shape of nothing": lambda e: e.update(shape=[0, 5, 7]),
    "a singular affine": lambda e: e.update(affine=np.zeros((4, 4)).tolist()),
    "an affine of NaN": lambda e: e["affine"][0].__setitem__(0, float("nan")),
    "an affine of three rows": lambda e: e["affine"].pop(),
    "no source": lambda e: e.pop("source"),
    "a source that is text": lambda e: e.update(source="b.nii.gz"),
    "an order of one axis": lambda e: e["source"].update(order=[0, 0, 0]),
    "a crop outside": lambda e: e["source"].update(crop=[[0, 0, 0], [99, 5, 7]]),
    "a box outside": lambda e: e["labels"]["2"].update(box=[[0, 0, 0], [99, 1, 1]]),
    "voxels of text": lambda e: e["labels"]["2"].update(voxels="6"),
    "a name that leads elsewhere": lambda e: e.update(case="../b"),
    "a label without a name": lambda e: e["labels"].update({"9": e["labels"]["2"]}),
    "remarks that are text": lambda e: e.update(remarks="odd"),
}


@pytest.mark.parametrize("change", OTHER_SHAPES.values(), ids=OTHER_SHAPES.keys())
def test_metadata_of_another_shape_is_refused_though_its_checksum_fits(path, change):
    changed_entry(path, change)
    with pytest.raises(DataError, match=f"{CATALOGUE} is damaged"):
        Store.open(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("label_names", ["left"]), ("channel_names", "T1"), ("name", 3), ("preparation", [])],
)
def test_a_root_of_another_shape_is_refused(path, key, value):
    content = json.loads((path / "zarr.json").read_text())
    content["attributes"]["wsicl"][key] = value
    (path / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"zarr\.json is damaged: .*convert the data again"):
        Store.open(path)


@pytest.mark.parametrize("content", [b'{"a": "\xff"}', b"[1]", b'{"a": 3}', b"{"])
def test_a_damaged_list_of_skipped_cases_is_an_error(path, content):
    (path / SKIPPED).write_bytes(content)
    with pytest.raises(DataError, match=r"skipped\.json is damaged"):
        read_skipped(Location.of(path))


def test_an_array_that_claims_another_size_is_not_read(path):
    file = path / "cases" / "b" / "0" / "zarr.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"shape": [2, 40_000, 50_000, 70_000]}))
    with pytest.raises(DataError, match=r"case b: array 0 cannot be read.*has shape"):
        Store.open(path).read_image("b")
    assert not is_intact(Location.of(path), Store.open(path).case("b"))


def test_a_case_whose_axes_have_no_direction_is_not_written(tmp_path):
    create_store(tmp_path / "s", "s", ("CT",), {1: "liver"})
    with pytest.raises(DataError, match="case a: its affine is singular"):
        write_case(tmp_path / "s", "a", IMAGE[:1], LABEL * 0, np.diag([1.0, 0, 1, 1]))
