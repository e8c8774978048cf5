import json

import numpy as np
import pytest

from wsicl_jax.cli import main
from wsicl_jax.data.store import CATALOGUE
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.data.verify import verify
from wsicl_jax.errors import DataError

SHAPE = (40, 70, 6)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "store"
    create_store(path, "test", ("T1", "T2"), {1: "left"})
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        label = np.zeros(SHAPE, np.uint8)
        label[3:9, 60:, 2:4] = 1
        image = rng.integers(0, 900, (2, *SHAPE)).astype(np.int16)
        write_case(path, name, image, label, np.eye(4))
    finish_store(path)
    return path


def flip(file, place: float = 0.5):
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x10
    file.write_bytes(content)


def test_a_store_as_it_was_written_has_no_damage(path, capsys):
    assert verify(path) == (3, [])
    assert main(["data", "verify", str(path)]) == 0
    assert "3 cases, every byte as it was written" in capsys.readouterr().out


@pytest.mark.parametrize("place", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("file", ["0/c/1/0/0/0", "labels/structures/0/c/0/0/0"])
def test_every_damaged_chunk_is_named_with_case_and_file(path, file, place, capsys):
    flip(path / "cases/b" / file, place)
    _, (damage,) = verify(path)
    assert (damage.case, damage.file) == ("b", f"cases/b/{file}")
    assert main(["data", "verify", str(path)]) == 1
    assert "cases/b" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("cases/b/0/c/0/0/0/0", lambda f: f.unlink()),
        ("cases/b/0/c/0/0/0/0", lambda f: f.write_bytes(b"")),
        ("cases/b/0/zarr.json", lambda f: f.write_text("{")),
        ("cases/b/zarr.json", lambda f: f.unlink()),
        ("cases/b/labels/zarr.json", lambda f: f.unlink()),
        ("cases/b/labels/structures/zarr.json", lambda f: f.write_text("[]")),
    ],
)
def test_what_is_missing_or_no_metadata_is_named(path, file, spoil):
    spoil(path / file)
    assert {(damage.case, damage.file) for damage in verify(path)[1]} == {("b", file)}


def test_a_case_exchanged_for_another_one_is_noticed(path):
    entry = path / "cases/b/zarr.json"
    for array in ("0", "labels/structures/0"):
        for chunk in (path / "cases/c" / array / "c").rglob("0"):
            if chunk.is_file():
                target = path / "cases/b" / chunk.relative_to(path / "cases/c")
                target.write_bytes(chunk.read_bytes())
    _, (damage,) = verify(path)
    assert (damage.case, damage.description) == ("b", "has other voxels than were written")
    content = json.loads(entry.read_text())
    content["attributes"]["wsicl"]["digest"] = "0"
    entry.write_text(json.dumps(content))
    _, (damage,) = verify(path)
    assert damage.file == "cases/b/zarr.json"


def test_a_case_written_after_the_catalogue_is_noticed(path):
    write_case(path, "b", np.ones((2, *SHAPE)), np.zeros(SHAPE, np.uint8), np.eye(4))
    _, (damage,) = verify(path)
    assert damage.description == f"is of another conversion than {CATALOGUE}"


def test_a_store_without_catalogue_is_unfinished(path):
    (path / CATALOGUE).unlink()
    _, (damage,) = verify(path)
    assert damage.file == CATALOGUE


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(DataError, match="no store at"):
        verify(tmp_path / "none")


def test_a_store_on_an_object_store_is_verified(s3):
    create_store(f"{s3}/a", "test", ("CT",), {1: "left"})
    write_case(f"{s3}/a", "x", np.ones((1, *SHAPE)), np.ones(SHAPE, np.uint8), np.eye(4))
    finish_store(f"{s3}/a")
    assert verify(f"{s3}/a") == (1, [])
