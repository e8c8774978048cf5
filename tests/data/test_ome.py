"""The metadata against the schemas that ngff.openmicroscopy.org publishes for OME-Zarr 0.5."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import referencing
import zarr

from wsicl_jax.data.store_writer import create_store, finish_store, write_case

SHAPE = (5, 70, 6)
RAS = np.array([[0.7, 0, 0, 3], [0, 1.5, 0, -2], [0, 0, 3, 9], [0, 0, 0, 1]])
OBLIQUE = np.array([[0, -0.7, 0.1, 3], [1.5, 0, 0, -2], [0.2, 0, 3.1, 9], [0, 0, 0, 1]])


def validator(name: str) -> jsonschema.Draft202012Validator:
    folder = Path(__file__).parent / "ome_zarr_0.5"
    schemas = [json.loads(file.read_text()) for file in sorted(folder.glob("*.schema"))]
    registry = referencing.Registry().with_resources(
        (schema["$id"], referencing.Resource.from_contents(schema)) for schema in schemas
    )
    (schema,) = (schema for schema in schemas if schema["$id"].endswith(f"/{name}.schema"))
    return jsonschema.Draft202012Validator(schema, registry=registry)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("ome") / "store"
    create_store(path, "test", ("T1", "T2"), {1: "left", 300: "right"})
    label = np.zeros(SHAPE, np.uint16)
    label[2, 66:, 3] = 300
    image = np.arange(2 * label.size, dtype=np.int16).reshape(2, *SHAPE)
    for name, affine in (("ras", RAS), ("oblique", OBLIQUE)):
        write_case(path, name, image, label, affine)
    finish_store(path)
    return path


@pytest.mark.parametrize("case", ["ras", "oblique"])
def test_a_case_is_valid_by_the_published_schemas(path, case):
    group = zarr.open_group(path, mode="r")[f"cases/{case}"]
    validator("image").validate(dict(group.attrs))
    validator("image").validate(dict(group["labels/structures"].attrs))
    validator("label").validate(dict(group["labels/structures"].attrs))
    assert group["labels"].attrs["ome"] == {"version": "0.5", "labels": ["structures"]}


def test_the_schemas_refuse_what_is_not_valid(path):
    attributes = json.loads((path / "cases/ras/zarr.json").read_text())["attributes"]
    del attributes["ome"]["multiscales"][0]["axes"][0]
    assert validator("image").is_valid(attributes)  # three axes are an image too
    attributes["ome"]["multiscales"][0]["axes"] = []
    assert not validator("image").is_valid(attributes)


def test_arrays_are_sharded_and_compressed_and_carry_checksums(path):
    metadata = json.loads((path / "cases/ras/0/zarr.json").read_text())
    (sharding,) = metadata["codecs"]
    assert sharding["name"] == "sharding_indexed"
    names = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    assert names == ["bytes", "zstd", "crc32c"]
    assert sharding["configuration"]["index_codecs"][-1]["name"] == "crc32c"
    assert sharding["configuration"]["chunk_shape"] == [1, 5, 64, 6]
    assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == [1, 5, 128, 6]


@pytest.mark.parametrize("case", ["ras", "oblique"])
def test_the_origin_of_a_case_is_written_if_its_axes_allow_it(path, case):
    attributes = zarr.open_group(path, mode="r")[f"cases/{case}"].attrs["ome"]
    scale, *translation = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    affine = RAS if case == "ras" else OBLIQUE
    np.testing.assert_allclose(scale["scale"][1:], np.linalg.norm(affine[:3, :3], axis=0))
    expected = [[0, *RAS[:3, 3]]] if case == "ras" else []
    assert [t["translation"] for t in translation] == expected
