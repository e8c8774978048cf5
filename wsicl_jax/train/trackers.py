"""Weights & Biases and MLflow, which show a run beside its own log (`train.trackers`)."""

import importlib.util
import json
import os
import uuid
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from wsicl_jax.errors import ConfigError, reason
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.documents import DocumentError, parse_json, read_file

PROJECT = "wsicl"
"""Project or experiment, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names one."""

_IDS = "trackers.json"
"""File in a run with its id in each tracker, so that a resumed run continues there."""


def check_trackers(names: Sequence[str]) -> None:
    """Raises: ConfigError: the package of a tracker is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"train.trackers has {name}, which is not installed; pip install "
                f"'wsicl_jax[{name}]', or remove it"
            )


class Tracker(Protocol):
    """One service; any method may raise what its library raises."""

    id: str
    """Of the run, within the service."""

    def __init__(
        self, run: Path, settings: Mapping[str, Any], facts: Mapping[str, str], known: str | None
    ): ...

    def write(self, step: int, values: Mapping[str, int | float]) -> None: ...

    def close(self, *, has_failed: bool) -> None: ...


class WandB:
    """Weights & Biases; WANDB_MODE=offline writes to RUN/wandb for `wandb sync`."""

    def __init__(
        self, run: Path, settings: Mapping[str, Any], facts: Mapping[str, str], known: str | None
    ):
        import wandb

        self.id = known or uuid.uuid4().hex[:16]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.id,
            resume="allow",
            name=run.name,
            dir=run,
            config={**settings, **facts},
            allow_val_change=True,
            settings=wandb.Settings(silent=True, console="off"),
        )

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, *, has_failed: bool) -> None:
        self._run.finish(exit_code=int(has_failed))


class MLflow:
    """MLflow, at MLFLOW_TRACKING_URI."""

    def __init__(
        self, run: Path, settings: Mapping[str, Any], facts: Mapping[str, str], known: str | None
    ):
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._client, self._metric = MlflowClient(), Metric
        if known is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            number = (
                experiment.experiment_id if experiment else self._client.create_experiment(name)
            )
            known = self._client.create_run(number, run_name=run.name).info.run_id
        self.id = known
        self._client.update_run(self.id, status="RUNNING")
        for name, value in facts.items():
            self._client.set_tag(self.id, name, value)
        self._client.log_dict(self.id, dict(settings), "config.yaml")

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        # Time 0, so that a step that is written again after a resume is the same entry.
        metrics = [self._metric(name, float(v), 0, step) for name, v in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self, *, has_failed: bool) -> None:
        self._client.set_terminated(self.id, "FAILED" if has_failed else "FINISHED")


_KINDS: Mapping[str, type[Tracker]] = {"wandb": WandB, "mlflow": MLflow}


class Trackers(AbstractContextManager):
    """The trackers of a run; with no names, or in other processes than the leader, none.

    `facts` are texts such as the version of the code. A tracker that fails is left out with a
    warning: it must not end a training.
    """

    def __init__(
        self,
        run: Path,
        names: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        facts: Mapping[str, str] | None = None,
    ):
        self._open: dict[str, Tracker] = {}
        if not names:
            return
        ids = _read_ids(run / _IDS)
        for name in names:
            try:
                self._open[name] = _KINDS[name](run, settings or {}, facts or {}, ids.get(name))
            except Exception as error:  # each library raises its own kinds
                self._leave_out(name, error)
        ids |= {name: tracker.id for name, tracker in self._open.items()}
        write_whole(run / _IDS, json.dumps(ids).encode())

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        """Add the values of a step to all of them."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.write(step, values)
            except Exception as error:  # each library raises its own kinds
                self._leave_out(name, error)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for name, tracker in list(self._open.items()):
            try:
                tracker.close(has_failed=kind is not None)
            except Exception as error:  # each library raises its own kinds
                self._leave_out(name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        warnings.warn(
            f"{name} (train.trackers) failed, and this run is not tracked there until it is "
            f"resumed: {reason(error)}",
            stacklevel=3,
        )


def _read_ids(path: Path) -> dict[str, str]:
    try:
        content = parse_json(read_file(path))
    except (OSError, DocumentError):
        return {}
    ids = content.items() if isinstance(content, dict) else ()
    return {name: value for name, value in ids if isinstance(value, str)}
