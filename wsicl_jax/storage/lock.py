"""Lock files, for one process at a time, that also work on shared file systems.

A holder releases its lock when it ends normally. The lock of a dead holder is taken over:

* On the holder's machine (same kernel, same process namespace), the holder is alive if a process
  with its number and start time exists. The answer is immediate.
* On other machines, the holder touches the file every `BEAT_SECONDS`. If it was not touched for
  `SILENT_SECONDS`, the holder is dead. Until then, the file is watched. Only times of the file
  server are compared, because clocks may differ.

Kernel locks (flock, byte ranges) are not used: whether they work on NFS and Lustre depends on the
mount, and a lock that is silently local protects nothing. Exclusive creation of a file is atomic
on local disks, NFS since version 3, Lustre and GPFS. Object stores have no locks.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from wsicl_jax.errors import LockedError, WsiclError
from wsicl_jax.storage.atomic import directory_made

BEAT_SECONDS = 10.0
"""Interval at which a holder touches its lock file."""

SILENT_SECONDS = 40.0
"""After this time without a touch, a holder on another machine counts as dead."""

_PAUSE = 0.2
_SAME_START_SECONDS = 5.0
"""Tolerance for the start time of a process, which changes when the clock is set."""


class Lock:
    """A lock that is held; made by `locked`."""

    def __init__(self, path: Path, what: str):
        self._path, self._what = path, what
        self._own_record = {
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "token": uuid.uuid4().hex,
        }
        self._released = threading.Event()

    def check(self) -> None:
        """Raises `LockedError` if another process has taken over the lock.

        This happens if this process was suspended for longer than `SILENT_SECONDS`.
        """
        record = _read(self._path)
        if record is None and self._create():
            return  # somebody removed it by hand
        if (record or _read(self._path) or {}).get("token") != self._own_record["token"]:
            raise LockedError(
                f"{self._what} was taken over by another process, {_holder(self._path)}, while "
                "this one was suspended; this one writes nothing more"
            )

    def take(self) -> None:
        """Acquire the lock; raises `LockedError` if a living process holds it."""
        while not self._create():
            record = _read(self._path)
            if record is not None and _lives(self._path, record):
                raise LockedError(
                    f"{self._what} is in use by another process, {_describe(record)}; wait for "
                    f"its end, or stop it (the lock is {self._path})"
                )
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


@contextmanager
def locked(path: Path, what: str) -> Iterator[Lock]:
    """Hold the lock file `path` during the block. `what` names the protected thing in messages.

    A missing directory is made, and removed at the end if it is empty.

    Raises:
        LockedError: another living process holds it.
        WsiclError: the file cannot be written.
    """
    with ExitStack() as opened:
        try:
            opened.enter_context(directory_made(path.parent))
            lock = Lock(path, what)
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
    if record.get("machine") == _machine():
        return _runs(record)
    return (_age(path) or 0) <= SILENT_SECONDS


def _lives(path: Path, record: dict[str, Any]) -> bool:
    if record.get("machine") == _machine():
        return _runs(record)
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


def _runs(record: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(record["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - record["started"]) < _SAME_START_SECONDS
    except psutil.AccessDenied:
        return True
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _machine() -> str:
    """Scope in which process numbers are unique: host, boot and process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # not Linux
        return socket.gethostname()
    return f"{socket.gethostname()} {boot} {namespace}"


def _read(path: Path) -> dict[str, Any] | None:
    """The record in a lock file; {} if it was just made or is damaged, None if it is missing."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


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
    return _describe(_read(path) or {})


def _describe(record: dict[str, Any]) -> str:
    if "pid" not in record:
        return "which is just starting"
    return f"number {record['pid']} on {record.get('host')}, since {record.get('since')}"
