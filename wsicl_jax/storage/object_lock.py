"""Locks in object stores: an object that only one process can create, or take over.

A write with a condition (`If-None-Match` and `If-Match` of S3, generations of Google Cloud
Storage) succeeds for one process alone. The holder writes its record anew every `BEAT_SECONDS`.
The lock of a dead holder is taken over as that of a file: at once on its machine, elsewhere after
`SILENT_SECONDS` without a new record. No clocks are compared.
"""

import json
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from wsicl_jax.errors import LockedError, WsiclError
from wsicl_jax.storage.lock_holder import (
    BEAT_SECONDS,
    SILENT_SECONDS,
    in_use,
    is_here,
    own_record,
    parsed,
    runs,
    taken_over,
)
from wsicl_jax.storage.object_path import ObjectPath, unreachable

if TYPE_CHECKING:
    import tensorstore as ts

_PAUSE = 1.0


class ObjectLock:
    """A lock of an object store that is held; made by `lock.locked`."""

    def __init__(self, path: ObjectPath, what: str):
        self._path, self._what = path, what
        self._own_record = own_record() | {"beat": 0}
        self._store = _store_of(path)
        self._version = b""
        """Generation of the record that this process wrote last."""
        self._writing = threading.Lock()
        self._released = threading.Event()

    def check(self) -> None:
        """Raises `LockedError` if another process has taken over the lock.

        Raises:
            UnreachableError: the object store cannot be reached.
        """
        record, version = self._read()
        if record is None and self._write(version):
            return  # somebody removed it by hand
        if record is None:
            record, version = self._read()
        if (record or {}).get("token") != self._own_record["token"]:
            raise LockedError(taken_over(self._what, record or {}))

    def take(self) -> None:
        """Acquire the lock; raises `LockedError` if a living process holds it.

        Raises:
            UnreachableError: it cannot be written.
            WsiclError: the server knows no conditional writes.
        """
        self._path.is_file()  # raises if there is no such bucket, which other requests do not tell
        while True:
            record, version = self._read()
            if record is not None and self._lives(record, version):
                raise LockedError(in_use(self._what, record, self._path))
            if self._write(version):
                break
        if self._put(version):
            raise WsiclError(
                f"the server of {self._path} ignores conditions of writes (If-None-Match), so "
                f"that {self._what} cannot be locked: use a server with them, or a directory"
            )
        threading.Thread(target=self._beat, daemon=True, name="lock").start()

    def leave(self) -> None:
        """Release the lock."""
        self._released.set()
        with suppress(OSError, ValueError), self._writing:
            self._store.write(self._path.name, None, if_equal=self._version).result()

    def _write(self, version: bytes) -> bool:
        """Write the own record in place of this version; whether it was still this one."""
        written = self._put(version)
        if not written:
            # After a lost answer the write was repeated, and met its own record.
            record, now = self._read()
            written = now if record == self._own_record else b""
        if written:
            self._version = written
        return bool(written)

    def _put(self, version: bytes) -> bytes:
        """The new version; empty if the record was no longer of this version."""
        content = json.dumps(self._own_record)
        try:
            return self._store.write(self._path.name, content, if_equal=version).result().generation
        except (ValueError, OSError) as error:
            raise unreachable(error, self._path) from error

    def _read(self) -> tuple[dict[str, Any] | None, bytes]:
        """The record, None if there is none, and its version."""
        try:
            found = self._store.read(self._path.name).result()
        except (ValueError, OSError) as error:
            raise unreachable(error, self._path) from error
        record = parsed(bytes(found.value)) if found.state == "value" else None
        return record, found.stamp.generation

    def _lives(self, record: dict[str, Any], version: bytes) -> bool:
        if is_here(record):
            return runs(record)
        deadline = time.monotonic() + SILENT_SECONDS
        while time.monotonic() < deadline:
            time.sleep(_PAUSE)
            now, newer = self._read()
            if newer != version:
                return now is not None
        return False

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            # The store may fail for a moment. If the record is another's, `check` tells.
            with suppress(OSError), self._writing:
                if not self._released.is_set():
                    self._own_record["beat"] += 1
                    self._write(self._version)


def _store_of(path: ObjectPath) -> "ts.KvStore":
    import tensorstore as ts

    spec = path.parent.location.kvstore
    if spec["driver"] == "s3":
        # Otherwise TensorStore only compares before it writes, except on AWS itself.
        spec["use_conditional_write"] = True
    return ts.KvStore.open(spec).result()
