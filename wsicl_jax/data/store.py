"""A data set as one Zarr v3 store, laid out as OME-Zarr 0.5 so that other tools open it.

    zarr.json                                 name, channels and labels of the data set
    cases/CASE/zarr.json                      grid and labels of one case
    cases/CASE/0                              its image (channel, x, y, z)
    cases/CASE/labels/structures/0            its label map (x, y, z)

A directory below `cases` is a whole case: it gets its name when all of it is written.
"""

import difflib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from jaxtyping import Float, Integer, Num
from scipy import ndimage

from wsicl_jax.axes import Box, Shape3, spacing_of
from wsicl_jax.errors import DataError

FORMAT = 1
"""Version of the layout; a store with a higher one needs a newer wsicl_jax."""

UNFINISHED = ".unfinished"
"""File in a store that is still being filled; a store that has it is not opened."""

_OME_VERSION = "0.5"
_LARGEST_CHUNK_SIDE = 128
_IMAGE = "0"
_LABEL = "labels/structures/0"


@dataclass(frozen=True, eq=False)
class Case:
    """What a store knows about a case without reading its voxels."""

    name: str
    shape: Shape3
    affine: Float[np.ndarray, "4 4"]
    """From voxel indices to RAS+ millimetres, float64."""
    spacing_mm: tuple[float, float, float]
    voxel_counts: dict[int, int]
    """Voxels of each label that the case has; no background."""
    boxes: dict[int, Box]
    """Tight box of each label that the case has."""


@dataclass(frozen=True)
class Store:
    """A data set on disk, opened for reading; holds no file open and may be pickled."""

    path: Path
    name: str
    channel_names: tuple[str, ...]
    label_names: dict[int, str]
    """Structure of each label value; no background."""
    cases: tuple[str, ...]
    """Names of the cases, sorted."""

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """Open a store that `wsicl convert` made; reads no case.

        Raises:
            DataError: there is no store at `path`, it is damaged, its conversion did not
                finish, or it was written by a newer version.
        """
        path = Path(path).absolute()
        if (path / UNFINISHED).exists():
            raise DataError(
                f"the conversion into {path} did not finish; remove it and convert again"
            )
        root = _read_root(path)
        if not (path / "cases").is_dir():
            raise DataError(f"{path} is damaged, it has no directory `cases`; convert again")
        cases = (entry.name for entry in (path / "cases").iterdir() if entry.is_dir())
        return cls(path, *root, tuple(sorted(name for name in cases if name[0] != ".")))

    def case(self, name: str) -> Case:
        """Grid and labels of a case.

        Raises:
            DataError: the store has no such case, or its metadata is damaged.
        """
        self._check_case(name)
        file = self.path / "cases" / name / "zarr.json"
        try:
            entry = _read_attributes(file)["wsicl"]
            affine = np.array(entry["affine"], np.float64).reshape(4, 4)
            x, y, z = (int(side) for side in entry["shape"])
            labels = {int(value): found for value, found in entry["labels"].items()}
            counts = {value: int(found["voxels"]) for value, found in labels.items()}
            boxes = {
                value: Box(*(tuple(map(int, end)) for end in zip(*found["box"], strict=True)))
                for value, found in labels.items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{file} of case {name} is damaged; convert the data again") from error
        return Case(name, (x, y, z), affine, spacing_of(affine), counts, boxes)

    def read_image(self, name: str, channel: int = 0) -> Num[np.ndarray, "x y z"]:
        """One channel of a case's image: float32, or the integer type that its file had.

        Raises:
            DataError: no such case or channel, or the array is missing or damaged.
        """
        if not 0 <= channel < len(self.channel_names):
            raise DataError(f"{self.path} has no channel {channel}; it has {self.channel_names}")
        return self._read(name, _IMAGE, (channel,))

    def read_label(self, name: str) -> Integer[np.ndarray, "x y z"]:
        """A case's label map, in an unsigned type; 0 is background.

        Raises:
            DataError: no such case, or the array is missing or damaged.
        """
        return self._read(name, _LABEL, ())

    def _read(self, name: str, array: str, index: tuple[int, ...]) -> np.ndarray:
        self._check_case(name)
        try:
            opened = ts.open(
                _spec(self.path / "cases" / name / array), open=True, read=True
            ).result()
            return opened[(*index, ...)].read().result()
        except ValueError as error:
            raise DataError(
                f"case {name}: array {array} cannot be read, convert the data again: "
                f"{_reason(error)}"
            ) from error

    def _check_case(self, name: str) -> None:
        if name not in self.cases:
            nearest = difflib.get_close_matches(name, self.cases, n=1, cutoff=0.0)
            hint = f"nearest is {nearest[0]!r}" if nearest else "it has none"
            raise DataError(f"{self.path} has no case {name!r}; {hint}")


def create_store(
    path: str | Path,
    name: str,
    channel_names: Sequence[str],
    label_names: Mapping[int, str],
    *,
    unfinished: bool = False,
) -> None:
    """Begin an empty store; `label_names` gives the structure of each value above 0.

    An `unfinished` store is not opened until the caller, when it is filled, removes the
    file `UNFINISHED` from it.

    Raises:
        DataError: `path` exists or cannot be written, or there is no channel or no structure.
    """
    path = Path(path)
    if not channel_names or not label_names or min(label_names) < 1:
        raise DataError(
            f"{name} has channels {list(channel_names)} and labels {dict(label_names)}; "
            "expected at least one channel, and one label with a value above 0"
        )
    if path.exists():
        raise DataError(f"{path} exists already; remove it or name another store")
    attributes = {
        "format": FORMAT,
        "name": name,
        "channel_names": list(channel_names),
        "label_names": {str(value): label_names[value] for value in sorted(label_names)},
    }
    try:
        path.mkdir(parents=True)
        if unfinished:  # before anything else, so that at no time is it taken for whole
            (path / UNFINISHED).touch()
        _write_group(path / "cases", {})
        _write_group(path, {"wsicl": attributes})
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error


def write_case(
    path: str | Path,
    name: str,
    image: Num[np.ndarray, "c x y z"],
    label: Integer[np.ndarray, "_ _ _"],
    affine: Float[np.ndarray, "4 4"],
    source_files: Sequence[str] = (),
) -> None:
    """Add a case to the store at `path`; cases may be added from many threads or processes.

    Integer images keep their type, others become float32; the label map becomes the
    smallest unsigned type that holds all labels of the data set.

    Raises:
        DataError: the name is taken or cannot be a directory, image, label and store do not
            fit each other, or the disk refuses.
    """
    path = Path(path)
    _, channel_names, label_names = _read_root(path)
    if not name or name.startswith((".", "__")) or "/" in name or "\\" in name:
        raise DataError(f"{name!r} cannot name a case; it becomes a directory of the store")
    if len(image) != len(channel_names) or image.shape[1:] != label.shape:
        raise DataError(
            f"case {name}: image (channel, x, y, z) is {image.shape}, label {label.shape}; "
            f"expected channels {channel_names} and equal sides"
        )
    found = _labels_in(label)
    if unknown := sorted(found.keys() - label_names.keys()):
        raise DataError(f"case {name}: labels {unknown} have no name in {path}")
    final = path / "cases" / name
    if final.exists():
        raise DataError(f"{path} has a case {name} already")
    if image.dtype.kind not in "iu":
        image = image.astype(np.float32, copy=False)
    label = label.astype(np.min_scalar_type(max(label_names)))

    temporary = final.with_name(f".{name}.{os.getpid()}.partial")
    try:
        _write_case_groups(temporary, name, label_names, affine, label.shape, found, source_files)
        _write_array(temporary / _IMAGE, image, ("c", "x", "y", "z"))
        _write_array(temporary / _LABEL, label, ("x", "y", "z"))
        temporary.rename(final)
    except (OSError, ValueError) as error:
        raise DataError(f"case {name} cannot be written to {path}: {_reason(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _labels_in(label: np.ndarray) -> dict[int, dict[str, Any]]:
    """Voxels and box of each value but 0; whatever the values, memory stays that of the map."""
    values = np.unique(label)
    ranks = np.searchsorted(values, label).astype(np.int32) + 1
    counts = np.bincount(ranks.ravel())[1:]
    return {
        int(value): {"voxels": int(count), "box": [[s.start, s.stop] for s in box]}
        for value, count, box in zip(values, counts, ndimage.find_objects(ranks), strict=True)
        if value != 0
    }


def _write_case_groups(
    path: Path,
    name: str,
    label_names: Mapping[int, str],
    affine: np.ndarray,
    shape: tuple[int, ...],
    labels: dict[int, dict[str, Any]],
    source_files: Sequence[str],
) -> None:
    spacing = spacing_of(affine)
    space = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "xyz"]
    case = {
        "affine": affine.tolist(),
        "spacing_mm": list(spacing),
        "shape": list(shape),
        "labels": {str(value): labels[value] for value in sorted(labels)},
        "source_files": list(source_files),
    }
    image_axes = [{"name": "c", "type": "channel"}, *space]
    properties = [{"label-value": value, "name": label_names[value]} for value in label_names]
    image = {
        "version": _OME_VERSION,
        "multiscales": _multiscales(name, image_axes, (1.0, *spacing)),
    }
    structures = {
        "version": _OME_VERSION,
        "multiscales": _multiscales("structures", space, spacing),
        "image-label": {"properties": properties, "source": {"image": "../../"}},
    }
    _write_group(path, {"ome": image, "wsicl": case})
    _write_group(path / "labels", {"ome": {"version": _OME_VERSION, "labels": ["structures"]}})
    _write_group(path / "labels" / "structures", {"ome": structures})


def _multiscales(name: str, axes: Sequence[dict[str, str]], scale: Sequence[float]) -> list:
    transform = {"type": "scale", "scale": list(scale)}
    dataset = {"path": "0", "coordinateTransformations": [transform]}
    return [{"name": name, "axes": list(axes), "datasets": [dataset]}]


def _write_array(path: Path, array: np.ndarray, axes: tuple[str, ...]) -> None:
    spatial = [min(side, _LARGEST_CHUNK_SIDE) for side in array.shape[-3:]]
    # One channel per chunk: readers take one channel at a time.
    chunk = [1] * (array.ndim - 3) + spatial
    metadata = {
        "shape": list(array.shape),
        "data_type": array.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": 3}},
            {"name": "crc32c"},
        ],
        "fill_value": 0,
        "dimension_names": list(axes),
    }
    opened = ts.open(_spec(path) | {"metadata": metadata}, create=True).result()
    opened.write(array).result()


def _spec(path: Path) -> dict[str, Any]:
    # Every chunk is written, even one of zeros, so that a missing chunk is an error and
    # does not read as background.
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path)},
        "fill_missing_data_reads": False,
        "store_data_equal_to_fill_value": True,
    }


def _write_group(path: Path, attributes: Mapping[str, Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (path / "zarr.json").write_text(json.dumps(group, indent=1))


def _read_attributes(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())["attributes"]
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def _read_root(path: Path) -> tuple[str, tuple[str, ...], dict[int, str]]:
    """Name, channels and labels of the data set."""
    if not path.exists():
        siblings = [p.name for p in path.parent.glob("*/")]
        nearest = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"nearest is {path.parent / nearest[0]}" if nearest else "check the path"
        raise DataError(f"no store at {path}; {hint}")
    if (path / "dataset.json").exists():
        raise DataError(f"{path} is an nnU-Net folder; make a store of it with `wsicl convert`")
    file = path / "zarr.json"
    try:
        root = _read_attributes(file)["wsicl"] if file.exists() else None
    except (KeyError, TypeError, ValueError):
        root = None
    if root is None:
        raise DataError(f"{path} is no store of wsicl_jax; make one with `wsicl convert`")
    try:
        if root["format"] > FORMAT:
            raise DataError(
                f"{path} has format {root['format']}, this wsicl_jax reads up to {FORMAT}; "
                "install a newer one"
            )
        labels = {int(value): str(name) for value, name in root["label_names"].items()}
        return str(root["name"]), tuple(map(str, root["channel_names"])), labels
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file} is damaged; convert the data again") from error


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return (text or str(error)).split(" [tensorstore_spec", 1)[0]
