"""Weights & Biases and MLflow, which show a run beside its own log (`train.trackers`)."""

import importlib.util
import io
import json
import os
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from wsicl_jax.errors import ConfigError, reason
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.documents import DocumentError, parse_json, read_file

if TYPE_CHECKING:
    from PIL.Image import Image

PROJECT = "wsicl"
"""Project or experiment, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names one."""

_IDS = "trackers.json"
"""File in a run with its id in each tracker, so that a resumed run continues there."""

_METRICS_AT_ONCE, _PARAMETERS_AT_ONCE = 1000, 100
_LONGEST_NAME, _LONGEST_PARAMETER = 250, 6000
"""Limits of MLflow."""


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

    def write(
        self, step: int, values: Mapping[str, int | float], pictures: Mapping[str, bytes]
    ) -> None: ...

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

    def write(
        self, step: int, values: Mapping[str, int | float], pictures: Mapping[str, bytes]
    ) -> None:
        from wandb import Image

        images = {name: Image(_opened(png)) for name, png in pictures.items()}
        self._run.log({**values, **images}, step=step)

    def close(self, *, has_failed: bool) -> None:
        self._run.finish(exit_code=int(has_failed))


class MLflow:
    """MLflow, at MLFLOW_TRACKING_URI."""

    def __init__(
        self, run: Path, settings: Mapping[str, Any], facts: Mapping[str, str], known: str | None
    ):
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(), Metric
        if known is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            number = (
                experiment.experiment_id if experiment else self._client.create_experiment(name)
            )
            known = self._client.create_run(number, run_name=run.name).info.run_id
            # Of the first start: MLflow never changes a parameter, but `config.yaml`.
            parameters = [Param(name, value) for name, value in _parameters(settings)]
            for some in _batches(parameters, _PARAMETERS_AT_ONCE):
                self._client.log_batch(known, params=some)
        self.id = known
        self._client.update_run(self.id, status="RUNNING")
        for name, value in facts.items():
            self._client.set_tag(self.id, name, value)
        self._client.log_dict(self.id, dict(settings), "config.yaml")

    def write(
        self, step: int, values: Mapping[str, int | float], pictures: Mapping[str, bytes]
    ) -> None:
        # Time 0, so that a step that is written again after a resume is the same entry.
        metrics = [self._metric(_plain(name), float(v), 0, step) for name, v in values.items()]
        for some in _batches(metrics, _METRICS_AT_ONCE):
            self._client.log_batch(self.id, metrics=some)
        for name, png in pictures.items():
            self._client.log_image(self.id, _opened(png), key=_plain(name), step=step)

    def close(self, *, has_failed: bool) -> None:
        self._client.set_terminated(self.id, "FAILED" if has_failed else "FINISHED")


_KINDS: Mapping[str, type[Tracker]] = {"wandb": WandB, "mlflow": MLflow}


def _parameters(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The settings as texts, each of a section by its own name."""
    for section, value in settings.items():
        parts = value if isinstance(value, Mapping) else {"": value}
        for name, part in parts.items():
            yield f"{section}.{name}".rstrip("."), str(part)[:_LONGEST_PARAMETER]


def _batches(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(entries), size):
        yield entries[first : first + size]


def _plain(name: str) -> str:
    """A name with only the characters that MLflow allows for everything, and not too long."""
    return re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", name)[:_LONGEST_NAME]


def _opened(png: bytes) -> "Image":
    from PIL import Image

    return Image.open(io.BytesIO(png))


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

    def write(
        self,
        step: int,
        values: Mapping[str, int | float],
        pictures: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Add the values of a step, and PNG files by name, to all of them."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.write(step, values, pictures)
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
