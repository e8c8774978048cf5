"""Paths in object stores, beside those of disks, so that other modules need not distinguish them.

    runs/liver            a `Path`
    s3://bucket/runs/liver, gs://bucket/runs/liver   an `ObjectPath`

An object is written whole or not at all, and cannot be renamed or appended to. A directory exists
as long as an object lies below it.
"""

import errno
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wsicl_jax.errors import DataError, UnreachableError, reason
from wsicl_jax.storage.location import Location

_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or allow them to use the bucket",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or allow the account to use the bucket",
}


@dataclass(frozen=True, order=True)
class ObjectPath:
    """A path in an object store, with the part of `pathlib.Path` that this package needs.

    Methods raise `FileNotFoundError` for a missing object, and `UnreachableError` with the reason
    if the store cannot be reached, does not have the bucket, or refuses.
    """

    url: str
    """Without a slash at its end."""

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, key: str) -> "ObjectPath":
        return ObjectPath(f"{self.url}/{key}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> "ObjectPath":
        """The path without its last part; of a bucket the bucket itself."""
        above = self.url.rpartition("/")[0]
        return self if above.endswith("/") else ObjectPath(above)

    @property
    def parts(self) -> tuple[str, ...]:
        """The bucket with its scheme, and the parts of the key."""
        scheme, _, rest = self.url.partition("://")
        bucket, *key = rest.split("/")
        return (f"{scheme}://{bucket}", *key)

    @property
    def location(self) -> Location:
        """The same place, for listing and reading what lies below it."""
        return Location(self.url)

    def absolute(self) -> "ObjectPath":
        """The path itself."""
        return self

    def with_name(self, name: str) -> "ObjectPath":
        """The path with another last part."""
        return self.parent / name

    def keys_below(self) -> list[str]:
        """The keys of all objects below, relative to this path, sorted."""
        with self._as_os_errors():
            return list(self.location.keys())

    def is_file(self) -> bool:
        """Whether there is an object of exactly this key."""
        with self._as_os_errors():
            return self.parent.location.exists(self.name)

    def is_dir(self) -> bool:
        """Whether objects lie below."""
        return bool(self.keys_below())

    def exists(self) -> bool:
        """Whether there is an object, or objects below."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["ObjectPath"]:
        """The objects and directories directly below, sorted."""
        return (self / name for name in sorted({key.split("/")[0] for key in self.keys_below()}))

    def mkdir(self, **_: bool) -> None:
        """Nothing: directories need not be made."""

    def read_bytes(self) -> bytes:
        """The content of the object."""
        with self._as_os_errors():
            content = self.parent.location.read(self.name)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", self.url)
        return content

    def write_bytes(self, content: bytes) -> None:
        """Write the object, or replace it, atomically."""
        with self._as_os_errors():
            self.parent.location.write(self.name, content)

    def read_many(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Objects below with their content, read at the same time, in the order of their keys."""
        with self._as_os_errors():
            yield from self.location.read_many(keys)

    def write_many(self, objects: Iterable[tuple[str, bytes]]) -> None:
        """Write objects below, or replace them, at the same time."""
        with self._as_os_errors():
            self.location.write_many(objects)

    def unlink(self) -> None:
        """Remove the object, if there is one."""
        with self._as_os_errors():
            self.parent.location.remove(self.name)

    def remove(self) -> None:
        """Remove all objects below."""
        with self._as_os_errors():
            self.location.delete()

    @contextmanager
    def _as_os_errors(self) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            raise unreachable(error.__cause__ or error, self) from error


def unreachable(error: BaseException, path: ObjectPath) -> UnreachableError:
    """The error of a request for an object that failed, with what to do about credentials."""
    text = reason(error)
    if any(code in text for code in ("PERMISSION_DENIED", "UNAUTHENTICATED")):
        text += f"; {_CREDENTIALS[path.url.partition('://')[0]]}"
    return UnreachableError(errno.EIO, text, str(path))


Place = Path | ObjectPath
"""A path on a disk or in an object store."""


def remove_all(place: Place) -> None:
    """Remove a place with everything below it, if it exists.

    Raises:
        OSError: it cannot be removed.
    """
    if isinstance(place, ObjectPath):
        place.remove()
    elif place.exists():
        shutil.rmtree(place)


def names_below(place: Place) -> list[str]:
    """The names of all files below a place, relative to it, sorted; none if it does not exist.

    Raises:
        UnreachableError: the object store cannot be listed.
    """
    if isinstance(place, ObjectPath):
        return place.keys_below()
    files = (path for path in place.rglob("*") if path.is_file())
    return sorted(file.relative_to(place).as_posix() for file in files)


def place_of(path: str | Place) -> Place:
    """The place that a path or URL names.

    Raises:
        DataError: the URL's scheme is not supported, or it names no bucket.
    """
    if not isinstance(path, str):
        return path
    location = Location.of(path)
    return ObjectPath(location.url) if location.directory is None else Path(path)
