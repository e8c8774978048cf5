"""Pictures of validation cases, by which one follows a training."""

from collections.abc import Sequence
from typing import TypeVar

from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.evaluate.planning import Planned
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.records import Score
from wsicl_jax.prompts import ONCE_PER_IMAGE
from wsicl_jax.report.case_pictures import PicturedTarget, case_figure
from wsicl_jax.report.replay import ReplayedCase, replayed
from wsicl_jax.report.style import drawn
from wsicl_jax.storage.safe_names import in_figure

Entry = TypeVar("Entry")

_DPI = 110


def validation_pictures(
    network: Predictor, planned: Sequence[Planned], scores: Sequence[Score], count: int
) -> dict[str, bytes]:
    """PNG files by name of some of the cases that `scores` are of, the same at every evaluation.

    At most `count` episodes, spread over data sets and structures, each with the most prompts and
    context images that it was scored with. Collective, if the network is on devices of several
    processes; only the leading one draws.

    Raises:
        DataError: a case cannot be read.
    """
    pictures = {}
    for data, score in _chosen(planned, scores, count):
        case = replayed(network, data, score)
        if is_leader():
            name = f"pictures/{score.data_set}/{score.episode}"
            pictures[name] = _png(name, case)
    return pictures


def _chosen(
    planned: Sequence[Planned], scores: Sequence[Score], count: int
) -> list[tuple[Planned, Score]]:
    """Lists and scores: as many of each list as of the others, and those far apart within it."""
    best: dict[tuple[str, str], Score] = {}
    for score in scores:
        if score.protocol == "in_context":
            key = score.data_set, score.episode
            first = best.setdefault(key, score)
            if score.kind == first.kind and _size(score) > _size(first):
                best[key] = score
    by_list = []
    for data in planned:
        listed = data.episodes
        keys = [(listed.title(episode), episode.name) for episode in listed.episodes]
        by_list.append([(data, best[key]) for key in keys if key in best])
    lists = _spread(list(filter(None, by_list)), count)
    shares = [count // len(lists) + (i < count % len(lists)) for i in range(len(lists))]
    return [
        chosen for of_list, n in zip(lists, shares, strict=True) for chosen in _spread(of_list, n)
    ]


def _size(score: Score) -> tuple[int, int]:
    return score.contexts, score.prompts


def _spread(entries: list[Entry], count: int) -> list[Entry]:
    """At most `count` of the entries, at equal distances."""
    count = min(count, len(entries))
    return [entries[i * len(entries) // count] for i in range(count)]


def _png(name: str, replay: ReplayedCase) -> bytes:
    score = replay.score
    prompts = score.kind if score.kind in ONCE_PER_IMAGE else f"{score.prompts} x {score.kind}"
    images = "1 context image" if score.contexts == 1 else f"{score.contexts} context images"
    structure, case, data_set = map(in_figure, (score.structure, score.target, score.data_set))
    headline = f"{structure} in {case} of {data_set}, {images} with {prompts}"
    target = PicturedTarget("median", score, (replay,), 1)
    return drawn(name, lambda: case_figure(target, headline), picture=True, dpi=_DPI).png
