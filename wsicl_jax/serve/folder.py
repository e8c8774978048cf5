"""The folder that is served: its images, and files that are added to it."""

import os
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.images import read_volume
from wsicl_jax.data.layouts.layout import stem_of
from wsicl_jax.errors import DataError
from wsicl_jax.inference.batch.targets import find_targets
from wsicl_jax.storage.safe_names import file_name

STATE = ".wsicl"
"""Directory in the folder with sessions, results, accepted masks and small pictures."""

SAVED = "wsicl_results"
"""Directory in the folder with what people save."""

_SUBFOLDERS = ("imagesTr", "imagesTs", "images")
"""Folders of images in known layouts."""

ADDED_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Endings of files that may be added: those with header and voxels in one file."""


class ImageFile(NamedTuple):
    """An image of the folder."""

    id: str
    """Its identifier in addresses, which is a valid file name."""
    name: str
    """For people: its name without ending, with that of its subfolder."""
    path: Path
    """Its file, or the directory of its DICOM series."""
    files: tuple[Path, ...]

    @property
    def state(self) -> tuple[str, int, int]:
        """What changes when the file does."""
        status = self.files[0].stat()
        return self.id, status.st_size, status.st_mtime_ns


class TooManyError(DataError):
    """A limit of the service is reached."""


class TooLargeError(DataError):
    """A file is larger than the service takes."""


class ExistsError(DataError):
    """There is such a file already."""


class Folder:
    """The images of a folder, by identifier. Requests never name paths."""

    def __init__(self, root: Path, *, max_upload_mb: float, max_uploads: int):
        """Raises `DataError` if `root` is no folder, or cannot be written to."""
        self.root = root.resolve()
        if not self.root.is_dir():
            raise DataError(f"{root} is no folder; give one with images")
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise DataError(f"you may not write to {root}, where sessions are saved; copy it first")
        self.state = self.root / STATE
        self._incoming = self.state / "incoming"
        shutil.rmtree(self._incoming, ignore_errors=True)  # of a service that was killed
        self._max_bytes = int(max_upload_mb * 10**6)
        self._uploads_left = max_uploads
        self._lock = threading.Lock()
        self.images: dict[str, ImageFile] = {}
        self.problems: tuple[str, ...] = ()
        """Reasons why files are not among the images."""
        self.scan()

    def scan(self) -> None:
        """Find the images again."""
        places = [self.root / name for name in _SUBFOLDERS if (self.root / name).is_dir()]
        images: dict[str, ImageFile] = {}
        problems: list[str] = []
        for place in (self.root, *places):
            found = find_targets([place], self.root)
            if found.targets or not places:
                problems += found.problems
            for target in found.targets:
                shared = Path(os.path.commonpath([file.parent for file in target.files]))
                path = target.files[0] if len(target.files) == 1 else shared
                inside = path.relative_to(self.root)
                if inside.parts and inside.parts[0] in (STATE, SAVED):
                    continue
                name = "/".join((*place.relative_to(self.root).parts, stem_of(target.output)))
                id = file_name(str(inside).replace(os.sep, "="))
                if id in images:
                    if images[id].files != target.files:
                        problems.append(
                            f"{target.name}: its folder has several DICOM series; part them"
                        )
                    continue
                images[id] = ImageFile(id, name, path, target.files)
        with self._lock:
            self.images, self.problems = images, tuple(problems)

    def __getitem__(self, id: str) -> ImageFile:
        """Raises `KeyError` if there is no such image."""
        return self.images[id]

    async def add(self, name: str, content: AsyncIterator[bytes], reading: ReadingConfig) -> str:
        """Add a file to the folder, and return its identifier. Nothing is replaced.

        Raises:
            DataError: the name has another ending, or the content is no image.
            ExistsError: there is a file of this name.
            TooLargeError: the file is too large.
            TooManyError: too many files were added.
        """
        from starlette.concurrency import run_in_threadpool

        ending = next((e for e in ADDED_ENDINGS if name.lower().endswith(e)), None)
        if ending is None:
            raise DataError(f"{name[:100]!r} cannot be added; expected {', '.join(ADDED_ENDINGS)}")
        path = self.root / (file_name(name[: -len(ending)]) + ending)
        with self._lock:
            if path.exists():
                raise ExistsError(f"{path.name} exists already; rename the file that you add")
            if self._uploads_left < 1:
                raise TooManyError("no more files can be added; start the service again")
            self._uploads_left -= 1
        self._incoming.mkdir(parents=True, exist_ok=True)
        received = self._incoming / f"{os.urandom(8).hex()}{ending}"
        try:
            with received.open("wb") as file:
                size = 0
                async for part in content:
                    size += len(part)
                    if size > self._max_bytes:
                        raise TooLargeError(
                            f"{path.name} has more than {self._max_bytes / 1e6:g} MB; copy it into "
                            "the folder"
                        )
                    file.write(part)
            try:
                await run_in_threadpool(read_volume, received, reading)
            except DataError as error:
                raise DataError(str(error).replace(str(received), path.name)) from None
            try:
                path.open("xb").close()  # so that no file that has appeared meanwhile is replaced
            except FileExistsError:
                raise ExistsError(f"{path.name} exists already") from None
            received.replace(path)
        finally:
            received.unlink(missing_ok=True)
        await run_in_threadpool(self.scan)
        return next(image.id for image in self.images.values() if path in image.files)
