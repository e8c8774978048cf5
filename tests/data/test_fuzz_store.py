"""Damaged stores and manifests: every mutant is read, or refused with the package's own error."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fuzz import failures

from wsicl_jax.data.manifest import (
    CaseRecord,
    DataSetRecord,
    Manifest,
    read_manifest,
    write_manifest,
)
from wsicl_jax.data.store import CATALOGUE, SKIPPED, Store, is_intact, read_case, read_skipped
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.data.verify import verify
from wsicl_jax.errors import WsiclError
from wsicl_jax.storage.digests import CHECKSUM, to_line, with_digest
from wsicl_jax.storage.location import Location
from wsicl_jax.tools.info import describe
from wsicl_jax.tools.show.store_listing import listing

COUNTS = [50, pytest.param(2000, marks=pytest.mark.slow)]
WORDS = (
    *(b'"labels": []', b'"shape": [0, 0, 0]', b'"shape": [100000, 100000, 100000]', b"[[0]]"),
    *(b'"affine": [[0,0,0,0],[0,0,0,0],[0,0,0,0],[0,0,0,1]]', b'"case": "../a"', b"NaN", b"1e400"),
    *(b'"order": [0, 0, 0]', b'"format": "2"', b'"label_names": []', b'"\\ud800"', b'"\\u0000"'),
    *(b'"chunk_shape": [1, 1, 1, 1]', b'"data_type": "complex128"', b'"preparation": {"ras": 3}'),
)


def files_below(folder: Path, first: str) -> dict[str, bytes]:
    found = {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    return {first: found.pop(first), **found}


def store(folder: Path) -> Path:
    path = folder / "store"
    create_store(path, "Data", ("T1", "T2"), {2: "left", 300: "right"})
    image = np.arange(2 * 4 * 5 * 7, dtype=np.int16).reshape(2, 4, 5, 7)
    label = np.zeros((4, 5, 7), np.int32)
    label[1:3, 2:5, 6] = 2
    write_case(path, "a", image, label, np.diag([1.5, 1, 3, 1]), subject="A", remarks=["odd"])
    write_case(path, "b", image, label * 0, np.diag([1.5, 1, 3, 1]))
    finish_store(path)
    (path / SKIPPED).write_text(json.dumps({"c": "has no label"}))
    return path


def manifest(folder: Path) -> Path:
    record = DataSetRecord(
        "Data", "stores/a", True, ("T1",), {1: "left"}, 0, {"a": CaseRecord("A", "train", "0")}, {}
    )
    write_manifest(folder, Manifest((record,)))
    return folder / "data.json"


def with_valid_digest(content: bytes) -> bytes:
    """The content with a valid checksum, so that readers check more than that."""
    if CHECKSUM.encode() not in content:  # most lines of a mutant with 100,000 line ends
        return content
    with suppress(ValueError, RecursionError):
        value = json.loads(content)
        if isinstance(value, dict) and CHECKSUM in value:
            sealed = with_digest({k: v for k, v in value.items() if k != CHECKSUM})
            # Both kinds of lines, as they are read in different ways.
            return to_line(sealed) if len(content) % 2 else json.dumps(sealed).encode()
    return content


def read_store(path):
    """Read all of a store in all ways, as it is and with valid checksums."""
    folder = path.parent
    use(folder)
    with suppress(OSError):
        catalogue = folder / CATALOGUE
        lines = catalogue.read_bytes().split(b"\n")
        catalogue.write_bytes(b"\n".join(map(with_valid_digest, lines)))
    with suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        file = folder / "cases" / "a" / "zarr.json"
        content = json.loads(file.read_bytes())
        entry = content["attributes"]["wsicl"]
        content["attributes"]["wsicl"] = json.loads(with_valid_digest(json.dumps(entry).encode()))
        file.write_text(json.dumps(content))
    use(folder)


def use(folder):
    """Use a store in every way, each whether or not the others fail."""
    location = Location.of(folder)
    with suppress(WsiclError):
        opened = Store.open(folder)
        for name in opened.cases:
            with suppress(WsiclError):
                opened.read(name)
    for command in (describe, lambda path: listing(str(path)), verify):
        with suppress(WsiclError):
            command(folder)
    with suppress(WsiclError):
        read_skipped(location)
    with suppress(WsiclError):
        if case := read_case(location, "a"):
            is_intact(location, case)


def read_manifest_with_valid_digest(path):
    """Read a manifest as it is, and with a valid checksum."""
    with suppress(WsiclError):
        read_manifest(path.parent)
    path.write_bytes(with_valid_digest(path.read_bytes()))
    read_manifest(path.parent)


def test_the_seeds_are_valid(tmp_path):
    assert Store.open(store(tmp_path)).cases == ("a", "b")
    assert read_manifest(manifest(tmp_path).parent).data_sets[0].name == "Data"


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    "first", ["zarr.json", CATALOGUE, SKIPPED, "cases/a/zarr.json", "cases/a/0/zarr.json"]
)
def test_a_damaged_store_is_refused_or_read(tmp_path, first, count):
    seed = files_below(store(tmp_path), "zarr.json")
    # The harness changes the first one most.
    seed = {f"store/{name}": content for name, content in ({first: seed[first]} | seed).items()}
    found = failures(READERS[first], [seed], tmp_path, count=count, words=WORDS)
    assert not found, "\n".join(map(str, found))


def read_above(path):
    """Read the store that a file deep in it belongs to."""
    while path.name != "store":
        path = path.parent
    read_store(path / "zarr.json")


READERS = dict.fromkeys([CATALOGUE, SKIPPED, "zarr.json"], read_store)
READERS |= dict.fromkeys(["cases/a/zarr.json", "cases/a/0/zarr.json"], read_above)


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_manifest_is_refused_or_read(tmp_path, count):
    seed = {"data.json": manifest(tmp_path).read_bytes()}
    found = failures(read_manifest_with_valid_digest, [seed], tmp_path, count=count, words=WORDS)
    assert not found, "\n".join(map(str, found))
