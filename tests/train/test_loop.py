"""Training runs: what they leave behind, and that stopping and going on changes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from flax import nnx

from wsicl_jax.checkpoint import load_model, read_metadata
from wsicl_jax.config import config_from_dict, config_to_dict
from wsicl_jax.data.episodes import EpisodeSource
from wsicl_jax.errors import CheckpointError, ConfigError, DataError, TrainingError
from wsicl_jax.train.loop import train

STEPS = 8


def tiny(run: Path, **train_settings):
    return config_from_dict(
        {
            "run": str(run),
            "data": "synthetic",
            "volume": {"grid": [16, 16, 16]},
            "episode": {"contexts": [2, 2]},
            "model": {"channels": [2, 4]},
            "train": {
                "steps": STEPS,
                "batch": 2,
                "warmup_steps": 2,
                "log_every": 2,
                "checkpoint_every": 3,
                **train_settings,
            },
        }
    )


def parameters(model) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(nnx.state(model, nnx.Param))]


def assert_equal_networks(a, b) -> None:
    for x, y in zip(parameters(a), parameters(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run that nobody interrupted: its directory and network."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return run, train(tiny(run))


def test_the_same_configuration_gives_the_same_network(whole_run, tmp_path):
    assert_equal_networks(train(tiny(tmp_path / "again")), whole_run[1])


def test_the_trained_network_is_what_its_last_checkpoint_holds(whole_run):
    run, model = whole_run
    assert_equal_networks(load_model(run), model)
    assert read_metadata(run)["step"] == STEPS


def test_an_earlier_checkpoint_can_be_loaded_by_its_directory(whole_run):
    run, model = whole_run
    earlier = load_model(run / "checkpoints" / "6")
    assert any((x != y).any() for x, y in zip(parameters(earlier), parameters(model), strict=True))


def test_only_the_newest_checkpoints_are_kept(whole_run):
    kept = {entry.name for entry in (whole_run[0] / "checkpoints").iterdir()}
    assert kept == {"6", "8"}


def test_training_moves_the_loss_and_logs_it_with_speed_and_learning_rate(whole_run):
    lines = [json.loads(line) for line in (whole_run[0] / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    for line in lines:
        assert {"loss", "gradient_norm", "learning_rate", "steps_per_second"} <= set(line)
        assert all(np.isfinite(value) for value in line.values())
    assert list((whole_run[0] / "tensorboard").iterdir())


def test_the_resolved_configuration_is_saved_with_the_run(whole_run):
    run, _ = whole_run
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved == config_to_dict(tiny(run))
    assert config_from_dict(saved) == tiny(run)


def test_a_killed_run_goes_on_to_the_same_network_bit_for_bit(whole_run, tmp_path):
    run = tmp_path / "killed"
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(config_to_dict(tiny(run))))
    process = subprocess.Popen(
        [sys.executable, "-c", _TRAIN_SLOWLY, str(config)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "3" / "metadata").is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = max(int(d.name) for d in (run / "checkpoints").iterdir() if d.name.isdigit())
    assert newest < STEPS
    assert_equal_networks(train(tiny(run), resume=True), whole_run[1])
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


# The pause after each step leaves time to be killed between two checkpoints.
_TRAIN_SLOWLY = """
import sys, time
from wsicl_jax.config import load_config
from wsicl_jax.train import loop
make_step = loop.make_step
def make_slow_step(*arguments):
    step = make_step(*arguments)
    def slow(*inputs):
        time.sleep(0.5)
        return step(*inputs)
    return slow
loop.make_step = make_slow_step
loop.train(load_config(sys.argv[1]))
"""


def test_resuming_a_finished_run_changes_nothing(whole_run):
    run, model = whole_run
    before = (run / "log.jsonl").read_text()
    assert_equal_networks(train(tiny(run), resume=True), model)
    assert (run / "log.jsonl").read_text() == before


def test_a_run_is_not_started_over_without_being_asked(whole_run):
    with pytest.raises(ConfigError, match="--resume"):
        train(tiny(whole_run[0]))


def test_resuming_with_other_settings_names_them(whole_run):
    with pytest.raises(ConfigError, match=r"train\.learning_rate"):
        train(tiny(whole_run[0], learning_rate=0.5), resume=True)


def test_resuming_may_change_what_does_not_touch_learning(whole_run):
    train(tiny(whole_run[0], log_every=1, keep_checkpoints=5), resume=True)


def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path):
    run = tmp_path / "run"
    train(tiny(run, steps=2))
    for file in (run / "checkpoints" / "2" / "parameters").rglob("*"):
        if file.is_file() and file.stat().st_size > 200:
            file.write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="run"):
        load_model(run)


def test_the_evaluator_is_called_on_time_and_its_scores_are_logged(tmp_path):
    calls = []

    def evaluate(model):
        calls.append(model)
        return {"dice": 0.5}

    run = tmp_path / "run"
    train(tiny(run, evaluate_every=3), evaluate=evaluate)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "dice" in line] == [3, 6, 8]
    assert len(calls) == 3


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoints(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match="step"):
        train(tiny(run, learning_rate=1e18, checkpoint_every=1, clip_norm=0.0))
    kept = load_model(run)
    assert all(np.isfinite(x).all() for x in parameters(kept))


def test_a_log_whose_last_line_was_cut_off_does_not_stop_a_run(whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run[0], run)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')
    train(tiny(run), resume=True)
    assert (run / "log.jsonl").read_text() == (whole_run[0] / "log.jsonl").read_text()


def test_a_run_is_bound_to_its_cases(tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(tiny(run, steps=2))
    monkeypatch.setattr(EpisodeSource, "fingerprint", [1])
    with pytest.raises(DataError, match="changed"):
        train(tiny(run, steps=2), resume=True)


def test_checkpoints_without_their_configuration_are_not_resumed(whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run[0], run)
    (run / "config.yaml").unlink()
    for resume, message in ((False, "--resume"), (True, "config.yaml")):
        with pytest.raises(ConfigError, match=message):
            train(tiny(run), resume=resume)


def test_a_start_that_saved_nothing_may_be_made_again(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 7\n")
    train(tiny(run, steps=2))
