"""Target-dependence protocol: how much a network's mask depends on the image of the target.

The network segments each target, and then a constant and a shuffled image in its place. A mask
that stays the same came from the prompts alone.
"""

import functools
import zlib
from typing import Literal, get_args

import numpy as np

from wsicl_jax.config import EvaluatedKind
from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.evaluate.case_sources import Cases
from wsicl_jax.evaluate.episode_list import EpisodeList
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.prompted_episodes import about_episode, predicted_mask, prompted
from wsicl_jax.evaluate.records import Score
from wsicl_jax.metrics.overlap import dice
from wsicl_jax.terminal.progress import track

Replacement = Literal["constant", "shuffled"]
"""The image in the target's place: its mean everywhere, or its voxels in random order."""


def score_target_dependence(
    network: Predictor,
    episodes: EpisodeList,
    cases: Cases,
    *,
    model: str,
    kind: EvaluatedKind,
    prompts: int,
    contexts: int,
) -> list[Score]:
    """Dice of the mask on each replacement with the network's own mask on the true target.

    1: the mask does not depend on the target. None: the mask on the true target is empty.

    Raises:
        DataError: the list lacks the kind, or has fewer contexts or prompts; a case cannot be read.
    """
    episodes.check(contexts, kind, prompts)
    scores: list[Score] = []
    listed = episodes.episodes
    title = f"{episodes.data_set}: target dependence, {kind}"
    with track(len(listed), title, show=is_leader()) as bar:
        for part in network.parts(len(listed)):
            by_target = {}
            for change in (None, *get_args(Replacement)):
                batch = [
                    prompted(
                        network.volume,
                        episodes,
                        cases,
                        listed[i],
                        kind,
                        prompts,
                        contexts,
                        functools.partial(_replaced, change, listed[i].name) if change else None,
                    ).episode
                    for i in part
                ]
                by_target[change] = _masks(network, cases, [listed[i] for i in part], batch)
            true = by_target.pop(None)
            for replacement, masks in by_target.items():
                scores += [
                    Score(
                        **about_episode(episodes, listed[i]),
                        structure=listed[i].structure,
                        model=model,
                        protocol="target_dependence",
                        kind=kind,
                        prompts=prompts,
                        contexts=contexts,
                        replacement=replacement,
                        dice=dice(on_true, on_replacement) if on_true.any() else None,
                    )
                    for i, on_true, on_replacement in zip(part, true, masks, strict=True)
                ]
            bar.advance(len(part))
    return scores


def _masks(network, cases, listed, batch: list[Episode]) -> list[np.ndarray]:
    (outputs,) = network.outputs(batch, [len(batch[0].context_images)])
    return [
        predicted_mask(network, cases, episode, output)
        for episode, output in zip(listed, outputs, strict=True)
    ]


def _replaced(replacement: Replacement, name: str, target: np.ndarray) -> np.ndarray:
    """The replacement of a target; `name` is that of its episode."""
    if replacement == "constant":
        return np.full_like(target, target.mean())
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.permutation(target.ravel()).reshape(target.shape)
