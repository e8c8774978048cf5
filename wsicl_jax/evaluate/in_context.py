"""Scores of in-context segmentation: a list's episodes with one kind and number of prompts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.config import EvaluatedKind, VolumeConfig
from wsicl_jax.data.episodes.sampling import Episode, prompted_episode
from wsicl_jax.data.episodes.sources import mask_of
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.evaluate.cases import Cases, mask
from wsicl_jax.evaluate.episode_list import EpisodeList, ListedEpisode, decoded
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.records import Score
from wsicl_jax.geometry.axes import spacing_of
from wsicl_jax.metrics.overlap import overlap
from wsicl_jax.model.dual_branch import THRESHOLD
from wsicl_jax.prompts import ONCE_PER_IMAGE, Prompt, annotation_seconds, box_around, on_grid
from wsicl_jax.terminal.progress import track


class PromptedEpisode(NamedTuple):
    """An episode as a network sees it, and the prompts of each of its context images."""

    episode: Episode
    prompts: list[list[Prompt]]
    """On the context image's own grid."""
    placed: list[list[Prompt]]
    """On the working grid."""


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
) -> list[Score]:
    """The scores of all episodes at several sizes of the context set, sizes ascending within each.

    With `blank` the contexts carry no prompts at all, as an experiment.

    Raises:
        DataError: the list lacks the kind, or has fewer contexts or prompts; a case cannot be read.
    """
    sizes = sorted(set(sizes))
    episodes.check(sizes[-1], kind, prompts)
    # The smoothing of a prompt depends on the whole context set.
    passes = [[size] for size in sizes] if network.volume.prompt_smoothing else [sizes]
    scores: list[Score] = []
    listed = episodes.episodes
    title = f"{episodes.data_set}: {kind}" + ("" if kind in ONCE_PER_IMAGE else f" x {prompts}")
    with track(len(listed), title, show=is_leader()) as bar:
        for part in network.parts(len(listed)):
            outputs: list[Float[np.ndarray, "episode x y z"]] = []
            for together in passes:
                shown = [
                    show(network.volume, episodes, cases, listed[i], kind, prompts, together[-1])
                    for i in part
                ]
                if blank:
                    shown = [_without_prompts(s) for s in shown]
                outputs += [*network.outputs([s.episode for s in shown], together)]
            for place, (i, one) in enumerate(zip(part, shown, strict=True)):
                for size, output in zip(sizes, outputs, strict=True):
                    found = segmented(network, cases, listed[i], output[place])
                    used = one.prompts[:size]
                    scores.append(
                        scored(
                            found,
                            episodes,
                            cases,
                            listed[i],
                            tolerance_mm,
                            model=model,
                            protocol="in_context",
                            kind=kind,
                            prompts=1 if kind in ONCE_PER_IMAGE else prompts,
                            contexts=size,
                            seconds=sum(map(annotation_seconds, used)),
                            fewer=fewer(used, kind, prompts),
                        )
                    )
                bar.advance()
    return scores


def show(
    volume: VolumeConfig,
    episodes: EpisodeList,
    cases: Cases,
    episode: ListedEpisode,
    kind: EvaluatedKind,
    count: int,
    contexts: int,
) -> PromptedEpisode:
    """An episode with its first `contexts` context images, each with `count` prompts of a kind.

    Images and prompts are what `volume` makes of them.
    """
    structure = episodes.structures[episode.structure]
    subject = cases.subject(episode.target, episode.channel, volume)
    images, drawn, placed = [subject[0]], [], []
    truth = mask_of(subject[1], structure.labels)
    for name in episode.contexts[:contexts]:
        marked = mask(cases, name, structure.marked)
        drawn.append(decoded(structure.prompts[name], kind, count, marked))
        around = box_around(drawn[-1], marked.shape)
        grid = cases.grid(name, episode.channel, volume, around)
        placed.append([on_grid(prompt, grid) for prompt in drawn[-1]])
        images.append(cases.subject(name, episode.channel, volume, around)[0])
    return PromptedEpisode(
        prompted_episode(images, truth, placed, smoothing=volume.prompt_smoothing), drawn, placed
    )


def segmented(
    network: Predictor,
    cases: Cases,
    episode: ListedEpisode,
    output: Float[np.ndarray, "x y z"],
) -> Bool[np.ndarray, "X Y Z"]:
    """A network's output cut to a mask, on the target's own grid."""
    return cases.grid(episode.target, episode.channel, network.volume).restore(output) > THRESHOLD


def scored(
    found: Bool[np.ndarray, "X Y Z"],
    episodes: EpisodeList,
    cases: Cases,
    episode: ListedEpisode,
    tolerance_mm: float,
    **setting,
) -> Score:
    """The score of a mask on the target's own grid; `setting` are the other fields of `Score`."""
    truth = mask(cases, episode.target, episodes.structures[episode.structure].labels)
    agreement = overlap(found, truth, spacing_of(cases.affine(episode.target)), tolerance_mm)
    return Score(
        data_set=episodes.title(episode),
        structure=episode.structure,
        episode=episode.name,
        target=episode.target,
        subject=episode.subject,
        dice=agreement.dice,
        surface_dice=agreement.surface_dice,
        hd95_mm=agreement.hd95_mm,
        **setting,
    )


def fewer(prompts: Sequence[Sequence[Prompt]], kind: EvaluatedKind, count: int) -> int:
    """How many context images have fewer prompts than were asked for."""
    wanted = 1 if kind in ONCE_PER_IMAGE else count
    return sum(len(given) < wanted for given in prompts)


def _without_prompts(shown: PromptedEpisode) -> PromptedEpisode:
    blank = np.zeros_like(shown.episode.context_prompts)
    nothing: list[list[Prompt]] = [[] for _ in shown.prompts]
    return PromptedEpisode(shown.episode._replace(context_prompts=blank), nothing, nothing)
