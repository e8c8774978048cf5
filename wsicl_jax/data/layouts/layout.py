"""The content of a source folder: cases, their files, and skipped files."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wsicl_jax.data.images import READ_ENDINGS, VOXELS_OF_PAIR
from wsicl_jax.errors import DataError

_HEADER_ENDINGS = (".mhd", ".nhdr", ".hdr")
_VOXEL_ENDINGS = (".raw", ".zraw", ".raw.gz", VOXELS_OF_PAIR)

Kind = Literal["auto", "nnunet", "msd", "paired", "dicom"]


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case."""

    name: str
    subject: str
    """One subject may have several cases."""
    images: tuple[tuple[Path, ...], ...]
    """For each image its file, or the files of a DICOM series. One image may hold several
    channels."""
    labels: tuple[Path, ...]
    """The label map, or DICOM-SEG files."""


@dataclass(frozen=True)
class Layout:
    """The content of a source folder."""

    kind: Kind
    source: Path
    name: str
    """Of the data set."""
    channel_names: tuple[str, ...]
    label_names: dict[int, str] | None
    """Structure of each label value, without background; None: the folder does not name them."""
    cases: tuple[CaseFiles, ...]
    """Sorted by name."""
    skipped: dict[str, str]
    """Files and cases that cannot be used, each with the reason."""


@dataclass
class LayoutFiles:
    """The files of one case, complete or not."""

    images: dict[int, list[Path]] = field(default_factory=lambda: defaultdict(list))
    labels: list[Path] = field(default_factory=list)


def layout_of(
    kind: Kind,
    source: Path,
    channels: tuple[str, ...],
    label_names: dict[int, str] | None,
    files: Mapping[str, LayoutFiles],
    skipped: dict[str, str],
) -> Layout:
    """A layout of the files of each case; incomplete cases are skipped."""
    cases = {}
    for name, case in files.items():
        if reason := _reason_to_skip(case, len(channels)):
            skipped[name] = reason
            continue
        images = tuple((case.images[channel][0],) for channel in sorted(case.images))
        cases[name] = CaseFiles(name, name, images, tuple(case.labels))
    return checked(
        Layout(kind, source, name_of(source), channels, label_names, in_order(cases), skipped)
    )


def _reason_to_skip(files: LayoutFiles, channels: int) -> str | None:
    if not files.images:
        return "has a label but no image"
    if not files.labels:
        return "has an image but no label"
    for candidates in (files.labels, *files.images.values()):
        if len(candidates) > 1:
            return f"has two files for one thing: {' and '.join(f.name for f in candidates)}"
    if sorted(files.images) != list(range(channels)):
        return f"has image channels {sorted(files.images)}; expected {list(range(channels))}"
    return None


def checked(layout: Layout) -> Layout:
    """The layout itself. Raises `DataError` if it is empty."""
    if not layout.cases and not layout.skipped:
        raise DataError(f"{layout.source} has no case with an image and a label")
    return layout


def in_order(cases: Mapping[str, CaseFiles]) -> tuple[CaseFiles, ...]:
    """The cases sorted by name."""
    return tuple(cases[name] for name in sorted(cases))


def name_of(source: Path) -> str:
    """The data set's name: that of its folder."""
    return source.resolve().name


def visible(folder: Path) -> Sequence[Path]:
    """The files of a folder except hidden ones, sorted; none if there is no folder."""
    if not folder.is_dir():
        return []
    return [f for f in sorted(folder.iterdir()) if not f.name.startswith(".") and f.is_file()]


def volumes(folder: Path) -> list[Path]:
    """The visible files whose names are those of volumes."""
    return [file for file in visible(folder) if is_volume(file)]


def is_volume(file: Path) -> bool:
    """Whether a file's name is that of a volume that can be read."""
    return file.name.lower().endswith(READ_ENDINGS)


def is_voxel_file(file: Path) -> bool:
    """Whether a file's name is that of the voxels of a separate header, such as .mhd."""
    return file.name.lower().endswith(_VOXEL_ENDINGS)


def voxel_files(header: Path) -> list[Path]:
    """The voxel files beside a separate header, such as .mhd or .nhdr, by their names."""
    if not header.name.lower().endswith(_HEADER_ENDINGS):
        return []
    candidates = (header.with_name(stem_of(header) + ending) for ending in _VOXEL_ENDINGS)
    return [file for file in candidates if file.is_file()]


def stem_of(file: Path) -> str:
    """A file's name without the ending of a volume."""
    name = file.name
    for ending in READ_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name
