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

_EPISODES, _LOSS = "episodes_of/", "loss_of/"
"""Beginnings of the names of values by data set."""


class Meter:
    """Accumulates steps until `entry` is called.

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
        self._sums |= unlogged or {}

    @property
    def unlogged(self) -> dict[str, float]:
        """Sums over the steps since the last entry, to continue from after a restart."""
        return dict(self._sums)

    def add(
        self,
        metrics: Mapping[str, Any],
        *,
        contexts: int,
        seconds_waiting: float,
        data_sets: Sequence[str] = (),
    ) -> None:
        """Add a step: its metrics, number of context images, and seconds waiting for data.

        `data_sets` are those of its episodes, whose `losses` are then among the metrics.
        """
        self._sums["steps"] += 1
        self._sums["contexts"] += contexts
        if metrics["skipped_in_row"] == 0:
            self._sums["updates"] += 1
            for name in ("loss", "gradient_norm"):
                self._sums[name] += float(metrics[name])
            for data_set, loss in zip(data_sets, metrics.get("losses", ()), strict=True):
                for name, value in ((_EPISODES, 1.0), (_LOSS, float(loss))):
                    self._sums[name + data_set] = self._sums.get(name + data_set, 0.0) + value
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
        for name, count in sums.items():
            if name.startswith(_EPISODES):
                data_set = name.removeprefix(_EPISODES)
                means |= {name: count, _LOSS + data_set: sums[_LOSS + data_set] / count}
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
