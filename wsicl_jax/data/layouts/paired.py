"""Folders of images and labels in pairs, without a description."""

import contextlib
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from wsicl_jax.data.images import READ_ENDINGS, read_channels
from wsicl_jax.data.layouts.described import CHANNEL
from wsicl_jax.data.layouts.layout import (
    Layout,
    LayoutFiles,
    is_volume,
    is_voxel_file,
    layout_of,
    stem_of,
    visible,
    volumes,
)
from wsicl_jax.errors import DataError

IMAGE_FOLDERS = ("images", "imagesTr", "image", "imgs", "img", "volumes")
LABEL_FOLDERS = ("labels", "labelsTr", "label", "segmentations", "segs", "seg", "masks", "mask")
"""Names of folders that hold images, and labels; the first that is there counts."""

_SUFFIXES = re.compile(
    r"[_.-](image|img|volume|label|labels|seg|segmentation|mask)$", re.IGNORECASE
)


def is_paired(source: Path) -> bool:
    """Whether a folder has two folders of images and labels, or volumes in it."""
    return _pair_of_folders(source) is not None or bool(volumes(source))


def paired(source: Path) -> Layout:
    """Files of equal names in `images` and `labels`, or `NAME_image` and `NAME_label` in one.

    Raises:
        DataError: there are none.
    """
    folders = _pair_of_folders(source)
    found: dict[str, LayoutFiles] = defaultdict(LayoutFiles)
    skipped = {}
    if folders:
        images, labels = folders
        for file in visible(images):
            if not is_volume(file):
                if not is_voxel_file(file):
                    skipped[f"{images.name}/{file.name}"] = "is no image of a known format"
                continue
            numbered = CHANNEL.fullmatch(stem_of(file))
            name, channel = (numbered[1], int(numbered[2])) if numbered else (stem_of(file), 0)
            found[_without_suffix(name)].images[channel].append(file)
        for file in visible(labels):
            if is_volume(file):
                found[_without_suffix(stem_of(file))].labels.append(file)
            elif not is_voxel_file(file):
                skipped[f"{labels.name}/{file.name}"] = "is no image of a known format"
    else:
        for file in volumes(source):
            suffix = _SUFFIXES.search(stem_of(file))
            is_label = suffix and suffix[1].lower() not in ("image", "img", "volume")
            case = found[_without_suffix(stem_of(file))]
            (case.labels if is_label else case.images[0]).append(file)
    if not found:
        raise DataError(
            f"{source} has no pairs of images and labels; looked for folders such as images and "
            "labels, and for files such as A_image.nii.gz and A_label.nii.gz, of "
            f"{', '.join(READ_ENDINGS)}"
        )
    return layout_of("paired", source, _channel_names(found), None, found, skipped)


def _channel_names(found: Mapping[str, LayoutFiles]) -> tuple[str, ...]:
    """Names for as many channels as numbered files tell, or else the first file that is read."""
    most = max(len(case.images) for case in found.values())
    if most == 1:
        for file in (file for case in found.values() for file in case.images.get(0, ())):
            with contextlib.suppress(DataError):  # told when the case is converted
                most = len(read_channels([file]).image)
                break
    return tuple(f"channel {i}" for i in range(most)) if most > 1 else ("image",)


def _pair_of_folders(source: Path) -> tuple[Path, Path] | None:
    by_name = {folder.name.lower(): folder for folder in source.iterdir() if folder.is_dir()}
    images, labels = (
        next((by_name[name.lower()] for name in names if name.lower() in by_name), None)
        for names in (IMAGE_FOLDERS, LABEL_FOLDERS)
    )
    return (images, labels) if images and labels else None


def _without_suffix(stem: str) -> str:
    return _SUFFIXES.sub("", stem)
