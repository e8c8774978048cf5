"""The split of subjects into training, validation and held-out parts.

Parts follow from the seed and the names alone. So training and evaluation agree, and the part of
a subject hardly depends on the other subjects.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Literal

from wsicl_jax.config import EpisodeConfig

Part = Literal["train", "validation", "held_out"]
"""A part of a data set."""


def split(
    subjects: Iterable[str], settings: EpisodeConfig, *, seed: int, name: str
) -> dict[str, Part]:
    """The part of each subject of the data set `name`; shares are met to within one subject.

    Subjects are ordered by a hash of (seed, name, subject). The first are held out, the next
    validate, the others train. So one more subject moves at most three others to another part,
    and another `validation_share` moves no held-out subject. If there are enough subjects, each
    part of a share above 0 gets one: training first, then validation, then the held-out part.
    """
    ordered = sorted(set(subjects), key=lambda subject: (_place(seed, name, subject), subject))
    count = len(ordered)
    held_out, validation = (
        max(round(share * count), 1 if share else 0)
        for share in (settings.held_out_share, settings.validation_share)
    )
    held_out_end = max(min(held_out, count - 1 - min(validation, 1)), 0)
    validation_end = max(min(held_out_end + validation, count - 1), 0)
    return {
        subject: "held_out" if i < held_out_end else "validation" if i < validation_end else "train"
        for i, subject in enumerate(ordered)
    }


def _place(seed: int, name: str, subject: str) -> bytes:
    key = json.dumps([seed, name, subject]).encode()
    return hashlib.blake2b(key, digest_size=8).digest()
