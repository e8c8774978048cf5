"""The random streams of a run, each with one number.

A generator is seeded with (seed, stream, indices ...), so the random numbers of one part of a run
never depend on another part. In numpy, trailing zeros of a seed change nothing.
"""

from enum import IntEnum, unique


@unique
class RandomStream(IntEnum):
    """The use of random numbers. The values never change: seeds depend on them."""

    EPISODE = 0
    """Cases, structure, prompts and augmentation of a training episode."""
    CONTEXT_COUNT = 1
    """Number of contexts of a training step."""
    TRAINING_COHORT = 3
    """Synthetic cohorts of training."""
    UNSEEN_COHORT = 4
    """Synthetic cohorts of evaluation."""
    TRIAL_CONTEXTS = 5
    """Structure and contexts of a trial."""
    TRIAL_PROMPTS = 6
    """Prompts of a trial."""
    TRUNCATED_GRADIENT = 7
    """Mini-context of a step's truncated gradient."""
    INTENSITIES = 8
    """Augmentation of intensities in a training step."""
    WRITTEN_COHORT = 9
    """Synthetic cohorts written to stores."""
    TASK = 10
    """Task of a training episode."""
    DEGRADATION = 11
    """Degradation of the images of an image-to-image trial."""
    CONTEXT_SET = 12
    """Context set that `wsicl predict` takes from a data set."""
