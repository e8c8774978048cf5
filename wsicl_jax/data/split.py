"""Which subjects train, which validate, and which are held out from both.

The parts follow from the seed and the names alone, so that training and evaluation agree, and
a subject's place hardly depends on which others there are.
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
    validate, the others train; so one more subject moves at most three others to another part,
    and another `validation_share` moves none of those held out. As far as there are enough
    subjects, each part of a share above 0 gets one, training before validation before those held
    out.
    """
    ordered = sorted(set(subjects), key=lambda subject: (_place(seed, name, subject), subject))
    count = len(ordered)
    held_out, validation = (
        max(round(share * count), 1 if share else 0)
        for share in (settings.held_out_share, settings.validation_share)
    )
    fewest = min(validation, 1)
    held_end = max(min(held_out, count - 1 - fewest), 0)
    kept_end = max(min(held_end + validation, count - 1), 0)
    return {
        subject: "held_out" if i < held_end else "validation" if i < kept_end else "train"
        for i, subject in enumerate(ordered)
    }


def _place(seed: int, name: str, subject: str) -> bytes:
    key = json.dumps([seed, name, subject]).encode()
    return hashlib.blake2b(key, digest_size=8).digest()
