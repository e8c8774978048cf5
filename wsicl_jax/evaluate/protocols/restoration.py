"""Restoration protocol: image to image, from degraded images back to their originals."""

import zlib
from collections.abc import Sequence

import numpy as np

from wsicl_jax.config import RestorationTask
from wsicl_jax.data.episodes.degradation import Degradation
from wsicl_jax.data.episodes.sampling import Episode, paired_episode
from wsicl_jax.data.random_streams import RandomStream
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.evaluate.case_sources import Cases
from wsicl_jax.evaluate.episode_list import EpisodeList, ListedEpisode
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.prompted_episodes import about_episode
from wsicl_jax.evaluate.records import Score
from wsicl_jax.metrics.image_quality import psnr, ssim
from wsicl_jax.model.losses import Loss
from wsicl_jax.terminal.progress import track

BEFORE = "nothing done"
"""Model name of the degraded image itself: the score that a network must exceed."""


def score_restoration(
    network: Predictor,
    episodes: EpisodeList,
    cases: Cases,
    *,
    model: str,
    task: RestorationTask,
    sizes: Sequence[int],
    loss: Loss | None = None,
) -> list[Score]:
    """PSNR and SSIM of every target against its original, on the working grid.

    Each target is restored once, whatever structures the list has, with the contexts of its first
    episode. Each context is a pair: the degraded image and its original. The scores of the model
    `BEFORE` are those of the degraded images, with 0 context images. With `loss` each score has the
    loss of its output.

    Raises:
        DataError: the list has fewer contexts, or a case cannot be read.
    """
    sizes = sorted(set(sizes))
    episodes.check(sizes[-1])
    first = {(e.target, e.channel): e for e in reversed(episodes.episodes)}
    listed = [e for e in episodes.episodes if e is first[e.target, e.channel]]
    scores: list[Score] = []
    with track(len(listed), f"{episodes.data_set}: {task}", show=is_leader()) as bar:
        for part in network.parts(len(listed)):
            batch = [_degraded(network, episodes, cases, listed[i], task, sizes[-1]) for i in part]
            outputs = network.outputs(batch, sizes)
            for place, (i, one) in enumerate(zip(part, batch, strict=True)):
                truth = one.truth[..., 0]
                images = [(BEFORE, 0, one.target[..., 0])]
                images += [(model, size, outputs[n, place]) for n, size in enumerate(sizes)]
                scores += [
                    Score(
                        **about_episode(episodes, listed[i]),
                        structure=task,
                        model=name,
                        protocol="restoration",
                        kind=task,
                        prompts=0,
                        contexts=size,
                        loss=float(loss(image[None, ..., None], one.truth[None])) if loss else None,
                        psnr=psnr(np.clip(image, 0, 1), truth, 1.0),
                        ssim=ssim(np.clip(image, 0, 1), truth, 1.0),
                    )
                    for name, size, image in images
                ]
                bar.advance()
    return scores


def _degraded(
    network: Predictor,
    episodes: EpisodeList,
    cases: Cases,
    episode: ListedEpisode,
    task: RestorationTask,
    contexts: int,
) -> Episode:
    names = [episode.target, *episode.contexts[:contexts]]
    originals = [cases.subject(name, episode.channel, network.volume)[0] for name in names]
    degradation = Degradation.standard(task)
    degraded = [
        degradation.apply(
            original,
            np.random.default_rng(
                (episodes.seed, RandomStream.DEGRADATION, zlib.crc32(name.encode()))
            ),
        )
        for original, name in zip(originals, names, strict=True)
    ]
    return paired_episode(degraded, originals)
