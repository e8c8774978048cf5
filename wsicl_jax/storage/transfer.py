"""Copies between object stores and temporary folders on this machine."""

import atexit
import errno
import functools
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wsicl_jax.errors import WsiclError
from wsicl_jax.storage.atomic import partial
from wsicl_jax.storage.object_path import ObjectPath, Place


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder in the system's temporary directory (`TMPDIR`), removed at the end.

    Those of killed processes are removed as well.

    Raises:
        OSError: it cannot be made.
    """
    folder = Path(tempfile.mkdtemp(dir=_of_this_process()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def on_disk(place: Place) -> Iterator[Path]:
    """A path on a disk with the content of a place: itself, or a temporary copy.

    A `WsiclError` of the block names the place, not the copy.

    Raises:
        FileNotFoundError: there is nothing in the object store.
        OSError: it cannot be read, or the disk is full.
    """
    if isinstance(place, Path):
        yield place
        return
    with temporary_folder() as folder:
        copy = folder / place.name
        if place.is_file():
            copy.write_bytes(place.read_bytes())
        elif keys := place.keys_below():
            download(place, keys, copy)
        else:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", str(place))
        try:
            yield copy
        except WsiclError as error:
            raise type(error)(str(error).replace(str(copy), str(place))) from error


def download(place: ObjectPath, keys: Iterable[str], folder: Path) -> None:
    """Copy objects below a place to files below a folder.

    Raises:
        OSError: one cannot be read, or the disk is full.
    """
    for key, content in place.read_many(keys):
        file = folder / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def upload(folder: Path, files: Iterable[Path], place: ObjectPath) -> None:
    """Copy files below a folder to objects below a place.

    Raises:
        OSError: one cannot be read or written.
    """
    names = ((file.relative_to(folder).as_posix(), file) for file in files)
    place.write_many((key, file.read_bytes()) for key, file in names)


@functools.cache
def _of_this_process() -> Path:
    folder = partial(Path(tempfile.gettempdir()), ".wsicl.")
    folder.mkdir(exist_ok=True, mode=0o700)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
