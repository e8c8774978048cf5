"""The file of an episode list: targets, contexts and prompts, the same for every model.

Prompts are voxels of each case's own grid, so nothing depends on a network's working grid. A case
carries the same prompts in every episode, as if a person had annotated it once. A smaller context
set is the first contexts of a larger one; fewer prompts are the first prompts.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
from wsicl_jax.storage.object_path import Place

_FORMAT = 1
_RULES = ConfigDict(extra="forbid")

Position = tuple[float, float, float]
Ranges = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class CasePrompts:
    """The prompts of one structure in one case: for each kind, in a fixed order.

    A mask prompt is the structure itself and needs no entry.
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
    """Kinds of mixed prompts in order; each is the next prompt of its kind."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A structure to segment, and its prompts in every context case."""

    __pydantic_config__ = _RULES

    labels: tuple[int, ...]
    """Labels that it unites."""
    marked: tuple[int, ...]
    """Labels that the prompts mark; others than `labels` where wrong prompts are an experiment."""
    prompts: dict[str, CasePrompts]
    """By the name of the case; empty until prompts are drawn."""


@dataclass(frozen=True, kw_only=True)
class ListedEpisode:
    """A target and its context set."""

    __pydantic_config__ = _RULES

    name: str
    structure: str
    channel: str
    """Name of the channel (modality) of all its images."""
    target: str
    subject: str
    """Subject of the target."""
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
    """Digest of each case that an episode uses."""
    structures: dict[str, Structure]
    episodes: tuple[ListedEpisode, ...]
    contexts: int
    """Context images of every episode."""
    prompts: int
    """Prompts of each kind on every context image; a small structure may have fewer."""
    kinds: tuple[EvaluatedKind, ...]
    """Kinds of prompts in the list."""
    seed: int
    part: str
    jitter: float
    cohorts: dict[str, Any] = field(default_factory=dict)
    """Of synthetic cohorts, `Cohorts.to_json`."""

    @cached_property
    def digest(self) -> str:
        """Digest of the whole list, except the path of the store."""
        content = {k: v for k, v in _plain(self).items() if k != "store"}
        return digest_of(content)

    def title(self, episode: ListedEpisode) -> str:
        """Data set name in an episode's score; it ends with the channel if there are several."""
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
        for noun, requested, listed in (
            ("context images", contexts, self.contexts),
            ("prompts", prompts, self.prompts),
        ):
            if requested > listed:
                raise DataError(
                    f"the episode list of {self.data_set} has {listed} {noun}, but {requested} are "
                    "requested: plan a list with as many"
                )


_LISTS = TypeAdapter(EpisodeList)


def write_list(path: Place, episodes: EpisodeList) -> None:
    """Write a list as JSON, in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = with_digest({"format": _FORMAT, **_plain(episodes)})
    write_whole(path, (json.dumps(content) + "\n").encode())


def read_list(path: Place) -> EpisodeList:
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
    """Prompts in the form that a list stores."""
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

    `mask` is the structure that the prompts mark, on that grid.
    """
    if kind == "mixed":
        kinds = prompts.mixed[:count]
        each = {k: decoded(prompts, k, kinds.count(k), mask) for k in dict.fromkeys(kinds)}
        return [prompt for of_kind in each.values() for prompt in of_kind]
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
