"""Means and speeds over the steps between two log entries."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

MEASURED = (
    "seconds_per_step",
    "seconds_waiting_for_data",
    "volumes_per_second",
    "flops_per_second",
    "peak_share",
)
"""Values of an entry that depend on the machine and its load; all others are reproducible."""

EPISODES_OF, LOSS_OF = "episodes_of/", "loss_of/"
"""Beginnings of the names of values by data set and by structure."""

_BY_STRUCTURE = "by_structure/"
"""Beginning of the names of sums by structure in `Meter.unlogged`."""


class Meter:
    """Accumulates steps until `entry` is called, and structures until `structures_entry` is.

    `cost(contexts)` is the number of floating-point operations of a step of `batch` episodes with
    so many context images. `peak` is the operations per second of all devices together, None if
    unknown. `unlogged` is the state of the meter of a resumed run.
    """

    def __init__(
        self,
        cost: Callable[[int], float],
        *,
        batch: int,
        peak: float | None,
        unlogged: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._cost, self._batch, self._peak, self._clock = cost, batch, peak, clock
        self._restart()
        self._by_structure: dict[str, float] = {}
        for name, value in (unlogged or {}).items():
            if name.startswith(_BY_STRUCTURE):
                self._by_structure[name.removeprefix(_BY_STRUCTURE)] = value
            else:
                self._sums[name] = value

    @property
    def unlogged(self) -> dict[str, float]:
        """Sums over the steps since the last entries, to continue from after a restart."""
        by_structure = {_BY_STRUCTURE + name: value for name, value in self._by_structure.items()}
        return self._sums | by_structure

    def add(
        self,
        metrics: Mapping[str, Any],
        *,
        contexts: int,
        seconds_waiting: float,
        data_sets: Sequence[str] = (),
        structures: Sequence[Sequence[str]] = (),
    ) -> None:
        """Add a step: its metrics, number of context images, and seconds waiting for data.

        `data_sets` and `structures` are those of its episodes, whose `losses` are then among the
        metrics.
        """
        self._sums["steps"] += 1
        self._sums["contexts"] += contexts
        if metrics["skipped_in_row"] == 0:
            self._sums["updates"] += 1
            for name in ("loss", "gradient_norm"):
                self._sums[name] += float(metrics[name])
            for number, data_set in enumerate(data_sets):
                _add(self._sums, data_set, float(metrics["losses"][number]))
            for number, names in enumerate(structures):
                for name in names:
                    _add(self._by_structure, name, float(metrics["losses"][number]))
        self._latest = {
            "learning_rate": float(metrics["learning_rate"]),
            "skipped": int(metrics["skipped"]),
        }
        self._steps += 1
        self._waiting += seconds_waiting
        self._volumes += self._batch * (contexts + 1)
        self._flops += self._cost(contexts)

    def entry(self) -> dict[str, float]:
        """Means since the last entry, the latest learning rate and counts, and speeds.

        Loss and gradient norm are means over the updates made, and absent without any. With
        several data sets, each has the number of its episodes and their mean loss.
        """
        sums, seconds = self._sums, self._clock() - self._start
        means = {
            name: sums[name] / sums["updates"]
            for name in ("loss", "gradient_norm")
            if sums["updates"]
        }
        means |= _means(sums)
        values = {**means, **self._latest, "contexts": sums["contexts"] / sums["steps"]}
        speeds = (
            seconds / self._steps,
            self._waiting / self._steps,
            self._volumes / seconds,
            self._flops / seconds,
        )
        values |= dict(zip(MEASURED, speeds, strict=False))
        if self._peak:
            values["peak_share"] = values["flops_per_second"] / self._peak
        self._restart()
        return values

    def structures_entry(self) -> dict[str, float]:
        """The number of episodes of each structure since the last call, and their mean loss.

        The structure with the highest loss comes first. An episode that unites several structures
        counts for each.
        """
        means = _means(self._by_structure)
        self._by_structure = {}
        losses = {name: loss for name, loss in means.items() if name.startswith(LOSS_OF)}
        ordered: dict[str, float] = {}
        for name in sorted(losses, key=lambda name: (-losses[name], name)):
            episodes = EPISODES_OF + name.removeprefix(LOSS_OF)
            ordered |= {name: means[name], episodes: means[episodes]}
        return ordered

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time in the block from the speeds."""
        start = self._clock()
        yield
        self._start += self._clock() - start

    def _restart(self) -> None:
        self._sums = dict.fromkeys(("steps", "updates", "contexts", "loss", "gradient_norm"), 0.0)
        self._steps, self._waiting, self._volumes, self._flops = 0, 0.0, 0, 0.0
        self._start = self._clock()


def worst_structures(entry: Mapping[str, int | float], count: int = 3) -> str:
    """The structures with the highest losses in an entry of the log, in words."""
    names = [name.removeprefix(LOSS_OF) for name in entry if name.startswith(LOSS_OF)]
    names.sort(key=lambda name: -entry[LOSS_OF + name])
    return ", ".join(
        f"{name} {entry[LOSS_OF + name]:.4g} ({entry[EPISODES_OF + name]:.0f} episodes)"
        for name in names[:count]
    )


def _add(sums: dict[str, float], name: str, loss: float) -> None:
    for beginning, value in ((EPISODES_OF, 1.0), (LOSS_OF, loss)):
        sums[beginning + name] = sums.get(beginning + name, 0.0) + value


def _means(sums: Mapping[str, float]) -> dict[str, float]:
    """Number of episodes and mean loss of each data set or structure in some sums."""
    means = {}
    for name, count in sums.items():
        if name.startswith(EPISODES_OF):
            loss = LOSS_OF + name.removeprefix(EPISODES_OF)
            means |= {name: count, loss: sums[loss] / count}
    return means
