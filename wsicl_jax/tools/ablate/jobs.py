"""The training of one cell in a process of its own, and what OUTPUT/jobs keeps of it."""

import errno
import fcntl
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Required

import yaml
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from wsicl_jax.config import config_to_dict
from wsicl_jax.errors import ConfigError
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.documents import checked, parse_json, read_file
from wsicl_jax.tools.ablate.cells import JOBS, Cell

SAVED = 75
"""Exit code of training that was stopped by SIGTERM and saved."""

STOPPED = (SAVED, -signal.SIGTERM)
"""How training ends on SIGTERM; the second: there was nothing to save yet."""

WSICL = (sys.executable, "-m", "wsicl_jax")
"""The command that trains, before its verb."""

_TRIES, _PAUSE = 3, 0.1
_TAIL = 4096
_MOST_SAID = 300
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class _Attempt(TypedDict, total=False):
    started: str
    host: Required[str]
    pid: int
    slurm_job: str | None
    code: Required[int | None]
    seconds: float
    said: str


_ATTEMPTS = TypeAdapter(list[_Attempt])


class CellTakenError(ConfigError):
    """Another process trains this cell."""


@dataclass(frozen=True)
class CellFiles:
    """What is kept of a cell's training, all in one directory."""

    output: Path
    """Directory of the ablation."""
    name: str
    """Name of the cell."""
    task: int = 0
    """Which of the tasks that train the cell together, each with a log of its own."""

    @property
    def config(self) -> Path:
        """The experiment, as it was when the cell was last given to a launcher."""
        return self.output / JOBS / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        """All that its training said."""
        return self._file("log")

    @property
    def attempts(self) -> Path:
        """When and where it was started, how it ended, how long it took."""
        return self._file("json")

    @property
    def slurm_job(self) -> Path:
        """Number of its newest job in Slurm."""
        return self._file("job")

    @property
    def lock(self) -> Path:
        """Locked for as long as it is in training."""
        return self._file("lock")

    def _file(self, ending: str) -> Path:
        task = f"@{self.task}" if self.task else ""
        return self.output / JOBS / f"{self.name}{task}.{ending}"


def write_job(cell: Cell, files: CellFiles) -> None:
    """Write the experiment that a cell's training will read, whatever becomes of its sources."""
    files.config.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config_to_dict(cell.config), sort_keys=False)
    write_whole(files.config, text.encode())


def read_attempts(files: CellFiles) -> list[dict[str, Any]]:
    """How the cell was trained so far: one entry for each start, oldest first.

    `code` is None while one is in progress, and stays so if the machine was lost.
    """
    try:
        return checked(_ATTEMPTS, parse_json(read_file(files.attempts)))
    except (OSError, ValueError):
        return []


def is_taken(files: CellFiles) -> bool:
    """Whether some process, here or on another machine, trains the cell now."""
    try:
        lock = os.open(files.lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _lock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


class Training:
    """`wsicl train --resume` of one cell in a process of its own.

    The cell's lock is held as long as this object or that process lives, so it outlasts a
    launcher that was killed. Who starts it also closes it.

    Args:
        files: of the cell, with the experiment written there.
        environment: variables of the process besides those of this one.
        blocked: signals that the process shall never get.
        apart: whether it is out of reach of the terminal's Ctrl-C.
        slurm_job: number of the job in Slurm that this is part of.

    Raises:
        CellTakenError: another process trains it.
    """

    def __init__(
        self,
        files: CellFiles,
        *,
        environment: Mapping[str, str] | None = None,
        blocked: Collection[signal.Signals] = (),
        apart: bool = False,
        slurm_job: str | None = None,
    ):
        command = ["train", str(files.config), "--resume"]
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        self._files, self._start = files, time.monotonic()
        self._process: subprocess.Popen | None = None
        self._lock = _taken(files)
        try:
            with files.log.open("ab") as log:
                log.write(f"--- {started}: wsicl {shlex.join(command)}\n".encode())
                log.flush()
                self._said_from = log.tell()
                # What is blocked stays so in the new process; a handler would not.
                before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
                try:
                    self._process = subprocess.Popen(
                        [*WSICL, *command],
                        env={**os.environ, **(environment or {})},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        pass_fds=(self._lock,),
                        start_new_session=apart,
                    )
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
            attempt = {"started": started, "host": socket.gethostname(), "pid": self._process.pid}
            attempt |= {"slurm_job": slurm_job, "code": None}
            self._attempts = [*read_attempts(files), attempt]
            self._write_attempts()
        except BaseException:
            if self._process:
                self.stop()
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Write down how it ended and leave the lock; stops it if it has not ended."""
        if self.poll() is None:
            self.stop()
            self._process.wait()
        code, seconds = self.poll(), round(time.monotonic() - self._start, 1)
        said = self.said() if code else ""
        self._attempts[-1] |= {"code": code, "seconds": seconds, "said": said}
        try:
            self._write_attempts()
        finally:
            os.close(self._lock)

    def poll(self) -> int | None:
        """The exit code, negative if a signal ended it; None: it goes on."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to save and end; asked twice, it ends at once."""
        self._process.terminate()

    def wait_in_handler(self) -> int | None:
        """`poll`, but waits for the end; for a handler that may have interrupted `poll`.

        None: it has ended, nobody knows how.
        """
        try:
            ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return self._process.returncode
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def said(self) -> str:
        """The last line that it has written to the log."""
        with self._files.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._said_from, end - _TAIL))
            lines = log.read().decode(errors="replace").splitlines()
        return next((line.strip()[:_MOST_SAID] for line in reversed(lines) if line.strip()), "")

    def _write_attempts(self) -> None:
        write_whole(self._files.attempts, json.dumps(self._attempts, indent=1).encode())


def reason(code: int | None, said: str) -> str:
    """How a training ended that did not come to its end, for people."""
    if code is None:
        return "was lost without a word"
    if code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
        return f"{how}, often for want of memory" if code == -signal.SIGKILL else how
    return f"ended with code {code}: {said or 'no word'}"


def _taken(files: CellFiles) -> int:
    lock = os.open(files.lock, os.O_RDWR | os.O_CREAT, 0o666)
    for _ in range(_TRIES):  # whoever only looks holds it for a moment
        if _lock(lock, fcntl.LOCK_EX):
            return lock
        time.sleep(_PAUSE)
    os.close(lock)
    raise CellTakenError(f"{files.name} is trained by another process, which holds {files.lock}")


def _lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            "this file system has no locks (flock): never start an ablation a second time while "
            "it runs",
            stacklevel=2,
        )
    return True
