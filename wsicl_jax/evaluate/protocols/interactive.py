"""Interactive protocol: simulated sessions, one prompt more on the target in each round.

Each prompt is put where the last mask was most wrong.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from wsicl_jax.config import InteractiveKind
from wsicl_jax.data.episodes.sampling import Episode, prompted_episode
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.evaluate.case_sources import Cases
from wsicl_jax.evaluate.episode_list import EpisodeList, ListedEpisode
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.prompted_episodes import (
    PromptedEpisode,
    about_prompts,
    predicted_mask,
    prompted,
    score_of,
    truth_of,
)
from wsicl_jax.evaluate.records import Score
from wsicl_jax.geometry.axes import spacing_of
from wsicl_jax.model.dual_branch import THRESHOLD
from wsicl_jax.prompts import (
    Negative,
    Prompt,
    annotation_seconds,
    box_around,
    correct,
    enforced,
    false_positive,
    on_crop,
    on_grid,
)
from wsicl_jax.terminal.progress import track


@dataclass
class _Session:
    episode: ListedEpisode
    truth: np.ndarray
    """On the target's own grid."""
    others: PromptedEpisode | None
    """Context images of other subjects."""
    prompts: list[Prompt] = field(default_factory=list)
    """On the target, on its own grid."""
    false_positive: np.ndarray | None = None
    """What the last prompt marks, if it is negative."""


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
    negative: bool = False,
    enforce: bool = True,
    tolerance_mm: float,
) -> list[Score]:
    """The scores of every episode after each round.

    The target is its own context image (self context). Each round adds the prompt that
    `prompts.correct` returns for the last mask, if any; `negative` allows negative prompts. With
    `contexts`, that many context images of other subjects are added, with `prompts` prompts of the
    same kind on each. `enforce` moves scores as `prompts.enforced` does.

    Raises:
        DataError: the list has fewer contexts or prompts, or a case cannot be read.
    """
    if contexts:
        episodes.check(contexts, kind, prompts)
    scores: list[Score] = []
    listed = episodes.episodes
    title = f"{episodes.data_set}: interactive {kind}"
    # Each round registers them, together with the target's own prompts.
    volume = network.volume
    unregistered = replace(volume, registration=False)
    with track(len(listed) * rounds, title, show=is_leader()) as bar:
        for part in network.parts(len(listed)):
            sessions = []
            for i in part:
                others = None
                if contexts:
                    others = prompted(
                        unregistered, episodes, cases, listed[i], kind, prompts, contexts
                    )
                truth = truth_of(episodes, cases, listed[i])
                sessions.append(_Session(listed[i], truth, others))
                _add_prompt(sessions[-1], cases, kind, np.zeros_like(truth), negative)
            for number in range(1, rounds + 1):
                batch = [_self_context(network, cases, session) for session in sessions]
                outputs = network.outputs(batch, [contexts + 1])[0]
                for session, output in zip(sessions, outputs, strict=True):
                    if enforce:
                        grid = cases.grid(session.episode.target, session.episode.channel, volume)
                        placed = [on_crop(prompt, grid) for prompt in session.prompts]
                        output = enforced(output, [p for p in placed if p is not None], THRESHOLD)
                    mask = predicted_mask(network, cases, session.episode, output)
                    others = session.others.prompts if session.others else []
                    seconds = sum(map(annotation_seconds, [session.prompts, *others]))
                    own = {"prompts": len(session.prompts), "seconds": seconds}
                    scores.append(
                        score_of(
                            mask,
                            episodes,
                            cases,
                            session.episode,
                            tolerance_mm,
                            model=model,
                            protocol="interactive",
                            contexts=contexts,
                            round=number,
                            removed=_removed(session, mask),
                            **about_prompts(others, kind, prompts) | own,
                        )
                    )
                    _add_prompt(session, cases, kind, mask, negative)
                    bar.advance()
    return scores


def _add_prompt(
    session: _Session, cases: Cases, kind: InteractiveKind, mask: np.ndarray, negative: bool
) -> None:
    spacing_mm = spacing_of(cases.affine(session.episode.target))
    prompt = correct(kind, session.truth, mask, session.prompts, spacing_mm, negative=negative)
    if prompt is not None:
        session.prompts.append(prompt)
    is_negative = isinstance(prompt, Negative)
    session.false_positive = false_positive(prompt, session.truth, mask) if is_negative else None


def _removed(session: _Session, mask: np.ndarray) -> float | None:
    marked = session.false_positive
    return None if marked is None else 1 - float(mask[marked].mean())


def _self_context(network: Predictor, cases: Cases, session: _Session) -> Episode:
    """The target as the first of its own context images."""
    target, channel, volume = session.episode.target, session.episode.channel, network.volume
    around = box_around(session.prompts, session.truth.shape)
    image = cases.subject(target, channel, volume)[0]
    # Cut to the prompts, as a context image is; a target has none.
    context = cases.subject(target, channel, volume, around)[0]
    grid = cases.grid(target, channel, volume, around)
    images, prompts = [image, context], [[on_grid(prompt, grid) for prompt in session.prompts]]
    if session.others:
        images += [*session.others.episode.context_images[..., 0]]
        prompts += session.others.placed
    no_truth = np.zeros(image.shape, bool)
    return prompted_episode(images, no_truth, prompts, volume)
