"""Several networks as one segmenter: the mean of their outputs."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from wsicl_jax.errors import ConfigError
from wsicl_jax.inference.segmenter import Segmenter
from wsicl_jax.storage.digests import digest_of


def load_ensemble(paths: Sequence[str | Path], **settings: Any) -> Segmenter:
    """Load networks that segment together, each as `Segmenter.load` does; one stays as it is.

    The time of a target and the memory of the networks are the sum of theirs.

    Raises:
        CheckpointError: as `Segmenter.load`.
        ConfigError: as `Segmenter.load`; or the networks differ in a setting of `volume`.
    """
    members = [Segmenter.load(path, **settings) for path in paths]
    first = asdict(members[0].volume)
    for path, member in zip(paths, members, strict=True):
        for name, value in asdict(member.volume).items():
            if value != first[name]:
                raise ConfigError(
                    f"{path} cannot be in one ensemble with {paths[0]}: volume.{name} is {value}, "
                    f"there {first[name]}"
                )
    return members[0] if len(members) == 1 else Ensemble(members)


class Ensemble(Segmenter):
    """The mean of several networks with the same `volume` settings."""

    def __init__(self, members: Sequence[Segmenter]):
        self.volume = members[0].volume
        self.config = members[0].config
        self.trained_on_crops = all(member.trained_on_crops for member in members)
        self.digest = digest_of([member.digest for member in members])
        self.members = tuple(members)

    def encode(self, target: Float[np.ndarray, "x y z"]) -> Any:
        return [member.encode(target) for member in self.members]

    def predict(
        self,
        encoded: Any,
        images: Float[Array | np.ndarray, "context x y z"],
        prompts: Float[Array | np.ndarray, "context x y z"],
        weights: Float[np.ndarray, " context"] | None = None,
    ) -> Float[np.ndarray, "x y z"]:
        outputs = [
            member.predict(one, images, prompts, weights)
            for member, one in zip(self.members, encoded, strict=True)
        ]
        return np.mean(outputs, axis=0, dtype=np.float32)

    def program_bytes(self, contexts: int) -> int:
        return sum(member.program_bytes(contexts) for member in self.members)
