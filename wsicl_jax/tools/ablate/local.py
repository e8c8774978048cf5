"""Cells on this machine: some at a time, each in a process of its own."""

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

from wsicl_jax.errors import PreemptedError
from wsicl_jax.terminal.progress import duration
from wsicl_jax.tools.ablate.cells import Cell
from wsicl_jax.tools.ablate.jobs import (
    STOPPED,
    CellFiles,
    CellTakenError,
    Training,
    reason,
    write_job,
)
from wsicl_jax.tools.ablate.states import find_progress

_PAUSE = 0.1
_SECONDS_BETWEEN_LINES = 60.0
_MEMORY_OF_ALL = 0.9


def run_here(cells: Sequence[Cell], output: Path, jobs: int) -> None:
    """Train these cells, `jobs` at a time, and say on stderr how it goes.

    A cell that fails does not end the others. On Ctrl-C, SIGTERM and SIGHUP all trainings are
    asked to save and end, and no other one starts; asked again, they end at once.

    Raises:
        KeyboardInterrupt: it was stopped by Ctrl-C.
        PreemptedError: it was stopped by another signal.
    """
    places = _places(jobs, os.environ)
    waiting = deque(enumerate(cells, 1))
    running: dict[int, _Running] = {}
    with _stop_asked() as asked:
        passed_on = 0
        try:
            while running or (waiting and not asked):
                while waiting and not asked and len(running) < jobs:
                    number, cell = waiting.popleft()
                    place = next(place for place in range(jobs) if place not in running)
                    try:
                        running[place] = _Running(
                            f"[{number}/{len(cells)}] {cell.name}", cell, output, places[place]
                        )
                    except CellTakenError as error:
                        _tell(f"[{number}/{len(cells)}] {error}")
                if len(asked) > passed_on:
                    passed_on = len(asked)
                    for one in running.values():
                        one.training.stop()
                for place, one in list(running.items()):
                    if one.has_ended():
                        del running[place]
                time.sleep(_PAUSE)
        finally:
            for one in running.values():
                one.training.close()
    if asked and asked[0] == signal.SIGINT:
        raise KeyboardInterrupt
    if asked:
        name = signal.Signals(asked[0]).name
        raise PreemptedError(
            f"stopped, as {name} asked, and saved; the same command goes on with what is missing"
        )


class _Running:
    """A cell in training, and what people see of it."""

    def __init__(self, label: str, cell: Cell, output: Path, place: Mapping[str, str]):
        self._label, self._cell, self._output = label, cell, output
        files = CellFiles(output, cell.name)
        write_job(cell, files)
        self.training = Training(files, environment=place, apart=True)
        self._log = files.log
        self._start = self._told_at = time.monotonic()
        self._told = self.training.said()
        _tell(f"{label}: started, log in {files.log}")

    def has_ended(self) -> bool:
        code, now = self.training.poll(), time.monotonic()
        if code is None:
            if now - self._told_at > _SECONDS_BETWEEN_LINES:
                self._told_at, before = now, self._told
                self._told = self.training.said()
                if self._told != before:
                    _tell(f"{self._label}: {self._told}")
            return False
        self.training.close()
        _tell(f"{self._label}: {self._ending(code, duration(now - self._start))}")
        return True

    def _ending(self, code: int, time: str) -> str:
        if code == 0:
            dice = find_progress([self._cell], self._output)[0].dice
            return f"finished in {time}" + (f", Dice {fmean(dice.values()):.3f}" if dice else "")
        if code in STOPPED:
            return f"stopped on request after {time}"
        why = reason(code, self.training.said())
        return f"failed after {time}: it {why}; all that it said is in {self._log}"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _stop_asked() -> Iterator[list[int]]:
    """The signals that asked for an end so far; only Python's main thread gets any."""
    asked: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                before[number] = signal.signal(number, lambda number, _: asked.append(number))
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _places(jobs: int, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """Variables that give each of the cells in training at a time its share of the GPUs.

    JAX would have every process take all GPUs, and most of their memory.
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
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return told.split()
