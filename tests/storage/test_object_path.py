"""Paths in object stores behave as paths on disks do."""

from pathlib import Path

import pytest

from wsicl_jax.errors import DataError, UnreachableError
from wsicl_jax.storage.object_path import ObjectPath, names_below, place_of
from wsicl_jax.storage.transfer import on_disk


@pytest.fixture(params=["directory", "s3"])
def place(request, tmp_path):
    if request.param == "directory":
        return tmp_path / "run"
    return place_of(request.getfixturevalue("s3")) / "run"


def test_a_place_has_what_was_written_below_it(place):
    assert not place.exists() and not place.is_dir() and names_below(place) == []
    (place / "a").mkdir(parents=True, exist_ok=True)
    (place / "a" / "b").write_bytes(b"1")
    (place / "a" / "bc").write_bytes(b"2")
    (place / "d").write_bytes(b"3")
    assert place.exists() and place.is_dir() and not place.is_file()
    assert (place / "d").is_file() and (place / "a" / "b").is_file()
    assert not (place / "a").is_file() and not (place / "a" / "b").is_dir()
    assert sorted(path.name for path in place.iterdir()) == ["a", "d"]
    assert names_below(place) == ["a/b", "a/bc", "d"]
    (place / "a" / "b").unlink()
    assert names_below(place) == ["a/bc", "d"]
    assert (place / "d").read_bytes() == b"3"


def test_the_parts_of_a_place(place):
    below = place / "checkpoints" / "8"
    assert (below.name, below.parent.name, below.parent.parent) == ("8", "checkpoints", place)
    assert below.absolute() == below and below.parts[-2:] == ("checkpoints", "8")
    assert below.with_name("9") == place / "checkpoints" / "9"


def test_what_is_missing_is_an_error_of_its_own_kind(place):
    with pytest.raises(FileNotFoundError):
        (place / "nothing").read_bytes()
    with pytest.raises(FileNotFoundError), on_disk(place / "nothing") as copy:
        copy.read_bytes()


def test_a_copy_on_disk_has_the_same_files_and_errors_name_the_place(place):
    (place / "a").mkdir(parents=True, exist_ok=True)
    (place / "a" / "b").write_bytes(b"1")
    with pytest.raises(DataError) as raised, on_disk(place) as copy:
        assert names_below(copy) == ["a/b"] and (copy / "a" / "b").read_bytes() == b"1"
        raise DataError(f"{copy} is damaged")
    assert str(raised.value) == f"{place} is damaged"
    if place != copy:
        assert not copy.exists()


def test_a_bucket_that_does_not_exist_is_no_empty_directory(s3):
    nowhere = ObjectPath("s3://no-such-bucket-here/runs/x")
    for ask in (nowhere.exists, nowhere.is_dir, lambda: (nowhere / "a").write_bytes(b"")):
        with pytest.raises(UnreachableError, match=r"s3://no-such-bucket-here/runs.*NoSuchBucket"):
            ask()


def test_paths_stay_paths_and_other_schemes_are_refused():
    assert place_of("runs/x") == Path("runs/x") == place_of(Path("runs/x"))
    assert place_of("gs://bucket/x/") == ObjectPath("gs://bucket/x")
    assert ObjectPath("s3://bucket").parent == ObjectPath("s3://bucket")
    for wrong in ("http://host/run", "s4://bucket/run", "s3:/bucket/run", "s3://"):
        with pytest.raises(DataError, match="s3://"):
            place_of(wrong)
