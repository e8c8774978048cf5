"""Progress of long work: a bar on a terminal, a line from time to time in a log."""

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_SECONDS_BETWEEN_LINES = 30.0
_WIDTH_OF_PIPED_TABLES = 120


@runtime_checkable
class Tracker(Protocol):
    """Counts work done, of the total of `track`."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more as done."""
        ...

    def status(self, text: str) -> None:
        """Show this text after the count, such as the current loss."""
        ...

    def note(self, text: str) -> None:
        """Print a line that stays."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Exclude one-time work in the block from the speed and the time left."""
        ...


@contextmanager
def track(total: int, description: str, *, done: int = 0, show: bool = True) -> Iterator[Tracker]:
    """Show on stderr how much of `total` is done, the speed and the time left.

    A terminal gets a bar. Other output gets a line at most every 30 seconds, and one at the end if
    there was any before. `done` of the total were done before. `show` is false for all but one of
    the processes that work together; then nothing is printed.
    """
    if not show:
        yield _Silent()
        return
    if not sys.stderr.isatty():
        yield _Lines(total, description, done)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _SpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bar(progress, total, description, done)


@functools.cache
def console() -> Console:
    """The console on stdout for tables, without markup; piped output is 120 columns wide."""
    width = None if sys.stdout.isatty() else _WIDTH_OF_PIPED_TABLES
    return Console(width=width, highlight=False, emoji=False, markup=False)


class _Bar:
    def __init__(self, progress: Progress, total: int, description: str, done: int):
        self._progress = progress
        self._task = progress.add_task(description, total=total, completed=done, status="")

    def advance(self, n: int = 1) -> None:
        self._progress.advance(self._task, n)

    def status(self, text: str) -> None:
        self._progress.update(self._task, status=text)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def paused(self) -> AbstractContextManager[None]:
        return nullcontext()  # rich measures the last seconds only


class _SpeedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_speed(speed) if speed else "")


class _Silent:
    def advance(self, n: int = 1) -> None:
        pass

    def status(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def paused(self) -> AbstractContextManager[None]:
        return nullcontext()


class _Lines:
    def __init__(
        self,
        total: int,
        description: str,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total = total
        self._description = description
        self._clock = clock
        self._done = self._before = done
        self._status = ""
        self._start = self._last_line = clock()
        self._paused = 0.0

    def advance(self, n: int = 1) -> None:
        self._done += n
        now = self._clock()
        ends = self._done >= self._total and self._last_line > self._start
        if now - self._last_line < _SECONDS_BETWEEN_LINES and not ends:
            return
        self._last_line = now
        speed = max(self._done - self._before, 1) / max(now - self._start - self._paused, 1e-3)
        left = duration((self._total - self._done) / speed)
        line = f"{self._description}: {self._done}/{self._total}, {_speed(speed)}, {left} left"
        print(line, *filter(None, [self._status]), sep=", ", file=sys.stderr, flush=True)

    def status(self, text: str) -> None:
        self._status = text

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = self._clock()
        yield
        self._paused += self._clock() - start


def _speed(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def duration(seconds: float) -> str:
    """Seconds as `h:mm:ss`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
