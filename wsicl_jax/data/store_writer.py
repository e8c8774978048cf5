"""Writing a store: create it, write its cases, finish it with a catalogue."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tensorstore as ts
from jaxtyping import Float, Integer, Num
from scipy import ndimage

from wsicl_jax.config import PreparationConfig
from wsicl_jax.data import ome
from wsicl_jax.data.catalogue import (
    Case,
    SourceGrid,
    is_affine,
    is_case_name,
    to_entry,
    to_lines,
)
from wsicl_jax.data.store import (
    CATALOGUE,
    FORMAT,
    IMAGE,
    LABEL,
    array_spec,
    complete_cases,
    digest_of,
    no_store,
    read_entry,
    read_root,
)
from wsicl_jax.errors import DataError, reason
from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.storage.atomic import why_full
from wsicl_jax.storage.location import Location

_CHUNK_SIDE = 64
_MAX_SHARD_CHUNKS = 8
"""Chunks of a shard, which is one file or object, along each axis."""


def create_store(
    path: str | Path | Location,
    name: str,
    channel_names: Sequence[str],
    label_names: Mapping[int, str],
    preparation: PreparationConfig | None = None,
) -> None:
    """Create an unfinished store; `label_names` gives the structure of each value above 0.

    `preparation` is what the caller does to its cases.

    Raises:
        DataError: `path` exists or cannot be written, or there is no channel or no structure.
    """
    location = Location.of(path)
    directory = location.directory
    if not channel_names or not label_names or min(label_names) < 1:
        raise DataError(
            f"{name} has channels {list(channel_names)} and labels {dict(label_names)}; "
            "expected at least one channel, and one label with a value above 0"
        )
    if next(location.keys(), None) is not None or (directory and directory.is_file()):
        raise DataError(f"{location} exists already; remove it or name another store")
    attributes = {
        "format": FORMAT,
        "name": name,
        "channel_names": list(channel_names),
        "label_names": {str(value): label_names[value] for value in sorted(label_names)},
        "preparation": asdict(preparation or PreparationConfig()),
    }
    location.write("zarr.json", ome.group({"wsicl": attributes}))
    location.write("cases/zarr.json", ome.group({}))


def write_case(
    path: str | Path | Location,
    name: str,
    image: Num[np.ndarray, "c x y z"],
    label: Integer[np.ndarray, "_ _ _"],
    affine: Float[np.ndarray, "4 4"],
    *,
    subject: str | None = None,
    source: SourceGrid | None = None,
    remarks: Sequence[str] = (),
) -> None:
    """Write a case completely or not at all; it replaces a case of the same name.

    Many processes may write cases of one store. Integer images keep their type, others become
    float32. The label map becomes the smallest unsigned type that holds all labels of the data
    set. Without `source`, the case's own grid is the original one.

    Raises:
        DataError: the name is invalid, image, label and store do not fit each other, or
            writing fails.
    """
    location = Location.of(path)
    root = read_root(location)
    if root is None:
        raise DataError(no_store(location))
    if not is_case_name(name):
        raise DataError(f"{name!r} cannot name a case; it becomes a directory of the store")
    if len(image) != len(root.channel_names) or image.shape[1:] != label.shape:
        raise DataError(
            f"case {name}: image (channel, x, y, z) is {image.shape}, label {label.shape}; "
            f"expected channels {root.channel_names} and equal sides"
        )
    counts, boxes = _labels_in(label)
    if unknown := sorted(counts.keys() - root.label_names.keys()):
        raise DataError(f"case {name}: labels {unknown} have no name in {location}")
    if image.dtype.kind not in "iu":
        image = image.astype(np.float32, copy=False)
    label = label.astype(np.min_scalar_type(max(root.label_names)))
    affine = np.array(affine, np.float64)
    if not is_affine(affine):
        raise DataError(f"case {name}: its affine is singular or no affine: {affine.tolist()}")
    case = Case(
        name,
        subject or name,
        label.shape,
        affine,
        counts,
        boxes,
        digest_of(image, label, affine),
        source or SourceGrid((), affine, WorkingGrid(label.shape, label.shape)),
        tuple(remarks),
    )
    below = f"cases/{name}/"
    location.delete(below)
    _write_array(location, name, IMAGE, image, ("c", "x", "y", "z"))
    _write_array(location, name, LABEL, label, ("x", "y", "z"))
    structures = ome.label_map("structures", affine, root.label_names)
    location.write(f"{below}labels/structures/zarr.json", ome.group({"ome": structures}))
    location.write(f"{below}labels/zarr.json", ome.group({"ome": ome.labels(["structures"])}))
    entry = to_entry(case, root.name, root.channel_names, root.label_names)
    attributes = {"ome": ome.image(name, affine), "wsicl": entry}
    location.write(f"{below}zarr.json", ome.group(attributes))


def finish_store(path: str | Path | Location, cases: Iterable[str] | None = None) -> None:
    """Write the catalogue of all complete cases, or of the named ones.

    Processes that finish a store at the same time write the same.

    Raises:
        DataError: a named case is incomplete, or the store cannot be written.
    """
    location = Location.of(path)
    entries = []
    for name in sorted(complete_cases(location) if cases is None else cases):
        entry = read_entry(location, name)
        if entry is None:
            raise DataError(f"{location}: case {name} is incomplete; convert it again")
        entries.append(entry)
    if location.read("cases/zarr.json") is None:  # the process that created the store was killed
        location.write("cases/zarr.json", ome.group({}))
    location.write(CATALOGUE, to_lines(entries))


def _labels_in(label: np.ndarray) -> tuple[dict[int, int], dict[int, Box]]:
    """Voxels and box of each value but 0; large values need no more memory than small ones."""
    values = np.unique(label)
    ranks = np.searchsorted(values, label).astype(np.int32) + 1
    counts = np.bincount(ranks.ravel())[1:].tolist()
    boxes = [
        Box(tuple(s.start for s in box), tuple(s.stop for s in box))
        for box in ndimage.find_objects(ranks)
    ]
    labels = [(i, int(value)) for i, value in enumerate(values.tolist()) if value != 0]
    return {value: counts[i] for i, value in labels}, {value: boxes[i] for i, value in labels}


def _write_array(
    location: Location, case: str, array: str, content: np.ndarray, axes: tuple[str, ...]
) -> None:
    sides = content.shape[-3:]
    chunk = [min(side, _CHUNK_SIDE) for side in sides]
    shard = [
        step * min(-(-side // step), _MAX_SHARD_CHUNKS)
        for side, step in zip(sides, chunk, strict=True)
    ]
    # One channel per shard: readers take one channel at a time.
    channel = [1] * (content.ndim - 3)
    raw = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
    sharding = {
        "chunk_shape": channel + chunk,
        "codecs": [raw, zstd, {"name": "crc32c"}],
        "index_codecs": [raw, {"name": "crc32c"}],
        "index_location": "end",
    }
    metadata = {
        "shape": list(content.shape),
        "data_type": content.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": channel + shard}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "fill_value": 0,
        "dimension_names": list(axes),
    }
    spec = array_spec(location, case, array) | {"metadata": metadata}
    try:
        ts.open(spec, create=True).result().write(content).result()
    except (ValueError, OSError) as error:
        # TensorStore names every file on the way before it says that the disk is full.
        cause = why_full(error) or reason(error)
        raise DataError(f"case {case} cannot be written to {location}: {cause}") from error
