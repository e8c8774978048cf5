"""Files that grow, such as logs, for a place that may lie in an object store.

Objects cannot be appended to. So these files are written to a folder on this machine, and each
is copied whole to the object store when it has changed: every `COPY_SECONDS`, and whenever the
writer asks. On a disk the folder is the place itself.
"""

import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from wsicl_jax.errors import LockedError
from wsicl_jax.storage.lock import Lock
from wsicl_jax.storage.object_path import ObjectPath, Place
from wsicl_jax.storage.transfer import download, temporary_folder, upload

COPY_SECONDS = 10.0
"""Interval at which changed files are copied to the object store."""


class _State(NamedTuple):
    """What changes with every write of a file."""

    size: int
    modified_ns: int


class WorkingFolder:
    """A folder on this machine for the growing files of `place`; `path` is the folder.

    It begins with the files that lie directly in the place. As a context manager, it copies what
    has changed at the end. `lock` is the lock on the place: nothing is copied after another process
    has taken it over. Only the leading process writes; in others the folder must not be used.

    Raises:
        OSError: the object store cannot be read, or the folder not be written.
    """

    def __init__(self, place: Place, lock: Lock | None = None, *, leader: bool = True):
        self._lock = lock
        self._target = place if leader and isinstance(place, ObjectPath) else None
        self._opened = ExitStack()
        self._copied: dict[Path, _State] = {}
        self._copying = threading.Lock()
        self._closed = threading.Event()
        if self._target is None:
            self.path = place if isinstance(place, Path) else Path(place.name)
            return
        # Trackers call the run by the name of its folder.
        self.path = self._opened.enter_context(temporary_folder()) / place.name
        self.path.mkdir()
        download(place, [key for key in place.keys_below() if "/" not in key], self.path)
        self._copied = self._states()
        threading.Thread(target=self._copy_often, daemon=True, name="copy").start()

    def __enter__(self) -> "WorkingFolder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._closed.set()
        try:
            self.copy()
        except (OSError, LockedError):
            # The earlier error is more informative.
            if kind is None:
                raise
        finally:
            self._opened.close()

    def copy(self) -> None:
        """Copy all files that have changed since they were copied.

        Raises:
            OSError: one cannot be written.
            LockedError: another process has taken over the lock.
        """
        if self._target is None:
            return
        with self._copying:
            # Before reading: what is written meanwhile is copied next time.
            now = self._states()
            changed = [file for file, state in now.items() if state != self._copied.get(file)]
            if not changed:
                return
            if self._lock:
                self._lock.check()
            upload(self.path, changed, self._target)
            self._copied = now

    def _copy_often(self) -> None:
        while not self._closed.wait(COPY_SECONDS):
            # The store may fail for a moment; the writer's own call of `copy` tells.
            with suppress(OSError, LockedError):
                self.copy()

    def _states(self) -> dict[Path, _State]:
        files = (file for file in self.path.rglob("*") if file.is_file())
        states = ((file, file.stat()) for file in files)
        return {file: _State(state.st_size, state.st_mtime_ns) for file, state in states}
