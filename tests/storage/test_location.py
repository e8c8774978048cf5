import pytest

from wsicl_jax.errors import DataError
from wsicl_jax.storage.location import Location


@pytest.fixture(params=["directory", "s3"])
def place(request, tmp_path):
    if request.param == "directory":
        return Location.of(tmp_path / "new" / "store")
    return Location.of(request.getfixturevalue("s3")) / "store"


def test_what_was_written_is_read_and_listed(place):
    assert place.read("a/b") is None
    assert list(place.keys()) == []
    place.write("a/b", b"first")
    place.write("a/b", b"second")
    place.write("c", b"third")
    assert place.read("a/b") == b"second"
    assert list(place.keys()) == ["a/b", "c"]
    assert list((place / "a").keys()) == ["b"]


def test_only_what_lies_below_is_listed_and_removed(place):
    for key in ("cases/a/1", "cases/a/2", "cases/ab/1", "cases/b", "d"):
        place.write(key, b"x")
    assert list(place.keys("cases/a/")) == ["cases/a/1", "cases/a/2"]
    place.delete("cases/a/")
    place.delete("cases/a/")
    assert list(place.keys()) == ["cases/ab/1", "cases/b", "d"]
    place.delete("d")
    assert list(place.keys()) == ["cases/ab/1", "cases/b"]
    place.delete()
    assert list(place.keys()) == []


def test_a_removed_directory_leaves_nothing_behind(tmp_path):
    place = Location.of(tmp_path / "store")
    place.write("a/b/c", b"x")
    place.delete("a/")
    assert list((tmp_path / "store").iterdir()) == []
    place.delete()
    assert not (tmp_path / "store").exists()


def test_paths_become_absolute_and_urls_lose_their_last_slash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Location.of("store/").url == str(tmp_path / "store")
    assert Location.of("gs://bucket/a/").url == "gs://bucket/a"
    spec = Location.of("gs://bucket/a/").kvstore
    assert (spec["driver"], spec["bucket"], spec["path"]) == ("gcs", "bucket", "a/")
    assert Location.of("s3://bucket").kvstore["path"] == ""


@pytest.mark.parametrize("url", ["http://host/store", "s3://", "s3:///"])
def test_a_url_of_no_object_store_is_refused_with_those_that_are(url):
    with pytest.raises(DataError, match="s3://"):
        Location.of(url)


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        Location.of(tmp_path / "file").write("a", b"x")


def test_a_server_that_refuses_is_told_with_the_url(s3):
    with pytest.raises(DataError, match=r"s3://no-such-bucket-here/a/zarr\.json cannot be written"):
        Location.of("s3://no-such-bucket-here/a").write("zarr.json", b"x")


def test_a_path_with_dots_is_what_it_is_to_the_system(tmp_path, monkeypatch):
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far" / "deep")
    monkeypatch.chdir(tmp_path / "here")
    Location.of("../stores").write("a/b", b"c")
    assert (tmp_path / "stores" / "a" / "b").read_bytes() == b"c"
    assert Location.of("../here/../stores").read("a/b") == b"c"
    assert Location.of("link/../stores").url == str(tmp_path.resolve() / "far" / "stores")
    assert Location.of("link").url == str(tmp_path / "here" / "link")


def test_a_path_with_nul_is_refused():
    with pytest.raises(DataError, match="an invalid character"):
        Location.of("stores/a\0")
