"""The streams of random numbers of a run, each named once.

A generator is seeded with (seed, stream, indices ...), so that what one part of a run draws
never depends on another. numpy gives a key and the same key with zeros behind it equal
numbers: two streams of one number would share theirs.
"""

from enum import IntEnum, unique


@unique
class RandomStream(IntEnum):
    """What is drawn; the numbers are part of what a seed means and never change."""

    EPISODE = 0
    """Cases, structure, prompts and changes of an episode of training."""
    CONTEXT_COUNT = 1
    """Number of contexts of a training step."""
    TRAINING_COHORT = 3
    """Synthetic cohorts of training."""
    UNSEEN_COHORT = 4
    """Synthetic cohorts that are kept for evaluation."""
    TRIAL_CONTEXTS = 5
    """Structure and contexts of a trial."""
    TRIAL_PROMPTS = 6
    """Prompts of a trial."""
    TRUNCATED_GRADIENT = 7
    """Mini-context that a step's truncated gradient comes from."""
    INTENSITIES = 8
    """Changes of intensities in a training step."""
    WRITTEN_COHORT = 9
    """Synthetic cohorts that are written to stores."""
    TASK = 10
    """Task of an episode of training."""
    DEGRADATION = 11
    """What makes the images of an image-to-image trial worse."""
    CONTEXT_SET = 12
    """Cases of a data set that show a task to `wsicl predict`."""
