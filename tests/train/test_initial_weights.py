"""Runs that begin with the weights of another network."""

import pytest
from tiny_runs import assert_equal_networks, parameters, tiny

from wsicl_jax.config import override_config
from wsicl_jax.data.seen import Seen, SeenDataSet
from wsicl_jax.errors import CheckpointError, ConfigError
from wsicl_jax.tools.check.check import check
from wsicl_jax.train.binding import seen_by
from wsicl_jax.train.initial_weights import initial_parameters
from wsicl_jax.train.loop import train
from wsicl_jax.weights.export.export import export
from wsicl_jax.weights.file_loading import import_weights
from wsicl_jax.weights.network_checkpoint import load_checkpoint
from wsicl_jax.weights.networks import find_network


def from_weights(run, weights, *more: str):
    return override_config(tiny(run), [f"train.initial_weights={weights}", *more])


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
    assert_equal_networks(load_checkpoint(run), found)
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
    assert initial_parameters(tiny(tmp_path / "run")) is None


def test_a_run_has_seen_what_the_network_it_began_with_had(whole_run, tmp_path):
    own = seen_by(find_network(whole_run[0]))
    assert [(one.name, one.use) for one in own.data_sets] == [("synthetic", "training")]
    assert not own.unknown
    file, run = tmp_path / "weights.safetensors", tmp_path / "run"
    before = own + Seen((SeenDataSet("liver", "training", 1, ("abc",)),))
    export(whole_run[0], file, "safetensors", seen=before)
    assert seen_by(find_network(file)) == before
    train(from_weights(run, file, "train.steps=1"))
    file.unlink()
    assert seen_by(find_network(run)) == before


def test_what_a_file_without_a_record_has_seen_is_not_known(whole_run, tmp_path):
    file, run = tmp_path / "weights.safetensors", tmp_path / "run"
    export(whole_run[0], file, "safetensors")
    train(from_weights(run, file, "train.steps=1"))
    assert seen_by(find_network(run)).unknown == ("weights.safetensors",)


def test_an_imported_network_keeps_the_record(whole_run, tmp_path):
    file = tmp_path / "weights.safetensors"
    export(whole_run[0], file, "safetensors", seen=seen_by(find_network(whole_run[0])))
    import_weights(file, tmp_path / "imported")
    assert seen_by(find_network(tmp_path / "imported")) == seen_by(find_network(whole_run[0]))
