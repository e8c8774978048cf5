"""What was measured: a row for each target and setting, cells of rows on disk, many cells at once.

A cell is what one model scored on one data set with one kind of prompt and one number of
prompts per image, at all context sizes. Its file appears when it is whole.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter

from wsicl_jax.errors import DataError, reason
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.digests import read_verified, with_digest
from wsicl_jax.storage.documents import DocumentError, checked, parse_json, read_file
from wsicl_jax.storage.safe_names import file_name

Protocol = Literal["in_context", "interactive", "restoration", "looking"]
"""Context images of other subjects; prompts on the target itself, in rounds; image to image; and
targets without content, where Dice is with the network's own mask on the true target."""

CELLS = "cells"
"""The directory of cells in that of a sweep."""

ABOUT = "sweep.json"
"""What a sweep was asked to do, beside its cells."""

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
    """Structure asked for; of image-to-image tasks the task's name."""
    episode: str
    """Name of the episode in its list: equal for all models and settings."""
    target: str
    """Name of the target's case."""
    subject: str
    """Whom the target shows: the unit of confidence intervals."""
    protocol: Protocol
    kind: str
    """Kind of prompt, or the task of image to image."""
    prompts: int
    """Prompts asked for on each context image; of interactive rounds, those on the target."""
    contexts: int
    """Context images."""
    round: int = 0
    """Round of an interactive episode, from 1; else 0."""
    replacement: str = ""
    """Of `looking`: what was shown in the target's place."""
    seconds: float = 0.0
    """What the prompts of the whole context set cost a person."""
    fewer: int = 0
    """Context images with fewer prompts than asked for, their structure being small."""
    dice: float | None = None
    surface_dice: float | None = None
    """Normalised surface Dice at the sweep's tolerance."""
    hd95_mm: float | None = None
    """95th percentile of the Hausdorff distance."""
    psnr: float | None = None
    """Of image-to-image tasks, in dB."""
    ssim: float | None = None


def _timed(about: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(about.get("wall_seconds", 0.0), int | float):
        raise ValueError("wall_seconds is no number")
    return about


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The scores of one model, data set, protocol, kind and number of prompts."""

    name: str
    """Its path below the directory of cells, without the ending."""
    key: str
    """Hash of all that its scores depend on."""
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
    """What others look at in `ABOUT`."""

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
    """A path for a cell from names of models, data sets and settings, whatever is in them."""
    return "/".join(map(file_name, parts))


def title_of(protocol: Protocol, kind: str) -> str:
    """A protocol as the paper calls it."""
    if protocol == "interactive":
        return f"interactive ({kind})"
    return _TITLES.get((protocol, kind), kind)


def write_cell(directory: Path, cell: Cell) -> None:
    """Write a cell below a sweep's directory, in one piece."""
    path = directory / CELLS / f"{cell.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = with_digest({"format": _FORMAT, **asdict(cell)})
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def read_cell(path: Path) -> Cell:
    """A cell from its file.

    Raises:
        DataError: it cannot be read, is of another format, or is not as it was written.
    """
    content = read_verified(path, "file of scores", _FORMAT)
    try:
        return checked(_CELLS, content)
    except DocumentError as error:
        raise DataError(f"{path} is no file of scores: {error}") from None


def read_about(directory: Path) -> dict[str, Any]:
    """What a sweep was asked to do; nothing if it does not say.

    Raises:
        DataError: the file is there, but cannot be read.
    """
    path = directory / ABOUT
    if not path.exists():
        return {}
    try:
        content = parse_json(read_file(path), nan=True)
        checked(_ABOUT, content)
        return content
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {reason(error)}; remove it and run the sweep again"
        ) from None


def read_cells(directories: Iterable[Path]) -> list[Cell]:
    """All cells of some sweeps, sorted by path.

    Cells that were scored when a sweep was another one, and are no part of it now or have not been
    scored anew, are left out.

    Raises:
        DataError: a directory has none, or one cannot be read.
    """
    found = []
    for directory in directories:
        place = directory / CELLS
        keys = read_about(directory).get("cells")
        wanted = {place / f"{name}.json": key for name, key in (keys or {}).items()}
        paths = sorted(place.rglob("*.json") if keys is None else filter(Path.is_file, wanted))
        cells = [(path, read_cell(path)) for path in paths]
        kept = [cell for path, cell in cells if cell.key == wanted.get(path, cell.key)]
        if not kept:
            raise DataError(f"{directory} has no scores; `wsicl sweep` writes them")
        found += kept
    return found
