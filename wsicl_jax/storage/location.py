"""Locations of stores: a directory, or a prefix of an object store, through TensorStore.

    /data/stores/liver        a directory
    s3://bucket/stores/liver  S3, or a compatible server in `AWS_ENDPOINT_URL`
    gs://bucket/stores/liver  Google Cloud Storage

Files and objects are written atomically. There are no directories and no renaming.
"""

import functools
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wsicl_jax.errors import DataError, reason

if TYPE_CHECKING:  # slow to import, and most paths are those of disks
    import tensorstore as ts

T = TypeVar("T")

_REMOTE = {"s3": "s3", "gs": "gcs"}
"""TensorStore's driver for each scheme of a URL."""

_ONE_SLASH = re.compile(r"([a-z][a-z0-9+.-]+):/(?!/)(.*)")
"""A URL that lacks a slash, which would be a directory of an unlikely name."""

_AT_ONCE = 32
"""Files in transfer at a time."""

_RETRIES = {"max_retries": 6, "initial_delay": "1s", "max_delay": "8s"}
"""Half a minute; TensorStore's default is many."""


@dataclass(frozen=True)
class Location:
    """A directory or a prefix of an object store; files below it are named by keys `a/b`."""

    url: str
    """Absolute path of a directory, or a URL, without a slash at its end."""

    @classmethod
    def of(cls, path: "str | Path | Location") -> "Location":
        """The location that a path or URL names.

        Raises:
            DataError: the scheme of the URL is not supported, or it names no bucket.
        """
        if isinstance(path, Location):
            return path
        scheme, separator, rest = str(path).partition("://")
        if "\0" in str(path):
            raise DataError(f"{str(path)!r} has an invalid character")
        if match := _ONE_SLASH.fullmatch(str(path)):
            raise DataError(f"{path} has one slash after {match[1]}:; expected {match[1]}://...")
        if not separator:
            return cls(_absolute(Path(os.path.expanduser(path))))  # noqa: PTH111 - leaves ~UNKNOWN
        if scheme not in _REMOTE:
            known = ", ".join(f"{known}://" for known in _REMOTE)
            raise DataError(f"{path}: {scheme}:// is not supported; give a directory, or {known}")
        if not rest.strip("/"):
            raise DataError(f"{path} names no bucket; expected {scheme}://BUCKET/PATH")
        return cls(f"{scheme}://{rest.strip('/')}")

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, key: str) -> "Location":
        return Location(f"{self.url}/{key}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def directory(self) -> Path | None:
        """The directory, if it is one."""
        return None if "://" in self.url else Path(self.url)

    @property
    def kvstore(self) -> dict[str, Any]:
        """TensorStore's specification of what lies below."""
        scheme, separator, rest = self.url.partition("://")
        if not separator:
            return {"driver": "file", "path": f"{self.url}/"}
        bucket, _, path = rest.partition("/")
        driver = _REMOTE[scheme]
        spec = {
            "driver": driver,
            "bucket": bucket,
            "path": path and f"{path}/",
            "context": {f"{driver}_request_retries": _RETRIES},
        }
        return spec | (_s3_settings() if scheme == "s3" else {})

    def read(self, key: str) -> bytes | None:
        """The content of a file; None if there is none.

        Raises:
            DataError: it cannot be read.
        """
        try:
            result = self._opened().read(key).result()
        except (ValueError, OSError) as error:
            raise DataError(f"{self / key} cannot be read: {reason(error)}") from error
        return bytes(result.value) if result.state == "value" else None

    def write(self, key: str, content: bytes) -> None:
        """Write a file, or replace it.

        Raises:
            DataError: it cannot be written.
        """
        try:
            self._opened().write(key, content).result()
        except (ValueError, OSError) as error:
            raise DataError(f"{self / key} cannot be written: {reason(error)}") from error

    def read_many(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Files with their content, read at the same time, in the order of their keys.

        Raises:
            DataError: one cannot be read, or there is none of this key.
        """
        store = self._opened()
        for key, reading in _ahead((key, store.read(key)) for key in keys):
            try:
                result = reading.result()
            except (ValueError, OSError) as error:
                raise DataError(f"{self / key} cannot be read: {reason(error)}") from error
            if result.state != "value":
                raise DataError(f"{self / key} cannot be read: it was removed meanwhile")
            yield key, bytes(result.value)

    def write_many(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write files, or replace them, at the same time.

        Raises:
            DataError: one cannot be written.
        """
        store = self._opened()
        for key, writing in _ahead((key, store.write(key, content)) for key, content in files):
            try:
                writing.result()
            except (ValueError, OSError) as error:
                raise DataError(f"{self / key} cannot be written: {reason(error)}") from error

    def exists(self, key: str) -> bool:
        """Whether there is a file of exactly this key.

        Raises:
            DataError: they cannot be listed.
        """
        return bool(self._listed(key, f"{key}\0"))

    def keys(self, below: str = "") -> Iterator[str]:
        """All files whose key begins with `below`, sorted.

        Raises:
            DataError: they cannot be listed.
        """
        return iter(self._listed(below, _after(below)))

    def remove(self, key: str) -> None:
        """Remove the file of this key, if there is one.

        Raises:
            DataError: it cannot be removed.
        """
        try:
            self._opened().write(key, None).result()
        except (ValueError, OSError) as error:
            raise DataError(f"{self / key} cannot be removed: {reason(error)}") from error

    def delete(self, below: str = "") -> None:
        """Remove all files whose key begins with `below`.

        Raises:
            DataError: they cannot be removed.
        """
        try:
            if self.directory is not None and (not below or below.endswith("/")):
                # Otherwise empty directories would remain.
                shutil.rmtree(self.directory / below)
                return
            store, among = self._opened(), _key_range(below, _after(below))
            store.delete_range(among).result()
        except FileNotFoundError:
            pass
        except (ValueError, OSError) as error:
            raise DataError(f"{self / below} cannot be removed: {reason(error)}") from error

    def _listed(self, first: str, end: str) -> list[str]:
        try:
            keys = self._opened().list(_key_range(first, end)).result()
        except (ValueError, OSError) as error:
            raise DataError(f"{self} cannot be listed: {reason(error)}") from error
        return sorted(key.decode() for key in keys)

    def _opened(self) -> "ts.KvStore":
        return _open(json.dumps(self.kvstore))


def _absolute(path: Path) -> str:
    """The absolute path without `..`, which TensorStore refuses.

    As for the system, `..` is the parent of a link's target. Links elsewhere are kept.
    """
    parts = path.absolute().parts
    if ".." in parts:
        last = len(parts) - parts[::-1].index("..")
        return str(Path(os.path.realpath(Path(*parts[:last])), *parts[last:]))
    return str(Path(*parts))


def _after(prefix: str) -> str:
    """The first key after all keys with a prefix; empty: no end."""
    return prefix and prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _ahead(started: Iterator[T]) -> Iterator[T]:
    """The same, of which a number is started before the first is taken."""
    waiting: deque[T] = deque()
    for one in started:
        waiting.append(one)
        if len(waiting) == _AT_ONCE:
            yield waiting.popleft()
    yield from waiting


def _key_range(first: str, end: str) -> "ts.KvStore.KeyRange":
    import tensorstore as ts

    return ts.KvStore.KeyRange(first, end)


@functools.lru_cache(maxsize=32)
def _open(spec: str) -> "ts.KvStore":
    import tensorstore as ts

    return ts.KvStore.open(json.loads(spec)).result()


def _s3_settings() -> dict[str, Any]:
    """Settings of S3 from the environment variables of the AWS tools."""
    settings: dict[str, Any] = {}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        settings["endpoint"] = endpoint
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        settings["aws_region"] = region
    if "AWS_ACCESS_KEY_ID" in os.environ:  # otherwise TensorStore also looks for files, and logs it
        settings["aws_credentials"] = {"type": "environment"}
    return settings
