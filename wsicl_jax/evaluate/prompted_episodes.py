"""An episode of a list as a network receives it, and the score of a mask for its target."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.config import EvaluatedKind, VolumeConfig
from wsicl_jax.data.episodes.sampling import Episode, prompted_episode
from wsicl_jax.data.subject_group import mask_of
from wsicl_jax.evaluate.case_sources import Cases, structure_mask
from wsicl_jax.evaluate.episode_list import EpisodeList, ListedEpisode, decoded
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.records import Score
from wsicl_jax.geometry.axes import spacing_of
from wsicl_jax.metrics.overlap import overlap
from wsicl_jax.model.dual_branch import THRESHOLD
from wsicl_jax.prompts import ONCE_PER_IMAGE, Prompt, annotation_seconds, box_around, on_grid


class PromptedEpisode(NamedTuple):
    """An episode on the working grid, with the prompts of each of its context images."""

    episode: Episode
    prompts: list[list[Prompt]]
    """On the context image's own grid."""
    placed: list[list[Prompt]]
    """On the working grid."""

    def without_prompts(self) -> "PromptedEpisode":
        """The same images with no prompts at all."""
        blank = np.zeros_like(self.episode.context_prompts)
        empty: list[list[Prompt]] = [[] for _ in self.prompts]
        return PromptedEpisode(self.episode._replace(context_prompts=blank), empty, empty)


def prompted(
    volume: VolumeConfig,
    episodes: EpisodeList,
    cases: Cases,
    episode: ListedEpisode,
    kind: EvaluatedKind,
    count: int,
    contexts: int,
    change_target: Callable[[np.ndarray], np.ndarray] | None = None,
) -> PromptedEpisode:
    """An episode with its first `contexts` context images, each with `count` prompts of a kind.

    `volume` sets the working grid, the scaling of intensities, the smoothing of prompts and the
    registration of context images. `change_target` returns another image in place of the target.
    """
    structure = episodes.structures[episode.structure]
    target, label = cases.subject(episode.target, episode.channel, volume)
    if change_target:
        target = change_target(target)
    images, drawn, placed = [target], [], []
    for name in episode.contexts[:contexts]:
        marked = structure_mask(cases, name, structure.marked)
        drawn.append(decoded(structure.prompts[name], kind, count, marked))
        around = box_around(drawn[-1], marked.shape)
        grid = cases.grid(name, episode.channel, volume, around)
        placed.append([on_grid(prompt, grid) for prompt in drawn[-1]])
        images.append(cases.subject(name, episode.channel, volume, around)[0])
    truth = mask_of(label, structure.labels)
    return PromptedEpisode(prompted_episode(images, truth, placed, volume), drawn, placed)


def passes(volume: VolumeConfig, sizes: Sequence[int]) -> list[list[int]]:
    """Sizes of the context set that share an episode, in ascending order.

    The whole context set determines the smoothing of its prompts, so each size then has its own.
    """
    return [[size] for size in sizes] if volume.prompt_smoothing else [[*sizes]]


def truth_of(
    episodes: EpisodeList, cases: Cases, episode: ListedEpisode
) -> Bool[np.ndarray, "X Y Z"]:
    """The structure of an episode on its target's own grid."""
    return structure_mask(cases, episode.target, episodes.structures[episode.structure].labels)


def predicted_mask(
    network: Predictor,
    cases: Cases,
    episode: ListedEpisode,
    output: Float[np.ndarray, "x y z"],
) -> Bool[np.ndarray, "X Y Z"]:
    """A network's output above the threshold, on the target's own grid."""
    return cases.grid(episode.target, episode.channel, network.volume).restore(output) > THRESHOLD


def score_of(
    mask: Bool[np.ndarray, "X Y Z"],
    episodes: EpisodeList,
    cases: Cases,
    episode: ListedEpisode,
    tolerance_mm: float,
    **setting,
) -> Score:
    """The score of a mask on the target's own grid; `setting` are the other fields of `Score`."""
    truth = truth_of(episodes, cases, episode)
    agreement = overlap(mask, truth, spacing_of(cases.affine(episode.target)), tolerance_mm)
    return Score(
        **about_episode(episodes, episode),
        structure=episode.structure,
        **agreement._asdict(),
        **setting,
    )


def about_episode(episodes: EpisodeList, episode: ListedEpisode) -> dict[str, str]:
    """The fields of a `Score` that name an episode."""
    return {
        "data_set": episodes.title(episode),
        "episode": episode.name,
        "target": episode.target,
        "subject": episode.subject,
    }


def about_prompts(
    prompts: Sequence[Sequence[Prompt]], kind: EvaluatedKind, count: int
) -> dict[str, Any]:
    """The fields of a `Score` that follow from the prompts of its context images.

    The annotation time of them all, and how many images have fewer than the requested `count`.
    """
    requested = 1 if kind in ONCE_PER_IMAGE else count
    return {
        "kind": kind,
        "prompts": requested,
        "seconds": sum(map(annotation_seconds, prompts)),
        "fewer": sum(len(on_image) < requested for on_image in prompts),
    }
