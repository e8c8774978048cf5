"""Batches of episodes for one process of a run, through Grain."""

from collections.abc import Iterator

import grain
from absl import flags

from wsicl_jax.data.episodes import Episode, EpisodeSource
from wsicl_jax.errors import ConfigError

_BATCHES_AHEAD = 4


class _ProcessShare:
    """The episodes of one process: an equal, contiguous share of every step's batch."""

    def __init__(self, episodes: EpisodeSource, batch: int, process: int, processes: int):
        self.episodes = episodes
        self.batch = batch
        self.local = batch // processes
        self.first = process * self.local

    def __len__(self) -> int:
        return len(self.episodes) // self.batch * self.local

    def __getitem__(self, index: int) -> Episode:
        step, row = divmod(index, self.local)
        return self.episodes[step * self.batch + self.first + row]


def batches(
    episodes: EpisodeSource, *, first_step: int = 0, process: int = 0, processes: int = 1
) -> Iterator[Episode]:
    """This process's share of the batches of steps `first_step`, `first_step + 1`, ...

    Starts at any step at once: episodes follow from their index, nothing is replayed.

    Raises:
        ConfigError: train.batch cannot be shared equally by the processes.
    """
    settings = episodes.config.train
    batch = settings.batch
    if batch % processes:
        raise ConfigError(
            f"train.batch = {batch} cannot be shared by {processes} processes; "
            f"use a multiple of {processes}"
        )
    share = _ProcessShare(episodes, batch, process, processes)
    dataset = grain.MapDataset.source(share)[first_step * share.local :].batch(share.local)
    if settings.workers:
        # Grain 0.2.18 reads a flag of its own in worker processes' parent (google/grain#1355).
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        stream = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        ).mp_prefetch(grain.MultiprocessingOptions(num_workers=settings.workers))
    else:
        stream = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=_BATCHES_AHEAD)
        )
    return iter(stream)
