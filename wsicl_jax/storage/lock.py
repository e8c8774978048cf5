"""One process at a time: a lock file that names its holder, also right on shared file systems.

What is locked is given up when its holder ends in order, and taken over when the holder is dead:

* On the machine of the holder (same kernel, same numbering of processes) a process of its number
  and start time lives or it does not; it is told at once.
* Elsewhere the holder touches the file every `BEAT_SECONDS`. A file that was not touched for
  `SILENT_SECONDS` has no holder any more; before that it is watched until it is touched or the
  time has passed. Only times that the file server gave are compared: clocks may differ.

The kernel's own locks (flock, byte ranges) are not used: NFS and Lustre have them or not as they
were mounted, and a lock that is silently local protects nothing. Creating a file that must not
exist is exact on local disks, NFS from version 3 on, Lustre and GPFS. Object stores have no locks.
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
"""How often a holder shows that it lives."""

SILENT_SECONDS = 40.0
"""A holder on another machine that has not shown itself for so long counts as dead."""

_PAUSE = 0.2
_SAME_START_SECONDS = 5.0
"""Start times of one process differ by less, however the clock was set meanwhile."""


class Lock:
    """A lock that is held; made by `locked`."""

    def __init__(self, path: Path, what: str):
        self._path, self._what = path, what
        self._mine = {
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "token": uuid.uuid4().hex,
        }
        self._left = threading.Event()

    def check(self) -> None:
        """Raises `LockedError` if another process has taken the lock over.

        This happens to a process that was stopped for longer than `SILENT_SECONDS`.
        """
        found = _read(self._path)
        if found is None and self._create():
            return  # somebody removed it by hand
        if (found or _read(self._path) or {}).get("token") != self._mine["token"]:
            raise LockedError(
                f"{self._what} was taken over by another process, {_holder(self._path)}, while "
                "this one had stopped; nothing more is written by this one"
            )

    def take(self) -> None:
        """Raises `LockedError` if a process that lives holds it."""
        while not self._create():
            found = _read(self._path)
            if found is not None and _lives(self._path, found):
                raise LockedError(
                    f"{self._what} is in use by another process, {_told(found)}; wait for its "
                    f"end, or stop it (the lock is {self._path})"
                )
            self._clear(found)
        threading.Thread(target=self._beat, daemon=True, name="lock").start()

    def leave(self) -> None:
        """Give it up."""
        self._left.set()
        with suppress(OSError):
            if (_read(self._path) or {}).get("token") == self._mine["token"]:
                self._path.unlink(missing_ok=True)

    def _create(self) -> bool:
        try:
            file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(file, "wb") as opened:
                opened.write(json.dumps(self._mine).encode())
                opened.flush()
                os.fsync(opened.fileno())
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        return True

    def _clear(self, dead: dict[str, Any] | None) -> None:
        """Remove the lock of a dead holder: only one process at a time, and only that one's."""
        gate = self._path.with_name(f"{self._path.name}.takeover")
        try:
            os.close(os.open(gate, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            if (_age(gate) or 0) > SILENT_SECONDS:  # whoever was at it died there
                gate.unlink(missing_ok=True)
            time.sleep(_PAUSE)
            return
        try:
            if _read(self._path) == dead:
                self._path.unlink(missing_ok=True)
        finally:
            gate.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._left.wait(BEAT_SECONDS):
            with suppress(OSError):  # a file server that stumbles
                if (_read(self._path) or {}).get("token") == self._mine["token"]:
                    os.utime(self._path)


@contextmanager
def locked(path: Path, what: str) -> Iterator[Lock]:
    """Hold the lock file `path` during the block; `what` it protects is named in messages.

    Its directory is made if it is missing, and removed again if nothing else came into it.

    Raises:
        LockedError: another process holds it, and lives.
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

    Each part has its own lock file beside the directory; who divides the work into another
    number of parts waits until all is left. An object store (a URL) has no locks.

    Raises:
        LockedError: another process holds the part, or parts of another number.
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
    """Whether a process that lives holds a lock file; does not wait for a sign of life."""
    found = _read(path)
    if found is None:
        return False
    if found.get("machine") == _machine():
        return _runs(found)
    return (_age(path) or 0) <= SILENT_SECONDS


def _lives(path: Path, found: dict[str, Any]) -> bool:
    if found.get("machine") == _machine():
        return _runs(found)
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


def _runs(found: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(found["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - found["started"]) < _SAME_START_SECONDS
    except psutil.AccessDenied:
        return True
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _machine() -> str:
    """Within it, a number means one process: host, boot, and the container's own numbering."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        numbering = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # not Linux
        return socket.gethostname()
    return f"{socket.gethostname()} {boot} {numbering}"


def _read(path: Path) -> dict[str, Any] | None:
    """What a lock file says; nothing, if it was just made or is damaged. None: there is none."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _touched(path: Path) -> int | None:
    """When the file server says that a file was touched last; None if there is none."""
    try:
        with path.open("rb") as file:  # opening makes NFS ask the server
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
    return _told(_read(path) or {})


def _told(found: dict[str, Any]) -> str:
    if "pid" not in found:
        return "which is just beginning"
    return f"number {found['pid']} on {found.get('host')}, since {found.get('since')}"
