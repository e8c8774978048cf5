"""A data set as one Zarr v3 store, laid out as OME-Zarr 0.5 so that other tools open it: reading.

    zarr.json                                 name, channels, labels and preparation
    catalogue.jsonl                           all cases, one line each; an unfinished store has none
    skipped.json                              what a conversion skipped, with the reasons
    cases/CASE/zarr.json                      the case's own line; an incomplete case has none
    cases/CASE/0                              its image (channel, x, y, z)
    cases/CASE/labels/structures/0            its label map (x, y, z)

`store_writer` writes the file that marks a case or a store as complete last. So a writer may be
killed at any time.
"""

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tensorstore as ts
from jaxtyping import Integer, Num
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from wsicl_jax.config import PreparationConfig, validated
from wsicl_jax.data.catalogue import Case, from_entry, from_lines
from wsicl_jax.errors import ConfigError, DataError, hint, reason
from wsicl_jax.geometry.axes import Shape3
from wsicl_jax.storage.documents import DocumentError, checked, parse_json
from wsicl_jax.storage.location import Location

FORMAT = 2
"""Version of the layout; other versions are refused."""

IMAGE = "0"
LABEL = "labels/structures/0"
"""The arrays of a case."""

CATALOGUE = "catalogue.jsonl"
SKIPPED = "skipped.json"

_MAX_CHANNELS = 1000

_TEXTS = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class Root:
    """What all cases of a store have in common."""

    name: str
    channel_names: tuple[str, ...]
    label_names: dict[int, str]
    """Structure of each label value, without background."""
    preparation: PreparationConfig


class _RootEntry(BaseModel):
    """`Root` in its file."""

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
    """A data set, open for reading; it holds no open file and can be pickled."""

    location: Location
    root: Root
    catalogue: dict[str, Case]
    """The cases by name, sorted."""

    @classmethod
    def open(cls, path: str | Path | Location) -> "Store":
        """Open a store by its directory or URL; reads the catalogue, no voxels.

        Raises:
            DataError: there is no store, or it is unfinished, damaged or of another format.
        """
        location = Location.of(path)
        root = read_root(location)
        if root is None:
            raise DataError(no_store(location))
        content = location.read(CATALOGUE)
        if content is None:
            raise DataError(f"{location} is not finished; run the command that started it again")
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
        """Structure of each label value, without background."""
        return self.root.label_names

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the cases, sorted."""
        return tuple(self.catalogue)

    def case(self, name: str) -> Case:
        """The catalogue's entry of a case.

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
        """One channel of a case's image: float32, or the integer type of its file.

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

    def _read(self, name: str, indices: Mapping[str, tuple[int, ...]]) -> list[np.ndarray]:
        """Parts of a case's arrays; all reads start before the first one is awaited."""
        case = self.case(name)
        opening = {
            array: ts.open(array_spec(self.location, name, array), open=True, read=True)
            for array in indices
        }
        reading, arrays = {}, []
        try:
            for array, index in indices.items():
                opened = _with_shape(opening[array].result(), array, case.shape)
                reading[array] = opened[(*index, ...)].read()
            for array in indices:
                arrays.append(reading[array].result())
        except ValueError as error:
            if self.location.read("zarr.json") is None:
                raise DataError(
                    f"the store {self.path} is not there any more; bring it back, or mount it again"
                ) from error
            raise DataError(
                f"case {name}: array {array} cannot be read, convert the data again: "
                f"{reason(error)}"
            ) from error
        return arrays


def read_root(location: Location) -> Root | None:
    """What all cases of a store have in common; None if there is no store.

    Raises:
        DataError: it is damaged, or has another format.
    """
    content = location.read("zarr.json")
    if content is None:
        return None
    try:
        root = parse_json(content)["attributes"]["wsicl"]
    except (ValueError, LookupError, TypeError):
        raise DataError(no_store(location)) from None
    try:
        if root["format"] != FORMAT:
            remedy = "install a newer one" if root["format"] > FORMAT else "convert the data again"
            raise DataError(
                f"{location} has format {root['format']}, this wsicl_jax reads format {FORMAT}; "
                f"{remedy}"
            )
        entry = checked(_ROOTS, root)
        preparation = validated(PreparationConfig, entry.preparation)
    except (LookupError, TypeError, DocumentError, ConfigError) as error:
        raise DataError(
            f"{location / 'zarr.json'} is damaged: {error}; convert the data again"
        ) from error
    return Root(entry.name, tuple(entry.channel_names), entry.label_names, preparation)


def complete_cases(location: Location) -> set[str]:
    """Names of the cases that are completely written, in a finished or unfinished store."""
    parts = [key.split("/") for key in location.keys("cases/")]
    return {part[1] for part in parts if len(part) == 3 and part[2] == "zarr.json"}


def read_case(location: Location, name: str) -> Case | None:
    """The entry of a case in its own directory; None if it is missing or damaged."""
    try:
        return from_entry(read_entry(location, name))
    except ValueError:
        return None


def read_entry(location: Location, name: str) -> dict[str, Any] | None:
    """The JSON of `read_case`, not checked; None if it is missing."""
    content = location.read(f"cases/{name}/zarr.json")
    try:
        return content and parse_json(content)["attributes"]["wsicl"]
    except (ValueError, LookupError, TypeError):
        return None


def read_skipped(location: Location) -> dict[str, str]:
    """What the conversion of a finished store skipped, with the reasons.

    Raises:
        DataError: the file is damaged.
    """
    return read_texts(location, SKIPPED)


def read_texts(location: Location, key: str) -> dict[str, str]:
    """Texts by name from a JSON file; empty if there is no file.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return checked(_TEXTS, parse_json(location.read(key) or b"{}"))
    except DocumentError as error:
        raise DataError(f"{location / key} is damaged: {error}; convert the data again") from None


def is_intact(location: Location, case: Case) -> bool:
    """Whether a case has the voxels that were written; reads all of them."""
    try:
        image, label = (
            open_array(location, case, array).read().result() for array in (IMAGE, LABEL)
        )
    except ValueError:
        return False
    return digest_of(image, label, case.affine) == case.digest


def open_array(location: Location, case: Case, array: str) -> ts.TensorStore:
    """An array of a case, open for reading.

    Raises:
        ValueError: it cannot be opened, or has another shape than the case.
    """
    spec = array_spec(location, case.name, array)
    return _with_shape(ts.open(spec, open=True, read=True).result(), array, case.shape)


def array_spec(location: Location, case: str, array: str) -> dict[str, Any]:
    """TensorStore's description of an array of a case."""
    # Every chunk is written, even one of zeros. So a missing chunk is an error, not background.
    return {
        "driver": "zarr3",
        "kvstore": (location / f"cases/{case}/{array}").kvstore,
        "fill_missing_data_reads": False,
        "store_data_equal_to_fill_value": True,
    }


def digest_of(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> str:
    """The hash of a case's content."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (image, label, affine):
        digest.update(f"{array.dtype.name} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def no_store(location: Location) -> str:
    """The message for a location without a store."""
    directory = location.directory
    if directory is None or directory.exists():
        if directory is not None and (directory / "dataset.json").exists():
            return f"{location} is a data set's folder; make a store of it with `wsicl convert`"
        return f"{location} is no store of wsicl_jax; make one with `wsicl convert`"
    siblings = [p.name for p in directory.parent.glob("*/")]
    nearest = difflib.get_close_matches(directory.name, siblings, n=1)
    remedy = f"nearest is {directory.parent / nearest[0]}" if nearest else "check the path"
    return f"no store at {location}; {remedy}"


def _with_shape(array: ts.TensorStore, name: str, shape: Shape3) -> ts.TensorStore:
    # A damaged description may declare a size that exceeds any memory.
    *channels, x, y, z = array.shape if array.rank > 2 else (0, 0, 0)
    is_valid = len(channels) == (name == IMAGE) and max(channels, default=1) <= _MAX_CHANNELS
    if not is_valid or (x, y, z) != shape:
        raise ValueError(f"it has shape {array.shape}, but the case {shape}")
    return array
