"""Other services show what the log has; none of them can end a run."""

import io
import json
import time
import warnings

import pytest
from PIL import Image

from wsicl_jax.errors import ConfigError
from wsicl_jax.train import trackers
from wsicl_jax.train.log import RunLog
from wsicl_jax.train.trackers import Trackers, check_trackers

FACTS = {"version": "0.1", "data": "digest"}


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(file, "png")
    return file.getvalue()


PNG = _png()


def track(run, names, *steps: int, done: int = 0) -> None:
    """A start of a run that logs these steps; the loss is ten times the step."""
    with (
        Trackers(run, names, {"train": {"steps": 9}}, FACTS) as opened,
        RunLog(run, done, leader=True, trackers=opened) as log,
    ):
        for step in steps:
            log.write(step, {"loss": 10.0 * step, "loss_of/a": 1.0}, {"pictures/a (1)": PNG})


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/server")
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_mlflow_has_the_entries_of_a_resumed_run_in_one_run(run):
    mlflow = pytest.importorskip("mlflow")
    track(run, ["mlflow"], 1, 2)
    track(run, ["mlflow"], 2, 3, done=2)  # the entry of step 2 is there already
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(trackers.PROJECT)
    (tracked,) = client.search_runs([experiment.experiment_id])
    entries = client.get_metric_history(tracked.info.run_id, "loss")
    assert sorted((entry.step, entry.value) for entry in entries) == [(1, 10), (2, 20), (3, 30)]
    assert tracked.data.tags.items() >= FACTS.items()
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params == {"train.steps": "9"}
    paths = [file.path for file in client.list_artifacts(tracked.info.run_id)]
    assert paths == ["config.yaml", "images"]
    images = [file.path for file in client.list_artifacts(tracked.info.run_id, "images")]
    whole = [path for path in images if path.endswith(".png")]
    assert sorted(path.partition("+timestamp")[0] for path in whole) == [
        f"images/pictures~a _1_+step+{step}" for step in (1, 2, 3)
    ]


def test_mlflow_gets_more_entries_than_it_takes_at_once_whatever_their_names(run):
    mlflow = pytest.importorskip("mlflow")
    names = [f"loss_of/{n} (left, T1=2)" for n in range(1001)]
    with Trackers(run, ["mlflow"], {}, FACTS) as opened:
        opened.write(1, dict.fromkeys(names, 0.5))
    known = json.loads((run / "trackers.json").read_text())["mlflow"]
    assert len(mlflow.MlflowClient().get_run(known).data.metrics) == len(names)


@pytest.mark.slow  # wandb starts a process of its own
def test_wandb_writes_the_entries_offline_under_one_id(run):
    pytest.importorskip("wandb")
    with warnings.catch_warnings(action="error"):
        for start in (1, 2):
            track(run, ["wandb"], start, done=start - 1)
    written = list((run / "wandb").glob("offline-run-*/*.wandb"))
    known = json.loads((run / "trackers.json").read_text())["wandb"]
    assert {file.stem for file in written} == {f"run-{known}"}
    assert len(list((run / "wandb").glob("offline-run-*/files/media/images/**/*.png"))) == 2
    deadline = time.monotonic() + 30  # another process writes them
    while not all(b"loss_of/a" in file.read_bytes() for file in written):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_tracker_that_fails_is_told_once_and_left_out(run, monkeypatch):
    class Broken:
        id = "1"

        def __init__(self, *_):
            pass

        def write(self, step, values, pictures):
            raise ConnectionError("no route to host")

        def close(self, *, has_failed):
            pytest.fail("it is left out")

    monkeypatch.setitem(trackers._KINDS, "wandb", Broken)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        track(run, ["wandb"], 1, 2)
    (message,) = [str(one.message) for one in told if "trackers" in str(one.message)]
    assert "wandb (train.trackers) failed" in message and "no route to host" in message
    assert (run / "log.jsonl").read_text().count("\n") == 2


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'wsicl_jax\[mlflow\]'"):
        check_trackers(["mlflow"])
    check_trackers([])
