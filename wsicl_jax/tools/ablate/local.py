"""Trains cells on this machine, some at a time, each in a process of its own."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from wsicl_jax.errors import LockedError, PreemptedError
from wsicl_jax.terminal.progress import duration
from wsicl_jax.tools.ablate.cells import Cell
from wsicl_jax.tools.ablate.jobs import STOPPED, CellFiles, Training, failure_reason, write_job
from wsicl_jax.tools.ablate.states import find_progress

_PAUSE = 0.1
_SECONDS_BETWEEN_LINES = 60.0
_MEMORY_OF_ALL = 0.9
_STOP_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
]


def run_here(cells: Sequence[Cell], output: Path, jobs: int) -> None:
    """Train these cells, `jobs` at a time, and report progress on stderr.

    A cell that fails does not end the others. On Ctrl-C, SIGTERM or SIGHUP all trainings save and
    end, and no other starts; on a second signal they end at once.

    Raises:
        KeyboardInterrupt: it was stopped by Ctrl-C.
        PreemptedError: it was stopped by another signal.
    """
    places = _places(jobs, os.environ)
    waiting = deque(enumerate(cells, 1))
    running: dict[int, _Running] = {}
    with _stop_signals() as received:
        passed_on = 0
        try:
            while running or (waiting and not received):
                while waiting and not received and len(running) < jobs:
                    number, cell = waiting.popleft()
                    place = next(place for place in range(jobs) if place not in running)
                    try:
                        running[place] = _Running(
                            f"[{number}/{len(cells)}] {cell.name}", cell, output, places[place]
                        )
                    except LockedError as error:
                        _report(f"[{number}/{len(cells)}] {error}")
                if len(received) > passed_on:
                    passed_on = len(received)
                    for one in running.values():
                        one.training.stop()
                for place, one in list(running.items()):
                    if one.has_ended():
                        del running[place]
                time.sleep(_PAUSE)
        finally:
            for one in running.values():
                one.training.close()
    if received and received[0] == signal.SIGINT:
        raise KeyboardInterrupt
    if received:
        name = signal.Signals(received[0]).name
        raise PreemptedError(
            f"stopped by {name} and saved; the same command goes on with the missing cells"
        )


class _Running:
    """A cell in training, with its progress lines."""

    def __init__(self, label: str, cell: Cell, output: Path, place: Mapping[str, str]):
        self._label, self._cell, self._output = label, cell, output
        files = CellFiles(output, cell.name)
        write_job(cell, files)
        self.training = Training(files, environment=place, apart=True)
        self._log = files.log
        self._start = self._reported_at = time.monotonic()
        self._line = self.training.last_line()
        _report(f"{label}: started, log in {files.log}")

    def has_ended(self) -> bool:
        code, now = self.training.poll(), time.monotonic()
        if code is None:
            if now - self._reported_at > _SECONDS_BETWEEN_LINES:
                self._reported_at, before = now, self._line
                self._line = self.training.last_line()
                if self._line != before:
                    _report(f"{self._label}: {self._line}")
            return False
        self.training.close()
        _report(f"{self._label}: {self._ending(code, duration(now - self._start))}")
        return True

    def _ending(self, code: int, time: str) -> str:
        if code == 0:
            dice = find_progress([self._cell], self._output)[0].dice
            return f"finished in {time}" + (f", Dice {fmean(dice.values()):.3f}" if dice else "")
        if code in STOPPED:
            return f"stopped on request after {time}"
        why = failure_reason(code, self.training.last_line())
        return f"failed after {time}: it {why}; its log is {self._log}"


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The signals to stop that have come; only Python's main thread receives any."""
    received: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                before[number] = signal.signal(number, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _places(jobs: int, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """Environment variables that share the GPUs out among the cells in training at a time.

    Without them, JAX in every process takes all GPUs and most of their memory.
    """
    gpus = _gpus(environment) if jobs > 1 else []
    if not gpus:
        return [{} for _ in range(jobs)]
    places = []
    for place in range(jobs):
        own = gpus[place % len(gpus) :: jobs]
        places.append({"CUDA_VISIBLE_DEVICES": ",".join(own)})
        memory = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
        if jobs > len(gpus) and not any(name in environment for name in memory):
            sharing = math.ceil(jobs / len(gpus))
            places[-1][memory[0]] = f"{_MEMORY_OF_ALL / sharing:.3f}"
    return places


def _gpus(environment: Mapping[str, str]) -> list[str]:
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.split()
