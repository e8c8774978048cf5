"""In-context protocol: targets are segmented from context images of other subjects."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wsicl_jax.config import EvaluatedKind
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.evaluate.case_sources import Cases
from wsicl_jax.evaluate.episode_list import EpisodeList
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.prompted_episodes import (
    PromptedEpisode,
    about_prompts,
    passes,
    predicted_mask,
    prompted,
    score_of,
)
from wsicl_jax.evaluate.records import Score
from wsicl_jax.model.losses import Loss
from wsicl_jax.prompts import ONCE_PER_IMAGE
from wsicl_jax.terminal.progress import track


def score_in_context(
    network: Predictor,
    episodes: EpisodeList,
    cases: Cases,
    *,
    model: str,
    kind: EvaluatedKind,
    prompts: int,
    sizes: Sequence[int],
    tolerance_mm: float,
    blank: bool = False,
    loss: Loss | None = None,
) -> list[Score]:
    """The scores of all episodes at several sizes of the context set, ascending within each.

    With `blank` the context images carry no prompts, as an experiment. With `loss` each score has
    the loss of its output on the working grid.

    Raises:
        DataError: the list lacks the kind, or has fewer contexts or prompts; a case cannot be read.
    """
    sizes = sorted(set(sizes))
    episodes.check(sizes[-1], kind, prompts)
    scores: list[Score] = []
    listed = episodes.episodes
    title = f"{episodes.data_set}: {kind}" + ("" if kind in ONCE_PER_IMAGE else f" x {prompts}")
    with track(len(listed), title, show=is_leader()) as bar:
        for part in network.parts(len(listed)):
            outputs: list[Float[np.ndarray, "episode x y z"]] = []
            batch: list[PromptedEpisode] = []
            for sizes_of_pass in passes(network.volume, sizes):
                most = sizes_of_pass[-1]
                batch = [
                    prompted(network.volume, episodes, cases, listed[i], kind, prompts, most)
                    for i in part
                ]
                if blank:
                    batch = [one.without_prompts() for one in batch]
                outputs += [*network.outputs([one.episode for one in batch], sizes_of_pass)]
            for place, (i, one) in enumerate(zip(part, batch, strict=True)):
                truth = one.episode.truth[None]
                for size, output in zip(sizes, outputs, strict=True):
                    prediction = output[place][None, ..., None]
                    scores.append(
                        score_of(
                            predicted_mask(network, cases, listed[i], output[place]),
                            episodes,
                            cases,
                            listed[i],
                            tolerance_mm,
                            model=model,
                            protocol="in_context",
                            contexts=size,
                            loss=float(loss(prediction, truth)) if loss else None,
                            **about_prompts(one.prompts[:size], kind, prompts),
                        )
                    )
                bar.advance()
    return scores
