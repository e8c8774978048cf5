"""Interactive sessions, simulated: prompts on the target, each where the last mask was wrong."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wsicl_jax.config import InteractiveKind
from wsicl_jax.data.episodes.sampling import Episode, prompted_episode
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.evaluate.cases import Cases, mask
from wsicl_jax.evaluate.episode_list import EpisodeList, ListedEpisode
from wsicl_jax.evaluate.in_context import PromptedEpisode, fewer, scored, segmented, show
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.records import Score
from wsicl_jax.geometry.axes import spacing_of
from wsicl_jax.prompts import Prompt, annotation_seconds, box_around, correct, on_grid
from wsicl_jax.terminal.progress import track


class _Session(NamedTuple):
    episode: ListedEpisode
    truth: np.ndarray
    """On the target's own grid."""
    prompts: list[Prompt]
    """On the target, on its own grid."""
    others: PromptedEpisode | None
    """Context images of other subjects."""


def score_interactive(
    network: Predictor,
    episodes: EpisodeList,
    cases: Cases,
    *,
    model: str,
    kind: InteractiveKind,
    rounds: int,
    contexts: int = 0,
    prompts: int = 1,
    tolerance_mm: float,
) -> list[Score]:
    """The scores of every episode after each round.

    The target is its own context image, with one prompt more in each round, where
    `prompts.correct` finds the last mask most wrong; where that has nothing to mend, no prompt is
    added. With `contexts`, that many context images of other subjects stand beside it, with
    `prompts` prompts of the same kind.

    Raises:
        DataError: the list has fewer contexts or prompts, or a case cannot be read.
    """
    if contexts:
        episodes.check(contexts, kind, prompts)
    scores: list[Score] = []
    listed = episodes.episodes
    title = f"{episodes.data_set}: interactive {kind}"
    with track(len(listed) * rounds, title, show=is_leader()) as bar:
        for part in network.parts(len(listed)):
            sessions = [
                _begun(network, episodes, cases, listed[i], kind, contexts, prompts) for i in part
            ]
            for number in range(1, rounds + 1):
                shown = [_shown(network, cases, session) for session in sessions]
                outputs = network.outputs(shown, [contexts + 1])[0]
                for session, output in zip(sessions, outputs, strict=True):
                    found = segmented(network, cases, session.episode, output)
                    others = session.others.prompts if session.others else []
                    scores.append(
                        scored(
                            found,
                            episodes,
                            cases,
                            session.episode,
                            tolerance_mm,
                            model=model,
                            protocol="interactive",
                            kind=kind,
                            prompts=len(session.prompts),
                            contexts=contexts,
                            round=number,
                            seconds=sum(map(annotation_seconds, [session.prompts, *others])),
                            fewer=fewer(others, kind, prompts),
                        )
                    )
                    _add_prompt(session, cases, kind, found)
                    bar.advance()
    return scores


def _begun(
    network: Predictor,
    episodes: EpisodeList,
    cases: Cases,
    episode: ListedEpisode,
    kind: InteractiveKind,
    contexts: int,
    prompts: int,
) -> _Session:
    truth = mask(cases, episode.target, episodes.structures[episode.structure].labels)
    others = None
    if contexts:
        others = show(network.volume, episodes, cases, episode, kind, prompts, contexts)
    session = _Session(episode, truth, [], others)
    _add_prompt(session, cases, kind, np.zeros_like(truth))
    return session


def _add_prompt(session: _Session, cases: Cases, kind: InteractiveKind, found: np.ndarray) -> None:
    spacing_mm = spacing_of(cases.affine(session.episode.target))
    prompt = correct(kind, session.truth, found, session.prompts, spacing_mm)
    if prompt is not None:
        session.prompts.append(prompt)


def _shown(network: Predictor, cases: Cases, session: _Session) -> Episode:
    """The target as the first of its own contexts."""
    episode = session.episode
    image, _ = cases.subject(episode.target, episode.channel, network.volume)
    around = box_around(session.prompts, session.truth.shape)
    shown, _ = cases.subject(episode.target, episode.channel, network.volume, around)
    grid = cases.grid(episode.target, episode.channel, network.volume, around)
    placed: Sequence[Prompt] = [on_grid(prompt, grid) for prompt in session.prompts]
    images, prompts = [image, shown], [placed]
    if session.others:
        images += [*session.others.episode.context_images[..., 0]]
        prompts += session.others.placed
    nothing = np.zeros(image.shape, bool)
    return prompted_episode(images, nothing, prompts, smoothing=network.volume.prompt_smoothing)
