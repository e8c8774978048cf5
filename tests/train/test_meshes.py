"""Runs on 8 simulated devices: the losses of one device, and checkpoints for any mesh."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import learning, parameters, saved_steps, tiny

from wsicl_jax.config import override_config
from wsicl_jax.train.loop import train
from wsicl_jax.weights.network_checkpoint import load_checkpoint

_ALL_AXES = ["parallel.context=2", "parallel.space=2", "parallel.shard_parameters=true"]

_TRAIN_ON_EIGHT = """
import sys, jax
from wsicl_jax.config import load_config
from wsicl_jax.train.loop import train
assert jax.device_count() == 8
train(load_config(sys.argv[1], sys.argv[2:]), resume=True)
"""


def train_on_eight(run: Path, config: Path, *overrides: str) -> None:
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", _TRAIN_ON_EIGHT, str(config), f"run={run}", *overrides],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def assert_equal_results(run: Path, other: Path) -> None:
    """The same losses, and a network that is the same but for rounding."""
    for a, b in zip(learning(run), learning(other), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for a, b in zip(
        parameters(load_checkpoint(run)), parameters(load_checkpoint(other)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def run_on_eight(whole_run, tmp_path_factory):
    run = tmp_path_factory.mktemp("eight") / "run"
    train_on_eight(run, whole_run[0] / "config.yaml", *_ALL_AXES)
    return run


def without_its_last_checkpoint(run: Path, at: Path) -> Path:
    shutil.copytree(run, at)
    shutil.rmtree(at / "checkpoints" / str(saved_steps(at)[-1]))
    return at


def test_a_run_over_data_context_and_space_learns_as_on_one_device(whole_run, run_on_eight):
    assert_equal_results(run_on_eight, whole_run[0])


def test_a_checkpoint_of_many_devices_goes_on_with_one(whole_run, run_on_eight, tmp_path):
    run = without_its_last_checkpoint(run_on_eight, tmp_path / "run")
    train(tiny(run), resume=True)
    assert_equal_results(run, whole_run[0])


@pytest.mark.slow
def test_a_run_by_muon_with_cut_kernels_learns_as_on_one_device(tmp_path):
    config = tiny(tmp_path / "one", optimizer="muon")
    train(config)
    train_on_eight(tmp_path / "eight", tmp_path / "one" / "config.yaml", *_ALL_AXES)
    assert_equal_results(tmp_path / "eight", tmp_path / "one")


@pytest.mark.slow
def test_a_checkpoint_of_one_device_goes_on_with_many(whole_run, tmp_path):
    run = without_its_last_checkpoint(whole_run[0], tmp_path / "run")
    train_on_eight(run, run / "config.yaml", "parallel.data=1", "parallel.space=-1")
    assert_equal_results(run, whole_run[0])


@pytest.mark.slow
def test_a_run_that_accumulates_on_many_devices_learns_as_on_one_at_once(whole_run, tmp_path):
    sizes = ["parallel.data=1", "parallel.context=2", "parallel.space=4"]
    config = whole_run[0] / "config.yaml"
    train_on_eight(tmp_path / "run", config, "train.accumulate=2", *sizes)
    assert_equal_results(tmp_path / "run", whole_run[0])


@pytest.mark.slow
def test_filled_context_sets_learn_as_unfilled_ones(whole_run, tmp_path):
    run = tmp_path / "run"
    train(override_config(tiny(run), ["episode.context_multiple=3"]))
    assert_equal_results(run, whole_run[0])
