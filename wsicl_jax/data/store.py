"""A data set as one Zarr v3 store, laid out as OME-Zarr 0.5 so that other tools open it.

    zarr.json                                 name, channels, labels and preparation
    catalogue.jsonl                           all cases, one line each; a store without it
                                              is not finished
    skipped.json                             what a conversion could not use
    cases/CASE/zarr.json                      the case's own line; a case without it is not whole
    cases/CASE/0                              its image (channel, x, y, z)
    cases/CASE/labels/structures/0            its label map (x, y, z)

What says that something is complete is written last, so that work may be cut off at any time.
"""

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tensorstore as ts
from jaxtyping import Float, Integer, Num
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from scipy import ndimage

from wsicl_jax.config import PreparationConfig, preparation_from_dict
from wsicl_jax.data import ome
from wsicl_jax.data.catalogue import (
    Case,
    SourceGrid,
    from_entry,
    from_lines,
    is_affine,
    is_case_name,
    to_entry,
    to_lines,
)
from wsicl_jax.errors import ConfigError, DataError, hint, reason
from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.storage.documents import DocumentError, checked, parse_json
from wsicl_jax.storage.location import Location

FORMAT = 2
"""Version of the layout; other ones are refused."""

IMAGE = "0"
LABEL = "labels/structures/0"
"""The arrays of a case."""

CATALOGUE = "catalogue.jsonl"
SKIPPED = "skipped.json"
"""What the source had and the store has not, with the reasons."""

_MOST_CHANNELS = 1000

_TEXTS = TypeAdapter(dict[str, str])

_CHUNK_SIDE = 64
_SHARD_CHUNKS = 8
"""Most chunks of a shard, a file or object, along each axis."""


@dataclass(frozen=True)
class Root:
    """What a store says of all its cases."""

    name: str
    channel_names: tuple[str, ...]
    label_names: dict[int, str]
    """Structure of each label value; no background."""
    preparation: PreparationConfig


class _RootEntry(BaseModel):
    """`Root` as its file has it."""

    model_config = ConfigDict(strict=True)

    name: str
    channel_names: Annotated[list[str], Field(min_length=1)]
    label_names: Annotated[
        dict[Annotated[int, Field(ge=1, strict=False)], str], Field(min_length=1)
    ]
    preparation: dict[str, Any]


_ROOTS = TypeAdapter(_RootEntry)


@dataclass(frozen=True, eq=False)
class Store:
    """A data set, opened for reading; holds no file open and may be pickled."""

    location: Location
    root: Root
    catalogue: dict[str, Case]
    """The cases by name, sorted."""

    @classmethod
    def open(cls, path: str | Path | Location) -> "Store":
        """Open a store by its directory or URL; reads no case.

        Raises:
            DataError: there is no store, it is not finished, it is damaged, or it has
                another format.
        """
        location = Location.of(path)
        root = read_root(location)
        if root is None:
            raise DataError(_no_store(location))
        content = location.read(CATALOGUE)
        if content is None:
            raise DataError(
                f"{location} is not finished; go on with the same command that began it"
            )
        cases = from_lines(content, str(location / CATALOGUE))
        for case in cases.values():
            if unknown := sorted(case.voxel_counts.keys() - root.label_names.keys()):
                raise DataError(
                    f"{location / CATALOGUE} is damaged: case {case.name} has labels {unknown}, "
                    f"which have no name in {location}; convert the data again"
                )
        return cls(location, root, dict(sorted(cases.items())))

    @property
    def path(self) -> str:
        """Its directory or URL."""
        return str(self.location)

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.root.name

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Modality of each channel."""
        return self.root.channel_names

    @property
    def label_names(self) -> dict[int, str]:
        """Structure of each label value; no background."""
        return self.root.label_names

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the cases, sorted."""
        return tuple(self.catalogue)

    def case(self, name: str) -> Case:
        """What the catalogue says of a case.

        Raises:
            DataError: the store has no such case.
        """
        if name not in self.catalogue:
            raise DataError(f"{self.path} has no case {name!r}; {hint(name, self.cases)}")
        return self.catalogue[name]

    def read(
        self, name: str, channel: int = 0
    ) -> tuple[Num[np.ndarray, "x y z"], Integer[np.ndarray, "x y z"]]:
        """`read_image` and `read_label` of a case, read at the same time."""
        image, label = self._read(name, {IMAGE: self._index(channel), LABEL: ()})
        return image, label

    def read_image(self, name: str, channel: int = 0) -> Num[np.ndarray, "x y z"]:
        """One channel of a case's image: float32, or the integer type that its file had.

        Raises:
            DataError: no such case or channel, or the array is missing or damaged.
        """
        (image,) = self._read(name, {IMAGE: self._index(channel)})
        return image

    def read_label(self, name: str) -> Integer[np.ndarray, "x y z"]:
        """A case's label map, in an unsigned type; 0 is background.

        Raises:
            DataError: no such case, or the array is missing or damaged.
        """
        (label,) = self._read(name, {LABEL: ()})
        return label

    def _index(self, channel: int) -> tuple[int, ...]:
        if not 0 <= channel < len(self.channel_names):
            raise DataError(f"{self.path} has no channel {channel}; it has {self.channel_names}")
        return (channel,)

    def _read(self, name: str, wanted: Mapping[str, tuple[int, ...]]) -> list[np.ndarray]:
        """Parts of a case's arrays, all on their way before the first one is awaited."""
        case = self.case(name)
        opening = {
            array: ts.open(_spec(self.location, name, array), open=True, read=True)
            for array in wanted
        }
        reading, found = {}, []
        try:
            for array, index in wanted.items():
                opened = _fitting(opening[array].result(), array, case.shape)
                reading[array] = opened[(*index, ...)].read()
            for array in wanted:
                found.append(reading[array].result())
        except ValueError as error:
            if self.location.read("zarr.json") is None:
                raise DataError(
                    f"the store {self.path} is not there any more; bring it back, or mount it again"
                ) from error
            raise DataError(
                f"case {name}: array {array} cannot be read, convert the data again: "
                f"{reason(error)}"
            ) from error
        return found


def create_store(
    path: str | Path | Location,
    name: str,
    channel_names: Sequence[str],
    label_names: Mapping[int, str],
    preparation: PreparationConfig | None = None,
) -> None:
    """Begin a store; `label_names` gives the structure of each value above 0.

    It is opened by nobody until `finish_store` was called. `preparation` is what the caller
    does to its cases.

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
    """Write a case, whole or not at all, in place of what may be there under its name.

    Many processes may write cases of one store. Integer images keep their type, others become
    float32; the label map becomes the smallest unsigned type that holds all labels of the
    data set. Without a `source` the case's own grid counts as the original one.

    Raises:
        DataError: the name cannot be one, image, label and store do not fit each other, or
            the disk refuses.
    """
    location = Location.of(path)
    root = read_root(location)
    if root is None:
        raise DataError(_no_store(location))
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
    shape = label.shape
    case = Case(
        name,
        subject or name,
        shape,
        affine,
        counts,
        boxes,
        digest_of(image, label, affine),
        source or SourceGrid((), affine, WorkingGrid(shape, shape)),
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
    """Write the catalogue, by which a store is finished; of all whole cases, or of those named.

    Processes that finish a store at the same time write the same.

    Raises:
        DataError: a case that is named is not whole, or the store cannot be written.
    """
    location = Location.of(path)
    names = whole_cases(location) if cases is None else cases
    entries = []
    for name in sorted(names):
        entry = _entry(location, name)
        if entry is None:
            raise DataError(f"{location}: case {name} is not whole; convert it again")
        entries.append(entry)
    if location.read("cases/zarr.json") is None:  # the one that began the store was killed
        location.write("cases/zarr.json", ome.group({}))
    location.write(CATALOGUE, to_lines(entries))


def whole_cases(location: Location) -> set[str]:
    """Names of the cases of a store that are whole, finished or not."""
    parts = [key.split("/") for key in location.keys("cases/")]
    return {part[1] for part in parts if len(part) == 3 and part[2] == "zarr.json"}


def read_case(location: Location, name: str) -> Case | None:
    """A case's own line; None if it is not whole or damaged."""
    try:
        return from_entry(_entry(location, name))
    except ValueError:
        return None


def read_skipped(location: Location) -> dict[str, str]:
    """What was left out of a finished store, with the reasons.

    Raises:
        DataError: the list of it is damaged.
    """
    return read_texts(location, SKIPPED)


def read_texts(location: Location, key: str) -> dict[str, str]:
    """Texts by name, from a file of JSON; none if there is no file.

    Raises:
        DataError: it is damaged.
    """
    try:
        return checked(_TEXTS, parse_json(location.read(key) or b"{}"))
    except DocumentError as error:
        raise DataError(f"{location / key} is damaged: {error}; convert the data again") from None


def is_intact(location: Location, case: Case) -> bool:
    """Whether the voxels of a case are those that were written; reads all of them."""
    try:
        image, label = (
            open_array(location, case, array).read().result() for array in (IMAGE, LABEL)
        )
    except ValueError:
        return False
    return digest_of(image, label, case.affine) == case.digest


def open_array(location: Location, case: Case, array: str) -> ts.TensorStore:
    """An array of a case, ready to be read.

    Raises:
        ValueError: it cannot be opened, or has another shape than the case.
    """
    spec = _spec(location, case.name, array)
    return _fitting(ts.open(spec, open=True, read=True).result(), array, case.shape)


def _fitting(opened: ts.TensorStore, array: str, shape: Shape3) -> ts.TensorStore:
    # What a damaged description says of its size may fill any memory.
    *channels, x, y, z = opened.shape if opened.rank > 2 else (0, 0, 0)
    right = len(channels) == (array == IMAGE) and max(channels, default=1) <= _MOST_CHANNELS
    if not right or (x, y, z) != shape:
        raise ValueError(f"it has shape {opened.shape}, but the case {shape}")
    return opened


def digest_of(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> str:
    """The hash of a case's content."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (image, label, affine):
        digest.update(f"{array.dtype.name} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read_root(location: Location) -> Root | None:
    """What a store says of all its cases; None if it has not been begun.

    Raises:
        DataError: it is damaged, or has another format.
    """
    content = location.read("zarr.json")
    if content is None:
        return None
    file = location / "zarr.json"
    try:
        root = parse_json(content)["attributes"]["wsicl"]
    except (ValueError, LookupError, TypeError):
        raise DataError(_no_store(location)) from None
    try:
        if root["format"] > FORMAT:
            raise DataError(
                f"{location} has format {root['format']}, this wsicl_jax reads format {FORMAT}; "
                "install a newer one"
            )
        if root["format"] < FORMAT:
            raise DataError(
                f"{location} has format {root['format']}, this wsicl_jax reads format {FORMAT}; "
                "convert the data again"
            )
        found = checked(_ROOTS, root)
        preparation = preparation_from_dict(found.preparation)
    except (LookupError, TypeError, DocumentError, ConfigError) as error:
        raise DataError(f"{file} is damaged: {error}; convert the data again") from error
    return Root(found.name, tuple(found.channel_names), found.label_names, preparation)


def _entry(location: Location, name: str) -> dict[str, Any] | None:
    content = location.read(f"cases/{name}/zarr.json")
    try:
        return content and parse_json(content)["attributes"]["wsicl"]
    except (ValueError, LookupError, TypeError):
        return None


def _labels_in(label: np.ndarray) -> tuple[dict[int, int], dict[int, Box]]:
    """Voxels and box of each value but 0; whatever the values, memory stays that of the map."""
    values = np.unique(label)
    ranks = np.searchsorted(values, label).astype(np.int32) + 1
    counts = np.bincount(ranks.ravel())[1:].tolist()
    ends = [
        Box(tuple(s.start for s in box), tuple(s.stop for s in box))
        for box in ndimage.find_objects(ranks)
    ]
    present = [i for i, value in enumerate(values.tolist()) if value != 0]
    return (
        {int(values[i]): counts[i] for i in present},
        {int(values[i]): ends[i] for i in present},
    )


def _write_array(
    location: Location, case: str, array: str, content: np.ndarray, axes: tuple[str, ...]
) -> None:
    sides = content.shape[-3:]
    chunk = [min(side, _CHUNK_SIDE) for side in sides]
    shard = [
        step * min(-(-side // step), _SHARD_CHUNKS) for side, step in zip(sides, chunk, strict=True)
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
    spec = _spec(location, case, array) | {"metadata": metadata}
    try:
        ts.open(spec, create=True).result().write(content).result()
    except (ValueError, OSError) as error:
        raise DataError(f"case {case} cannot be written to {location}: {reason(error)}") from error


def _spec(location: Location, case: str, array: str) -> dict[str, Any]:
    # Every chunk is written, even one of zeros, so that a missing chunk is an error and
    # does not read as background.
    return {
        "driver": "zarr3",
        "kvstore": (location / f"cases/{case}/{array}").kvstore,
        "fill_missing_data_reads": False,
        "store_data_equal_to_fill_value": True,
    }


def _no_store(location: Location) -> str:
    directory = location.directory
    if directory is None or directory.exists():
        if directory is not None and (directory / "dataset.json").exists():
            return f"{location} is a data set's folder; make a store of it with `wsicl convert`"
        return f"{location} is no store of wsicl_jax; make one with `wsicl convert`"
    siblings = [p.name for p in directory.parent.glob("*/")]
    nearest = difflib.get_close_matches(directory.name, siblings, n=1)
    hint = f"nearest is {directory.parent / nearest[0]}" if nearest else "check the path"
    return f"no store at {location}; {hint}"
