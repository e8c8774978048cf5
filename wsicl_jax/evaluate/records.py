"""Scores, and the files of a sweep that store them.

A score is one target at one setting. A cell has the scores of one model on one data set with one
kind of prompt and one number of prompts per image, at all context sizes. A cell is one file,
written atomically.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter

from wsicl_jax.errors import DataError, UnreachableError, reason
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.digests import read_verified, with_digest
from wsicl_jax.storage.documents import DocumentError, checked, parse_json, read_file
from wsicl_jax.storage.object_path import Place, names_below
from wsicl_jax.storage.safe_names import file_name

Protocol = Literal["in_context", "interactive", "restoration", "target_dependence"]
"""One for each file in `wsicl_jax.evaluate.protocols`."""

CELLS = "cells"
"""Directory of the cells in the directory of a sweep."""

ABOUT = "sweep.json"
"""File with the settings and models of a sweep, beside its cells."""

_FORMAT = 1

_TITLES = {
    ("in_context", "mask"): "dense ICL",
    ("in_context", "mask2d"): "dense ICL, 2D",
    ("in_context", "box"): "WS-ICL (Box)",
    ("in_context", "box3d"): "WS-ICL (3D box)",
    ("in_context", "point"): "WS-ICL (Point)",
    ("in_context", "scribble"): "WS-ICL (Scribble)",
    ("in_context", "mixed"): "WS-ICL (mixed)",
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """One target at one setting."""

    model: str
    """Name of the model in its sweep."""
    data_set: str
    structure: str
    """Structure to segment; in restoration the name of the task."""
    episode: str
    """Name of the episode in its list, the same for all models and settings."""
    target: str
    """Name of the target's case."""
    subject: str
    """Subject of the target: the unit of confidence intervals."""
    protocol: Protocol
    kind: str
    """Kind of prompt, or task of restoration."""
    prompts: int
    """Prompts requested on each context image; in interactive rounds, those on the target."""
    contexts: int
    """Context images."""
    round: int = 0
    """Round of an interactive episode, from 1; else 0."""
    replacement: str = ""
    """In target dependence: the image in the target's place."""
    seconds: float = 0.0
    """Annotation time of the prompts of the whole context set."""
    fewer: int = 0
    """Context images with fewer prompts than requested, because their structure is small."""
    loss: float | None = None
    """In evaluations during training: the training loss, on the working grid."""
    dice: float | None = None
    """With the truth; in target dependence, with the network's own mask on the true target."""
    surface_dice: float | None = None
    """Normalised surface Dice at the sweep's tolerance."""
    hd95_mm: float | None = None
    """95th percentile of the Hausdorff distance."""
    psnr: float | None = None
    """In restoration, in dB."""
    ssim: float | None = None
    removed: float | None = None
    """In interactive rounds whose new prompt is negative: the share of the false positive under it
    that the mask no longer has."""


def _timed(about: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(about.get("wall_seconds", 0.0), int | float):
        raise ValueError("wall_seconds is no number")
    return about


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The scores of one model, data set, protocol, kind and number of prompts."""

    name: str
    """Its path below the directory of cells, without the suffix."""
    key: str
    """Digest of everything that its scores depend on."""
    scores: tuple[Score, ...]
    about: Annotated[dict[str, Any], AfterValidator(_timed)] = field(default_factory=dict)
    """Model (path, digest, step), episode list (digest), wall time in seconds, versions, device."""


_CELLS = TypeAdapter(Cell)


class _ModelAbout(BaseModel):
    model_config = ConfigDict(extra="allow")

    path: str = ""
    digest: str = ""


class _DataSetAbout(BaseModel):
    model_config = ConfigDict(extra="allow")

    episodes: str = ""
    digest: str = ""


class _About(BaseModel):
    """The fields of `ABOUT` that are read."""

    model_config = ConfigDict(extra="allow")

    command: str = ""
    config: dict[str, Any] | None = None
    versions: dict[str, str] = {}
    models: dict[str, _ModelAbout] = {}
    data_sets: dict[str, _DataSetAbout] = {}
    tolerance_mm: float | None = None
    notes: list[str] = []
    cells: dict[str, str] = {}


_ABOUT = TypeAdapter(_About)


def cell_name(*parts: str) -> str:
    """A safe path for a cell from any names of models, data sets and settings."""
    return "/".join(map(file_name, parts))


def title_of(protocol: Protocol, kind: str) -> str:
    """Name of a protocol and kind in the WS-ICL paper."""
    if protocol == "interactive":
        return f"interactive ({kind})"
    return _TITLES.get((protocol, kind), kind)


def write_cell(directory: Place, cell: Cell) -> None:
    """Write a cell below a sweep's directory, atomically."""
    path = directory / CELLS / f"{cell.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = with_digest({"format": _FORMAT, **asdict(cell)})
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def read_cell(path: Place) -> Cell:
    """A cell from its file.

    Raises:
        DataError: it cannot be read, is of another format, or is not as it was written.
    """
    content = read_verified(path, "file of scores", _FORMAT)
    try:
        return checked(_CELLS, content)
    except DocumentError as error:
        raise DataError(f"{path} is no file of scores: {error}") from None


def read_about(directory: Place) -> dict[str, Any]:
    """The content of a sweep's `ABOUT`; empty if there is no such file.

    Raises:
        DataError: the file is there, but cannot be read.
    """
    path = directory / ABOUT
    try:
        content = parse_json(read_file(path), nan=True)
        checked(_ABOUT, content)
        return content
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except UnreachableError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {reason(error)}; remove it and run the sweep again"
        ) from None


def read_cells(directories: Iterable[Place]) -> list[Cell]:
    """All cells of some sweeps, sorted by path.

    Cells of an earlier state of a sweep, which are no part of it now or whose key has changed, are
    skipped.

    Raises:
        DataError: a directory has none, or one cannot be read.
    """
    kept = []
    for directory in directories:
        root = directory / CELLS
        keys = read_about(directory).get("cells")
        names = [name for name in names_below(root) if name.endswith(".json")]
        listed = {f"{name}.json": key for name, key in (keys or {}).items()}
        if keys is not None:
            names = [name for name in names if name in listed]
        cells = [(name, read_cell(root / name)) for name in names]
        current = [cell for name, cell in cells if cell.key == listed.get(name, cell.key)]
        if not current:
            raise DataError(f"{directory} has no scores; `wsicl sweep` writes them")
        kept += current
    return kept
