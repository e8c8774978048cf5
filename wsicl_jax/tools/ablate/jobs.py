"""Trains one cell in a process of its own, and keeps its record in OUTPUT/jobs."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from wsicl_jax.config import config_to_dict
from wsicl_jax.errors import LockedError
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.documents import checked, parse_json, read_file
from wsicl_jax.storage.lock import is_held, locked
from wsicl_jax.tools.ablate.cells import JOBS, Cell
from wsicl_jax.train.run_directory import LOCK

SAVED = 75
"""Exit code of training that was stopped by SIGTERM and saved."""

STOPPED = (SAVED, -signal.SIGTERM)
"""Exit codes of training on SIGTERM; the second: there was nothing to save yet."""

WSICL = (sys.executable, "-m", "wsicl_jax")
"""The command that trains, before its verb."""

_TAIL_BYTES = 4096
_MAX_LINE = 300


@dataclass(frozen=True)
class Attempt:
    """One start of a cell's training."""

    host: str
    code: int | None
    """Exit code, negative for a signal. None: it goes on, or its machine was lost."""
    started: str = ""
    pid: int = 0
    slurm_job: str | None = None
    seconds: float = 0.0
    """Wall time; 0 until it ends."""
    last_line: str = ""
    """The last line of a failed training's log."""


_ATTEMPTS = TypeAdapter(list[Attempt])


@dataclass(frozen=True)
class CellFiles:
    """Paths of the record of a cell's training."""

    output: Path
    """Directory of the ablation."""
    name: str
    """Name of the cell."""
    task: int = 0
    """Number of the task, if several train the cell together; each has a log of its own."""

    @property
    def config(self) -> Path:
        """The experiment, as it was when the cell was last started."""
        return self.output / JOBS / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        """The output of its trainings."""
        return self._file("log")

    @property
    def attempts(self) -> Path:
        """Every `Attempt`, as JSON."""
        return self._file("json")

    @property
    def slurm_job(self) -> Path:
        """Number of its newest job in Slurm."""
        return self._file("job")

    @property
    def lock(self) -> Path:
        """Held by the launcher that trains the cell."""
        return self._file("lock")

    @property
    def run_lock(self) -> Path:
        """Held by the training itself, which can outlive its launcher."""
        return self.output / self.name / LOCK

    def _file(self, ending: str) -> Path:
        task = f"@{self.task}" if self.task else ""
        return self.output / JOBS / f"{self.name}{task}.{ending}"


def write_job(cell: Cell, files: CellFiles) -> None:
    """Write the experiment for the training, so that later edits of its sources do not count."""
    files.config.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config_to_dict(cell.config), sort_keys=False)
    write_whole(files.config, text.encode())


def read_attempts(files: CellFiles) -> list[Attempt]:
    """Every start of the cell's training, oldest first; none if the record cannot be read."""
    try:
        return checked(_ATTEMPTS, parse_json(read_file(files.attempts)))
    except (OSError, ValueError):
        return []


def is_in_training(files: CellFiles) -> bool:
    """Whether some process, here or on another machine, trains the cell now."""
    return is_held(files.lock) or is_held(files.run_lock)


class Training:
    """`wsicl train --resume` of one cell in a process of its own.

    This object holds the cell's lock, and the process the lock of its run, so that no second
    training starts even if this launcher is killed. Whoever makes it must close it.

    Args:
        files: of the cell, with the experiment written there.
        environment: variables of the process besides those of this one.
        blocked: signals that the process never receives.
        apart: whether the terminal's Ctrl-C does not reach it.
        slurm_job: number of the job in Slurm that this is part of.

    Raises:
        LockedError: another process trains it.
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
        with ExitStack() as lock:
            lock.enter_context(locked(files.lock, f"cell {files.name}"))
            # The tasks of one job train the same run, whose lock the first one holds.
            if files.task == 0 and is_held(files.run_lock):
                raise LockedError(
                    f"cell {files.name} is in training by another process, which holds "
                    f"{files.run_lock}; wait for its end, or stop it"
                )
            with files.log.open("ab") as log:
                log.write(f"--- {started}: wsicl {shlex.join(command)}\n".encode())
                log.flush()
                self._log_start = log.tell()
                with _signals_blocked(blocked):
                    self._process = subprocess.Popen(
                        [*WSICL, *command],
                        env={**os.environ, **(environment or {})},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=apart,
                    )
            attempt = Attempt(
                socket.gethostname(), None, started, self._process.pid, slurm_job=slurm_job
            )
            self._attempts = [*read_attempts(files), attempt]
            try:
                self._write_attempts()
            except BaseException:
                self.stop()
                raise
            self._lock = lock.pop_all()

    def close(self) -> None:
        """Record how it ended and release the lock; stops it if it still runs."""
        with self._lock:
            if self.poll() is None:
                self.stop()
                self._process.wait()
            code = self.poll()
            self._attempts[-1] = replace(
                self._attempts[-1],
                code=code,
                seconds=round(time.monotonic() - self._start, 1),
                last_line=self.last_line() if code else "",
            )
            self._write_attempts()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None: it still runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to save and end; asked twice, it ends at once."""
        self._process.terminate()

    def wait_in_handler(self) -> int | None:
        """Wait for the end, also in a signal handler that interrupted `poll`.

        Returns the exit code; None: it has ended with an unknown one.
        """
        try:
            ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return self._process.returncode
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def last_line(self) -> str:
        """The last line that it has written to the log; empty: none yet."""
        with self._files.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return next((line.strip()[:_MAX_LINE] for line in reversed(lines) if line.strip()), "")

    def _write_attempts(self) -> None:
        content = [asdict(attempt) for attempt in self._attempts]
        write_whole(self._files.attempts, json.dumps(content, indent=1).encode())


def failure_reason(code: int | None, last_line: str) -> str:
    """How a training ended that did not finish, as the end of a sentence."""
    if code is None:
        return "was lost"
    if code < 0:
        name = signal.Signals(-code).name
        return f"was ended by {name}" + (", often for want of memory" if name == "SIGKILL" else "")
    return f"ended with code {code}: {last_line or 'it wrote nothing'}"


@contextmanager
def _signals_blocked(blocked: Collection[signal.Signals]) -> Iterator[None]:
    """Processes that start within never receive these signals; a handler would not be inherited."""
    if not blocked:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
