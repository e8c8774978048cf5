"""The episode and the learning rate with which both networks are timed."""

from typing import NamedTuple

import numpy as np

from wsicl_jax.geometry.axes import Shape3

LEARNING_RATE = 1e-5
"""Of the Adam update in a training step."""


class TimedEpisode(NamedTuple):
    """One episode, channels last; float32."""

    target: np.ndarray
    images: np.ndarray
    prompts: np.ndarray
    truth: np.ndarray


def random_episode(grid: Shape3, contexts: int) -> TimedEpisode:
    """An episode of uniform noise; a tenth of the prompt voxels are 1. Always the same."""
    rng = np.random.default_rng(0)
    shapes = [(1, *grid, 1), *[(1, contexts, *grid, 1)] * 2, (1, *grid, 1)]
    target, images, prompts, truth = (rng.random(shape, np.float32) for shape in shapes)
    return TimedEpisode(target, images, (prompts > 0.9).astype(np.float32), truth.round())
