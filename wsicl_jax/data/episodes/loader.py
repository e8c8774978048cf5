"""Batches of episodes for one process of a run, through Grain."""

import functools
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess

import grain
import numpy as np
from absl import flags

from wsicl_jax.data.episodes.sampling import Episode, EpisodeSource, filled, most_united
from wsicl_jax.errors import LoaderError

_BATCHES_AHEAD = 4
_THREADS = 4
"""Threads that make episodes in a process without workers. While one waits for the disk, another
one computes."""
_CHECK_SECONDS = 0.5
"""Time between checks of the workers, while a batch is awaited."""


class _Rows:
    """Some rows of the batch of every step, with filled context sets."""

    def __init__(self, episodes: EpisodeSource, rows: Sequence[int], context_multiple: int):
        self.episodes = episodes
        self.rows = rows
        self.context_multiple = context_multiple

    def __len__(self) -> int:
        return len(self.episodes) // self.episodes.config.train.batch * len(self.rows)

    def __getitem__(self, index: int) -> Episode:
        if multiprocessing.parent_process() is not None:
            _end_with_parent()
        step, position = divmod(index, len(self.rows))
        row = self.episodes[step * self.episodes.config.train.batch + self.rows[position]]
        return filled(row, self.context_multiple)


def batches(
    episodes: EpisodeSource,
    *,
    first_step: int = 0,
    rows: Sequence[int] | None = None,
    context_multiple: int = 1,
) -> Iterator[Episode]:
    """The batches of steps `first_step`, `first_step + 1`, ..., or some rows of them.

    An episode follows from its index, so any step can be the first without replay. A process
    makes only its `rows` (`placement.local_rows`). With worker processes (`train.workers`), the
    iterator has a `close` that ends them.

    Raises:
        LoaderError: when the next batch is requested, if a worker process was killed.
    """
    settings = episodes.config.train
    source = _Rows(episodes, range(settings.batch) if rows is None else rows, context_multiple)
    dataset = grain.MapDataset.source(source)[first_step * len(source.rows) :]
    # A batch of one needs no copy.
    dataset = (
        dataset.batch(len(source.rows)) if len(source.rows) > 1 else dataset.map(_batch_of_one)
    )
    if settings.workers:
        # Grain 0.2.18 reads an absl flag in the parent of worker processes (google/grain#1355).
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        # Silences the process that frees the shared memory of killed workers.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
        stream = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        ).mp_prefetch(grain.MultiprocessingOptions(num_workers=settings.workers))
        return _FromWorkers(iter(stream), settings.workers)
    return iter(
        dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_BATCHES_AHEAD)
        )
    )


def empty_batch(
    episodes: EpisodeSource, step: int, *, rows: int, context_multiple: int = 1
) -> Episode:
    """A batch of the shapes of step `step` (0, 1, ...), all zeros."""
    grid = (*episodes.config.volume.grid, 1)
    contexts = episodes.contexts(step)
    contexts += -contexts % context_multiple
    volume, volumes = (rows, *grid), (rows, contexts, *grid)
    zeros = [np.zeros(s, np.float32) for s in (volume, volume, volumes, volumes, volumes[:2])]
    return Episode(*zeros, np.full((rows, most_united(episodes.config.episode)), -1, np.int32))


class _FromWorkers(Iterator[Episode]):
    """Batches of worker processes, fetched by a thread, so that a killed worker is noticed.

    Waiting for a killed process, or for a lock that it held, may never end. So only the thread
    waits.
    """

    def __init__(self, stream: Iterator[Episode], count: int):
        self._stream, self._count = stream, count
        self._before = set(multiprocessing.active_children())
        self._workers: set[BaseProcess] = set()
        self._ready: queue.Queue[Episode | Exception] = queue.Queue(1)
        self._started = False
        self._error: LoaderError | None = None

    def __next__(self) -> Episode:
        if self._error:  # the other workers were killed too, after the one that it names
            raise self._error
        if not self._started:
            self._started = True
            threading.Thread(target=self._fetch, daemon=True, name="batches").start()
        while True:
            try:
                batch = self._ready.get(timeout=_CHECK_SECONDS)
            except queue.Empty:
                self._check()
                continue
            if isinstance(batch, Exception):
                self._ready.put(batch)  # every further call raises it too
                self._check()
                raise batch
            return batch

    def close(self) -> None:
        """End the workers, which would otherwise run as long as this process."""
        self._find_workers()
        for worker in self._workers:
            worker.kill()
        with suppress(queue.Empty):
            self._ready.get_nowait()  # so that the thread can end

    def _fetch(self) -> None:
        try:
            for batch in self._stream:
                self._ready.put(batch)
            self._ready.put(StopIteration())
        except Exception as error:
            self._ready.put(error)

    def _check(self) -> None:
        """Raises `LoaderError` if a worker was killed, and ends the others."""
        self._find_workers()
        killed = [worker for worker in self._workers if (worker.exitcode or 0) < 0]
        if not killed:
            return
        number = -killed[0].exitcode
        cause = ", most likely for lack of memory" if number == signal.SIGKILL else ""
        for worker in self._workers:
            worker.kill()
        self._error = LoaderError(
            f"process {killed[0].pid}, one of the {self._count} that make the episodes "
            f"(train.workers), was killed by {signal.Signals(number).name}{cause}"
        )
        raise self._error

    def _find_workers(self) -> None:
        # Kept: `active_children` does not list workers that have ended.
        if self._started and len(self._workers) < self._count:
            self._workers |= set(multiprocessing.active_children()) - self._before


def _batch_of_one(episode: Episode) -> Episode:
    return Episode(*(part[None] for part in episode))


@functools.cache
def _end_with_parent() -> None:
    """End a worker when the training process ends, even if that was killed.

    Workers that remain would slow the next run.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
