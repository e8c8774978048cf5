"""A fixed list of episodes: targets, contexts, prompts; a file, the same for every model.

Prompts are voxels of each case's own grid, so that nothing depends on a network's working grid.
A case carries the same prompts in every episode, as if a person had annotated it once. Smaller
context sets and fewer prompts are the first ones of what the list has.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from pydantic import ConfigDict, TypeAdapter

from wsicl_jax.config import EvaluatedKind, PromptKind
from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts import ONCE_PER_IMAGE, Point, Prompt, Scribble, SliceMask
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.digests import digest_of, read_verified, with_digest
from wsicl_jax.storage.documents import DocumentError, checked

_FORMAT = 1
_RULES = ConfigDict(extra="forbid")

Position = tuple[float, float, float]
Ranges = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class CasePrompts:
    """What marks one structure in one case: for each kind, prompts in a fixed order.

    Masks are the structure itself and need no entry.
    """

    __pydantic_config__ = _RULES

    point: tuple[Position, ...] = ()
    box: tuple[Ranges, ...] = ()
    """Half-open ranges of voxels along each axis, one voxel along one of them."""
    scribble: tuple[tuple[Position, ...], ...] = ()
    """Paths, voxel by voxel."""
    box3d: tuple[Ranges, ...] = ()
    mask2d: tuple[tuple[int, int], ...] = ()
    """Axis and index of slices on which the structure is outlined."""
    mixed: tuple[PromptKind, ...] = ()
    """Kinds that mixed prompts take in turn, each the next one of its kind."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What is to be found, and how the cases are marked."""

    __pydantic_config__ = _RULES

    labels: tuple[int, ...]
    """Labels that it unites."""
    marked: tuple[int, ...]
    """Labels that the prompts mark: the same, but where wrong prompts are the experiment."""
    prompts: dict[str, CasePrompts]
    """By the name of the case; empty as long as none are drawn."""


@dataclass(frozen=True, kw_only=True)
class ListedEpisode:
    """A target and its context set."""

    __pydantic_config__ = _RULES

    name: str
    structure: str
    channel: str
    """Name of the channel (modality) that is shown."""
    target: str
    subject: str
    """Whom the target shows."""
    contexts: tuple[str, ...]
    """Names of the context cases, in a fixed order."""


@dataclass(frozen=True, kw_only=True)
class EpisodeList:
    """All episodes of a data set."""

    __pydantic_config__ = _RULES

    data_set: str
    store: str
    """Path or URL of the store, or `synthetic`."""
    cases: dict[str, str]
    """The hash of each case that takes part."""
    structures: dict[str, Structure]
    episodes: tuple[ListedEpisode, ...]
    contexts: int
    """Context images of every episode."""
    prompts: int
    """Prompts of each kind on every context image, as far as the structure has room."""
    kinds: tuple[EvaluatedKind, ...]
    """Kinds of prompts that it has."""
    seed: int
    part: str
    jitter: float
    cohorts: dict[str, Any] = field(default_factory=dict)
    """Of synthetic cohorts, all that they follow from."""

    @cached_property
    def digest(self) -> str:
        """Hash of all that it says, but for where the store lies."""
        content = {k: v for k, v in _plain(self).items() if k != "store"}
        return digest_of(content)

    def title(self, episode: ListedEpisode) -> str:
        """The data set of an episode's score: with the channel, where there are several."""
        return f"{self.data_set}, {episode.channel}" if self._has_channels else self.data_set

    @cached_property
    def _has_channels(self) -> bool:
        return len({e.channel for e in self.episodes}) > 1

    def check(self, contexts: int, kind: EvaluatedKind | None = None, prompts: int = 0) -> None:
        """Raises `DataError` if the list has fewer contexts or prompts, or lacks a kind.

        Masks need no prompts of the list.
        """
        if kind not in (None, "mask", *self.kinds):
            raise DataError(
                f"the episode list of {self.data_set} has no prompts of kind {kind!r}, only "
                f"{', '.join(self.kinds)}; plan a list with it"
            )
        for what, asked, there in (
            ("context images", contexts, self.contexts),
            ("prompts", prompts, self.prompts),
        ):
            if asked > there:
                raise DataError(
                    f"the episode list of {self.data_set} has {there} {what}; {asked} are asked "
                    "for: plan a list with as many"
                )


_LISTS = TypeAdapter(EpisodeList)


def write_list(path: Path, episodes: EpisodeList) -> None:
    """Write a list as JSON, in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = with_digest({"format": _FORMAT, **_plain(episodes)})
    write_whole(path, (json.dumps(content) + "\n").encode())


def read_list(path: Path) -> EpisodeList:
    """A list from its file.

    Raises:
        DataError: it cannot be read, is of another format, or is not as it was written.
    """
    content = read_verified(path, "list of episodes", _FORMAT)
    try:
        return checked(_LISTS, content)
    except DocumentError as error:
        raise DataError(f"{path} is no list of episodes: {error}") from None


def encoded(drawn: dict[PromptKind, Sequence[Prompt]], mixed: Sequence[PromptKind]) -> CasePrompts:
    """Drawn prompts as a list keeps them."""
    return CasePrompts(
        point=tuple(tuple(p) for p in drawn.get("point", ())),
        box=tuple(_ranges(p) for p in drawn.get("box", ())),
        scribble=tuple(p.path for p in drawn.get("scribble", ())),
        box3d=tuple(_ranges(p) for p in drawn.get("box3d", ())),
        mask2d=tuple((p.axis, p.index) for p in drawn.get("mask2d", ())),
        mixed=tuple(mixed),
    )


def decoded(
    prompts: CasePrompts, kind: EvaluatedKind, count: int, mask: Bool[np.ndarray, "X Y Z"]
) -> list[Prompt]:
    """The first `count` prompts of a kind, on the case's own grid; fewer if there are no more.

    `mask` is what the prompts mark, on that grid.
    """
    if kind == "mixed":
        kinds = prompts.mixed[:count]
        each = {k: decoded(prompts, k, kinds.count(k), mask) for k in dict.fromkeys(kinds)}
        return [prompt for found in each.values() for prompt in found]
    if kind == "mask":
        return [mask]
    listed = getattr(prompts, kind)[: 1 if kind in ONCE_PER_IMAGE else count]
    if kind == "point":
        return [Point(*position) for position in listed]
    if kind == "scribble":
        return [Scribble(path) for path in listed]
    if kind == "mask2d":
        return [SliceMask(axis, index, mask.take(index, axis)) for axis, index in listed]
    return [Box(*(tuple(ends) for ends in zip(*ranges, strict=True))) for ranges in listed]


def _plain(episodes: EpisodeList) -> dict[str, Any]:
    return _LISTS.dump_python(episodes, mode="json")


def _ranges(box: Box) -> Ranges:
    x, y, z = zip(box.start, box.stop, strict=True)
    return x, y, z
