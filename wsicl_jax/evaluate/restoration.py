"""Scores of image-to-image tasks: images made worse, and how well a network brings them back."""

import zlib
from collections.abc import Sequence

import numpy as np

from wsicl_jax.config import RestorationTask
from wsicl_jax.data.episodes.restoration import Degradation
from wsicl_jax.data.episodes.sampling import Episode, paired_episode
from wsicl_jax.data.random_streams import RandomStream
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.evaluate.cases import Cases
from wsicl_jax.evaluate.episode_list import EpisodeList, ListedEpisode
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.records import Score
from wsicl_jax.metrics.image_quality import psnr, ssim
from wsicl_jax.terminal.progress import track

BEFORE = "nothing done"
"""Name of the model that returns the image as it was given: the line that networks must pass."""


def score_restoration(
    network: Predictor,
    episodes: EpisodeList,
    cases: Cases,
    *,
    model: str,
    task: RestorationTask,
    sizes: Sequence[int],
) -> list[Score]:
    """PSNR and SSIM of every target against its own image, on the working grid.

    Each target is shown once, whatever structures the list asks for, with its first episode's
    contexts, of which each comes with its own image before it was made worse. The scores of the
    model `BEFORE` are those of the images as they were given (with no context images).

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
            shown = [_shown(network, episodes, cases, listed[i], task, sizes[-1]) for i in part]
            outputs = network.outputs(shown, sizes)
            for place, (i, one) in enumerate(zip(part, shown, strict=True)):
                truth = one.truth[..., 0]
                answers = [(BEFORE, 0, one.target[..., 0])]
                answers += [
                    (model, size, output)
                    for size, output in zip(sizes, outputs[:, place], strict=True)
                ]
                scores += [
                    Score(
                        model=name,
                        data_set=episodes.title(listed[i]),
                        structure=task,
                        episode=listed[i].name,
                        target=listed[i].target,
                        subject=listed[i].subject,
                        protocol="restoration",
                        kind=task,
                        prompts=0,
                        contexts=size,
                        psnr=psnr(np.clip(answer, 0, 1), truth, 1.0),
                        ssim=ssim(np.clip(answer, 0, 1), truth, 1.0),
                    )
                    for name, size, answer in answers
                ]
                bar.advance()
    return scores


def _shown(
    network: Predictor,
    episodes: EpisodeList,
    cases: Cases,
    episode: ListedEpisode,
    task: RestorationTask,
    contexts: int,
) -> Episode:
    names = [episode.target, *episode.contexts[:contexts]]
    wanted = [cases.subject(name, episode.channel, network.volume)[0] for name in names]
    degradation = Degradation.usual(task)
    given = [
        degradation.apply(image, _noise_of(episodes.seed, name))
        for image, name in zip(wanted, names, strict=True)
    ]
    return paired_episode(given, wanted)


def _noise_of(seed: int, case: str) -> np.random.Generator:
    return np.random.default_rng((seed, RandomStream.DEGRADATION, zlib.crc32(case.encode())))
