"""Lock files, for one process at a time, that also work on shared file systems.

A holder releases its lock when it ends normally. The lock of a dead holder is taken over:

* On the holder's machine (same kernel, same process namespace), the holder is alive if a process
  with its number and start time exists. The answer is immediate.
* On other machines, the holder touches the file every `BEAT_SECONDS`. If it was not touched for
  `SILENT_SECONDS`, the holder is dead. Until then, the file is watched. Only times of the file
  server are compared, because clocks may differ.

Kernel locks (flock, byte ranges) are not used: whether they work on NFS and Lustre depends on the
mount, and a lock that is silently local protects nothing. Exclusive creation of a file is atomic
on local disks, NFS since version 3, Lustre and GPFS. For object stores see `object_lock`.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from wsicl_jax.errors import LockedError, WsiclError
from wsicl_jax.storage.atomic import directory_made
from wsicl_jax.storage.lock_holder import (
    BEAT_SECONDS,
    SILENT_SECONDS,
    describe,
    in_use,
    is_here,
    own_record,
    parsed,
    runs,
    taken_over,
)
from wsicl_jax.storage.object_lock import ObjectLock
from wsicl_jax.storage.object_path import ObjectPath, Place

_PAUSE = 0.2


class FileLock:
    """A lock that is held; made by `locked`."""

    def __init__(self, path: Path, what: str):
        self._path, self._what = path, what
        self._own_record = own_record()
        self._released = threading.Event()

    def check(self) -> None:
        """Raises `LockedError` if another process has taken over the lock.

        This happens if this process was suspended for longer than `SILENT_SECONDS`.
        """
        record = _read(self._path)
        if record is None and self._create():
            return  # somebody removed it by hand
        if (record or _read(self._path) or {}).get("token") != self._own_record["token"]:
            raise LockedError(taken_over(self._what, _read(self._path) or {}))

    def take(self) -> None:
        """Acquire the lock; raises `LockedError` if a living process holds it."""
        while not self._create():
            record = _read(self._path)
            if record is not None and _lives(self._path, record):
                raise LockedError(in_use(self._what, record, self._path))
            self._clear(record)
        threading.Thread(target=self._beat, daemon=True, name="lock").start()

    def leave(self) -> None:
        """Release the lock."""
        self._released.set()
        with suppress(OSError):
            if (_read(self._path) or {}).get("token") == self._own_record["token"]:
                self._path.unlink(missing_ok=True)

    def _create(self) -> bool:
        try:
            file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(file, "wb") as opened:
                opened.write(json.dumps(self._own_record).encode())
                opened.flush()
                os.fsync(opened.fileno())
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        return True

    def _clear(self, dead: dict[str, Any] | None) -> None:
        """Remove the lock of this dead holder; only one process at a time does so."""
        gate = self._path.with_name(f"{self._path.name}.takeover")
        try:
            os.close(os.open(gate, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            if (_age(gate) or 0) > SILENT_SECONDS:  # its process died
                gate.unlink(missing_ok=True)
            time.sleep(_PAUSE)
            return
        try:
            if _read(self._path) == dead:
                self._path.unlink(missing_ok=True)
        finally:
            gate.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            with suppress(OSError):  # the file server may fail for a moment
                if (_read(self._path) or {}).get("token") == self._own_record["token"]:
                    os.utime(self._path)


Lock = FileLock | ObjectLock
"""A lock that is held: `check` raises `LockedError` if another process has taken it over."""


@contextmanager
def locked(path: Place, what: str) -> Iterator[Lock]:
    """Hold the lock `path`, a file or an object, during the block.

    `what` names the protected thing in messages. A missing directory is made, and removed at the
    end if it is empty.

    Raises:
        LockedError: another living process holds it.
        WsiclError: the file cannot be written.
    """
    with ExitStack() as opened:
        try:
            if isinstance(path, ObjectPath):
                lock = ObjectLock(path, what)
            else:
                opened.enter_context(directory_made(path.parent))
                lock = FileLock(path, what)
            lock.take()
        except OSError as error:
            raise WsiclError(f"cannot write to {path.parent}: {error.strerror}") from error
        opened.callback(lock.leave)
        yield lock


@contextmanager
def part_locked(path: str | Path, part: tuple[int, int], what: str) -> Iterator[None]:
    """Hold part (i, n) of the work on a directory, which need not exist, during the block.

    Each part has its own lock file next to the directory. Parts of different divisions n exclude
    each other. An object store (a URL) has no locks.

    Raises:
        LockedError: another process holds the part, or a part of another division.
        WsiclError: as `locked`.
    """
    if "://" in str(path):
        yield
        return
    directory = Path(path).absolute()
    number, parts = part
    prefix, suffix = f".{directory.name}.", f"-of-{parts}.lock"
    with locked(directory.parent / f"{prefix}{number}{suffix}", what):
        for other in directory.parent.glob("*-of-*.lock"):
            if not other.name.startswith(prefix) or other.name.endswith(suffix):
                continue
            if is_held(other):
                raise LockedError(
                    f"{what} is in use by another process, {_holder(other)}, that divides the "
                    "work into another number of parts; wait for its end, or stop it"
                )
        yield


def is_held(path: Path) -> bool:
    """Whether a living process holds a lock file; does not wait for the holder's next touch."""
    record = _read(path)
    if record is None:
        return False
    if is_here(record):
        return runs(record)
    return (_age(path) or 0) <= SILENT_SECONDS


def _lives(path: Path, record: dict[str, Any]) -> bool:
    if is_here(record):
        return runs(record)
    before, age = _touched(path), _age(path)
    if age is None:
        return False
    deadline = time.monotonic() + SILENT_SECONDS - max(age, 0)
    while time.monotonic() < deadline:
        time.sleep(_PAUSE)
        now = _touched(path)
        if now != before:
            return now is not None
    return False


def _read(path: Path) -> dict[str, Any] | None:
    """The record in a lock file; {} if it was just made or is damaged, None if it is missing."""
    try:
        return parsed(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError:
        return {}


def _touched(path: Path) -> int | None:
    """Modification time of a file by the file server, in ns; None if it is missing."""
    try:
        with path.open("rb") as file:  # opening makes NFS query the server
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _age(path: Path) -> float | None:
    """Seconds since a file was touched, by the clock of the file server."""
    touched = _touched(path)
    if touched is None:
        return None
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        now = _touched(probe)
    except OSError:
        now = time.time_ns()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return ((now or time.time_ns()) - touched) / 1e9


def _holder(path: Path) -> str:
    return describe(_read(path) or {})
