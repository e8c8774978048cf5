"""Runs that begin with the weights of another network."""

import pytest
from tiny_runs import assert_equal_networks, parameters, tiny

from wsicl_jax.check.run import check
from wsicl_jax.checkpoint import load_model
from wsicl_jax.config import override_config
from wsicl_jax.errors import CheckpointError, ConfigError
from wsicl_jax.export.export import export
from wsicl_jax.train.loop import train
from wsicl_jax.train.weights import given_parameters


def from_weights(run, weights, *more: str):
    return override_config(tiny(run), [f"train.weights={weights}", *more])


def test_a_run_begins_with_the_weights_of_another_one(whole_run, tmp_path):
    run, model = whole_run
    still = "train.learning_rate=0"
    assert_equal_networks(train(from_weights(tmp_path / "a", run, still)), model)
    file = tmp_path / "weights.safetensors"
    export(run, file, "safetensors")
    assert_equal_networks(train(from_weights(tmp_path / "b", file, still)), model)


def test_a_resumed_run_goes_on_from_its_own_weights_also_when_the_others_are_gone(
    whole_run, tmp_path
):
    file, run = tmp_path / "weights.safetensors", tmp_path / "run"
    export(whole_run[0], file, "safetensors")
    config = from_weights(run, file)
    found = train(config)
    file.unlink()
    assert_equal_networks(train(config, resume=True), found)
    assert_equal_networks(load_model(run), found)
    both = zip(parameters(found), parameters(whole_run[1]), strict=True)
    assert any((x != y).any() for x, y in both)


def test_weights_of_other_channels_are_refused_before_anything_is_written(whole_run, tmp_path):
    config = from_weights(tmp_path / "run", whole_run[0], "model.channels=[2, 6]")
    with pytest.raises(ConfigError, match=r"channels \[.*\], but model.channels is \[2, 6\]"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_missing_are_told_by_training_and_by_its_check(tmp_path):
    config = from_weights(tmp_path / "run", tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*none"):
        train(config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(Exception, match=r"no checkpoint at .*none"):
        check(config, show=lambda _: None, devices=1)


def test_without_weights_they_are_drawn(tmp_path):
    assert given_parameters(tiny(tmp_path / "run")) is None
