"""Batches of episodes for one process of a run, through Grain."""

import functools
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence

import grain
from absl import flags

from wsicl_jax.data.episodes import Episode, EpisodeSource, filled

_BATCHES_AHEAD = 4
_THREADS = 4
"""Threads that make episodes in a process without workers: while one waits for the disk or
counts voxels, another one goes on."""


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

    Starts at any step at once: episodes follow from their index, nothing is replayed. A
    process that is given its `rows` (`parallel.local_rows`) makes and reads no others.
    """
    settings = episodes.config.train
    share = _Rows(episodes, range(settings.batch) if rows is None else rows, context_multiple)
    dataset = grain.MapDataset.source(share)[first_step * len(share.rows) :]
    # A batch of one needs no copy.
    dataset = dataset.batch(len(share.rows)) if len(share.rows) > 1 else dataset.map(_alone)
    if settings.workers:
        # Grain 0.2.18 reads a flag of its own in worker processes' parent (google/grain#1355).
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        stream = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        ).mp_prefetch(grain.MultiprocessingOptions(num_workers=settings.workers))
    else:
        stream = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_BATCHES_AHEAD)
        )
    return iter(stream)


def _alone(episode: Episode) -> Episode:
    return Episode(*(part[None] for part in episode))


@functools.cache
def _end_with_parent() -> None:
    """Let a worker end when the training process does, even if that was killed.

    Workers that stay behind slow the run that goes on in its place.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
