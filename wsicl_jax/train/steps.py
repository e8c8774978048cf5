"""Reads what each step of a training measured, and writes it to the log."""

from collections.abc import Mapping
from typing import Any

import jax

from wsicl_jax.data.episodes.sampling import EpisodeSource
from wsicl_jax.errors import TrainingError
from wsicl_jax.terminal.progress import Tracker
from wsicl_jax.train.log import RunLog
from wsicl_jax.train.meter import Meter, worst_structures
from wsicl_jax.train.step import Metrics
from wsicl_jax.train.stop import Stop


class Steps:
    """Reads the metrics of each step after the next one was dispatched.

    So the devices never wait for the host. All processes read the same numbers with the same
    delay, and come to the same decisions after the same step.
    """

    def __init__(
        self,
        episodes: EpisodeSource,
        meter: Meter,
        log: RunLog,
        bar: Tracker,
        done: int,
    ):
        self.meter = meter
        self.completed = done
        """The last step that is part of the state."""
        self._episodes, self._settings = episodes, episodes.config.train
        self._log, self._bar = log, bar
        several = len(set(episodes.structures)) > 1
        self._structure_names = episodes.structures if several else []
        self._pending: tuple[int, Metrics, int, float] | None = None

    def add(self, step: int, metrics: Metrics, contexts: int, seconds_waiting: float) -> Stop:
        """Add a dispatched step; returns the reason to stop of the step before it."""
        stopping = self.settle()
        self._pending = step, metrics, contexts, seconds_waiting
        return stopping

    def settle(self) -> Stop:
        """Wait for the last added step; returns its reason to stop.

        Raises:
            TrainingError: too many updates in a row were skipped.
        """
        if self._pending is None:
            return Stop.NO
        (step, on_devices, contexts, waiting), self._pending = self._pending, None
        metrics = jax.device_get(on_devices)
        stopping = Stop(int(metrics["stop"]))
        if stopping >= Stop.NO_DATA:
            return stopping
        self.completed = step
        self.meter.add(
            metrics,
            contexts=contexts,
            seconds_waiting=waiting,
            data_sets=self._data_sets(step),
            structures=self._structures(metrics),
        )
        if step == self._settings.steps or is_due(step, self._settings.log_every):
            values = self.meter.entry()
            self._log.write(step, values)
            self._bar.status(f"loss {values['loss']:.4f}" if "loss" in values else "no update")
        is_saved = step == self._settings.steps or is_due(step, self._settings.checkpoint_every)
        if is_saved and (by_structure := self.meter.structures_entry()):
            self._log.write(step, by_structure)
            self._bar.note(f"step {step}, highest losses: {worst_structures(by_structure)}")
        in_row = int(metrics["skipped_in_row"])
        if in_row > self._settings.max_skipped:
            clip = "lower train.clip_norm" if self._settings.clip_norm else "set train.clip_norm=1"
            raise TrainingError(
                f"the updates of {in_row} steps in a row, up to step {step}, were skipped, because "
                f"loss (now {metrics['loss']:g}) or gradient was not finite; the checkpoints are "
                f"kept: lower train.learning_rate, {clip}, or check the data"
            )
        return stopping

    def _data_sets(self, step: int) -> list[str]:
        """The data set of each episode of a step, if there are several."""
        if len(self._episodes.names) < 2:
            return []
        batch = self._settings.batch
        return [self._episodes.data_set_of(i) for i in range(batch * (step - 1), batch * step)]

    def _structures(self, metrics: Mapping[str, Any]) -> list[list[str]]:
        """The structures of each episode of a step, if there are several."""
        if not (names := self._structure_names):
            return []
        return [list({names[i]: None for i in row if i >= 0}) for row in metrics["structures"]]


def is_due(step: int, every: int) -> bool:
    """Whether something is due at a step; never if `every` is 0."""
    return every > 0 and step % every == 0
