"""Runs scored episodes again, for the images and masks of the report's pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import get_args

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.config import BaselineName
from wsicl_jax.data.episodes.sources import mask_of
from wsicl_jax.errors import DataError
from wsicl_jax.evaluate.episode_list import read_list
from wsicl_jax.evaluate.planning import Planned, cases_of
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.prompted_episodes import prompted
from wsicl_jax.evaluate.records import Score, read_about
from wsicl_jax.geometry.axes import spacing_of
from wsicl_jax.model.dual_branch import THRESHOLD
from wsicl_jax.prompts import box_around
from wsicl_jax.storage.object_path import Place
from wsicl_jax.weights.networks import find_network


@dataclass(frozen=True, eq=False)
class ReplayedContext:
    """A context image as the network received it, with the structure, which it did not receive."""

    name: str
    image: Float[np.ndarray, "x y z"]
    prompts: Float[np.ndarray, "x y z"]
    """The prompt channel."""
    truth: Bool[np.ndarray, "x y z"]


@dataclass(frozen=True, eq=False)
class ReplayedCase:
    """A target with its context set and a prediction, on the working grid (axes in RAS+ order)."""

    score: Score
    spacing_mm: tuple[float, float, float]
    """Of the working grid, for this target."""
    image: Float[np.ndarray, "x y z"]
    truth: Bool[np.ndarray, "x y z"]
    mask: Bool[np.ndarray, "x y z"]
    """The prediction."""
    contexts: tuple[ReplayedContext, ...]


class Replay:
    """From an in-context score of some sweeps to its images and prediction."""

    def __init__(self, directories: Sequence[Place]):
        self._directories = directories
        self._network, self._planned = cache(_network), cache(_planned)

    def __call__(self, score: Score) -> ReplayedCase:
        """Run the model of a score on its episode again.

        Raises:
            WsiclError: the model is a baseline or another tool's; a checkpoint, an episode list
                or a store is missing, or has changed since.
        """
        if score.model in get_args(BaselineName):
            raise DataError("a baseline has no prediction for one target alone")
        for network, planned in self._sources(score):
            data = self._planned(*planned)
            if any(e.name == score.episode for e in data.episodes.episodes):
                return replayed(self._network(*network), data, score)
        raise DataError(
            f"no sweep has a checkpoint of {score.model} and the list of {score.data_set} with "
            f"{score.episode}: another tool made its masks"
        )

    def _sources(self, score: Score) -> Iterator[tuple[tuple[str, str], tuple[Place, str]]]:
        """Path and digest of the checkpoint and of the list, in every sweep that has both."""
        # The data set of a score may end with a channel.
        names = (score.data_set, score.data_set.rpartition(", ")[0])
        for directory in self._directories:
            about = read_about(directory)
            model = about.get("models", {}).get(score.model, {})
            sets = about.get("data_sets", {})
            if "path" in model and (name := next((n for n in names if n in sets), None)):
                data_set = sets[name]
                episodes = directory / str(data_set.get("episodes", ""))
                yield (
                    (str(model["path"]), str(model.get("digest", ""))),
                    (episodes, str(data_set.get("digest", ""))),
                )


def _network(path: str, digest: str) -> Predictor:
    stored = find_network(path)
    if stored.digest != digest:
        raise DataError(f"{path} is another checkpoint than the one that was scored")
    return Predictor(stored.load(), stored.experiment.volume)


def _planned(path: Place, digest: str) -> Planned:
    listed = read_list(path)
    if listed.digest != digest:
        raise DataError(f"{path} is another list of episodes than the one that was scored")
    return Planned(listed, cases_of(listed))


def replayed(network: Predictor, planned: Planned, score: Score) -> ReplayedCase:
    """Run an in-context score's episode of a list with prompts again.

    Collective, if the network is on devices of several processes.

    Raises:
        DataError: a case cannot be read.
    """
    listed, cases = planned
    (episode,) = (e for e in listed.episodes if e.name == score.episode)
    inputs = prompted(
        network.volume, listed, cases, episode, score.kind, score.prompts, score.contexts
    )
    output = network.outputs([inputs.episode], [score.contexts])[0, 0]
    labels = listed.structures[episode.structure].labels
    grid = cases.grid(episode.target, episode.channel, network.volume)
    contexts = []
    names = episode.contexts[: score.contexts]
    for i, (name, prompts) in enumerate(zip(names, inputs.prompts, strict=True)):
        around = box_around(prompts, cases.label(name).shape)
        label = cases.subject(name, episode.channel, network.volume, around)[1]
        contexts.append(
            ReplayedContext(
                name,
                inputs.episode.context_images[i, ..., 0],
                inputs.episode.context_prompts[i, ..., 0],
                mask_of(label, labels),
            )
        )
    # The working grid in RAS+: the extent in mm of the covered box, over its own voxels.
    spacing = [spacing_of(cases.affine(episode.target))[axis] for axis in grid.order]
    sides = zip(spacing, grid.covered.extent, grid.grid, strict=True)
    x, y, z = (mm * own / working for mm, own, working in sides)
    return ReplayedCase(
        score,
        (x, y, z),
        inputs.episode.target[..., 0],
        inputs.episode.truth[..., 0] > 0,
        output > THRESHOLD,
        tuple(contexts),
    )
