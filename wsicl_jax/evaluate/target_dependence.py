"""How much a network looks at its target: its masks on targets without content, compared with its
own masks on the true ones. One that answers the same has not looked."""

import zlib
from typing import Literal, get_args

import numpy as np

from wsicl_jax.config import EvaluatedKind
from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.evaluate.cases import Cases
from wsicl_jax.evaluate.episode_list import EpisodeList
from wsicl_jax.evaluate.in_context import segmented, show
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.records import Score
from wsicl_jax.metrics.overlap import dice
from wsicl_jax.terminal.progress import track

Replacement = Literal["constant", "shuffled"]
"""What is shown in the target's place: its mean everywhere, or its voxels in random order."""


def score_looking(
    network: Predictor,
    episodes: EpisodeList,
    cases: Cases,
    *,
    model: str,
    kind: EvaluatedKind,
    prompts: int,
    contexts: int,
) -> list[Score]:
    """Dice of the mask on each replacement of a target with the mask on the target itself.

    1: the network has not looked. None where it finds nothing in the true target.

    Raises:
        DataError: the list lacks the kind, or has fewer contexts or prompts; a case cannot be read.
    """
    episodes.check(contexts, kind, prompts)
    scores: list[Score] = []
    listed = episodes.episodes
    with track(len(listed), f"{episodes.data_set}: looks, {kind}", show=is_leader()) as bar:
        for part in network.parts(len(listed)):
            shown = [
                show(network.volume, episodes, cases, listed[i], kind, prompts, contexts).episode
                for i in part
            ]
            (true,) = network.outputs(shown, [contexts])
            for replacement in get_args(Replacement):
                replaced = [
                    _replaced(replacement, one, listed[i].name)
                    for i, one in zip(part, shown, strict=True)
                ]
                (other,) = network.outputs(replaced, [contexts])
                for i, a, b in zip(part, true, other, strict=True):
                    masks = [segmented(network, cases, listed[i], output) for output in (a, b)]
                    scores.append(
                        Score(
                            model=model,
                            data_set=episodes.title(listed[i]),
                            structure=listed[i].structure,
                            episode=listed[i].name,
                            target=listed[i].target,
                            subject=listed[i].subject,
                            protocol="looking",
                            kind=kind,
                            prompts=prompts,
                            contexts=contexts,
                            replacement=replacement,
                            dice=dice(*masks) if masks[0].any() else None,
                        )
                    )
            bar.advance(len(part))
    return scores


def _replaced(replacement: Replacement, episode: Episode, name: str) -> Episode:
    target = episode.target
    if replacement == "constant":
        return episode._replace(target=np.full_like(target, target.mean()))
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return episode._replace(target=rng.permutation(target.ravel()).reshape(target.shape))
