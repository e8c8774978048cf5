"""Training runs: what they leave behind, and what may be resumed."""

import shutil

import numpy as np
import pytest
import yaml
from tiny_runs import (
    STEPS,
    assert_equal_networks,
    learning,
    parameters,
    read_lines,
    saved_steps,
    tiny,
)

from wsicl_jax.config import config_from_dict, config_to_dict, override_config
from wsicl_jax.errors import ConfigError
from wsicl_jax.storage.checkpoints import read_metadata
from wsicl_jax.train.evaluation import Evaluation
from wsicl_jax.train.loop import train
from wsicl_jax.train.meter import MEASURED
from wsicl_jax.train.run_directory import _has_no_share_of_steps
from wsicl_jax.weights.network_checkpoint import load_checkpoint, model_digest
from wsicl_jax.weights.networks import find_network


def test_the_same_configuration_gives_the_same_network(whole_run, tmp_path):
    assert_equal_networks(train(tiny(tmp_path / "again")), whole_run[1])


def test_the_trained_network_is_what_its_last_checkpoint_holds(whole_run):
    run, model = whole_run
    assert_equal_networks(load_checkpoint(run), model)
    assert read_metadata(run)["step"] == STEPS


def test_an_earlier_checkpoint_can_be_loaded_by_its_directory(whole_run):
    run, model = whole_run
    earlier = load_checkpoint(run / "checkpoints" / "6")
    assert any((x != y).any() for x, y in zip(parameters(earlier), parameters(model), strict=True))


def test_only_the_newest_checkpoints_are_kept(whole_run):
    kept = {entry.name for entry in (whole_run[0] / "checkpoints").iterdir()}
    assert kept == {"6", "8"}


def test_the_log_shows_learning_and_speed(whole_run):
    lines = read_lines(whole_run[0])
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    learning = {"loss", "gradient_norm", "learning_rate", "contexts", "skipped"}
    for line in lines:
        # No machine that the tests run on has a known peak.
        assert learning | {*MEASURED} - {"peak_share"} == set(line) - {"step", "peak_share"}
        assert all(np.isfinite(value) for value in line.values())
        assert line["contexts"] == 2
        volumes_per_step = line["volumes_per_second"] * line["seconds_per_step"]
        assert volumes_per_step == pytest.approx(2 * (2 + 1))
    assert list((whole_run[0] / "tensorboard").iterdir())


def test_the_learning_rate_logged_is_the_one_used(whole_run):
    # Warm-up over 2 steps from 0 to 1e-3; the second step is half way.
    assert read_lines(whole_run[0])[0]["learning_rate"] == pytest.approx(0.5e-3)


def test_the_loss_logged_is_the_mean_since_the_last_entry(whole_run, tmp_path):
    train(tiny(tmp_path / "each", log_every=1))
    each = [line["loss"] for line in read_lines(tmp_path / "each")]
    means = [line["loss"] for line in read_lines(whole_run[0])]
    assert means == pytest.approx(np.reshape(each, (-1, 2)).mean(axis=1))


def test_the_resolved_configuration_is_saved_with_the_run(whole_run):
    run, _ = whole_run
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved == config_to_dict(tiny(run))
    assert config_from_dict(saved) == tiny(run)


def test_resuming_a_finished_run_changes_nothing(whole_run):
    run, model = whole_run
    before = (run / "log.jsonl").read_text()
    assert_equal_networks(train(tiny(run), resume=True), model)
    assert (run / "log.jsonl").read_text() == before


@pytest.fixture(scope="module")
def averaged_run(tmp_path_factory):
    """A run with averaged weights: its directory, to be left as it is, and its network."""
    run = tmp_path_factory.mktemp("averaged") / "run"
    return run, train(tiny(run, ema=0.9))


def test_the_average_changes_no_loss_and_is_what_is_loaded(whole_run, averaged_run):
    run, model = averaged_run
    assert_equal_networks(load_checkpoint(run), model)
    assert find_network(run).digest == model_digest(model, tiny(run))
    fingerprints = read_metadata(run)["fingerprints"]
    assert fingerprints["parameters"] != fingerprints["ema"]
    # Another program: its rounding may differ.
    losses = [[line["loss"] for line in learning(one)] for one in (whole_run[0], run)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_run_with_an_average_goes_on_to_the_same_one_bit_for_bit(averaged_run, tmp_path):
    whole, model = averaged_run
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / str(STEPS))
    assert_equal_networks(train(tiny(run, ema=0.9), resume=True), model)
    fingerprints = [read_metadata(one)["fingerprints"] for one in (run, whole)]
    assert fingerprints[0] == fingerprints[1]


def test_the_network_that_is_evaluated_is_the_averaged_one(averaged_run, tmp_path):
    run, evaluated = tmp_path / "run", []

    def evaluate(model):
        evaluated.append(model)
        return Evaluation({"dice": 0.5})

    train(tiny(run, ema=0.9), evaluate=evaluate)
    assert_equal_networks(evaluated[-1], averaged_run[1])


CONSTANT = {"schedule": "constant"}
DECAYING = {"schedule": "warmup_stable_decay", "decay_steps": 2, "keep_checkpoints": 1}


@pytest.fixture(scope="module")
def decaying_run(tmp_path_factory):
    """A run whose learning rate decays, and its network."""
    run = tmp_path_factory.mktemp("decaying") / "run"
    return run, train(tiny(run, **DECAYING, log_every=1))


def test_a_decay_is_linear_over_the_last_steps(decaying_run):
    rates = [line["learning_rate"] for line in read_lines(decaying_run[0])]
    assert rates == pytest.approx([0, 5e-4, *[1e-3] * 5, 5e-4])


def test_a_run_is_trained_on_from_before_its_decay_bit_for_bit(decaying_run, tmp_path):
    whole, run = decaying_run[0], tmp_path / "run"
    train(tiny(run, **DECAYING, log_every=1, steps=5, checkpoint_every=4))
    assert saved_steps(run) == [3, 5]  # that of step 3, where the decay began, is kept
    # As after a start that was killed before it saved anything.
    config = tiny(run, **DECAYING, log_every=1, steps=8, checkpoint_every=4)
    (run / "config.yaml").write_text(yaml.safe_dump(config_to_dict(config)))
    with pytest.warns(UserWarning, match="trained on from before step 5"):
        assert_equal_networks(train(config, resume=True), decaying_run[1])
    assert learning(run) == learning(whole)
    assert saved_steps(run) == [6, 8]


@pytest.mark.slow
def test_a_constant_run_gets_more_steps_and_a_decay(decaying_run, tmp_path):
    run = tmp_path / "run"
    train(tiny(run, **CONSTANT, steps=6))
    with pytest.raises(ConfigError, match=r"made 6 steps, .* train.steps = 5 .*initial_weights"):
        train(tiny(run, **CONSTANT, steps=5), resume=True)
    assert_equal_networks(train(tiny(run, **DECAYING), resume=True), decaying_run[1])


PLATEAU = {"schedule": "plateau", "evaluate_every": 2, "plateau_patience": 1, "log_every": 1}


def always_the_same(model):
    return Evaluation({"dice": 0.5}, loss=2.0)


@pytest.fixture(scope="module")
def plateau_run(tmp_path_factory):
    """A run whose learning rate is halved, and its network."""
    run = tmp_path_factory.mktemp("plateau") / "run"
    config = tiny(run, **PLATEAU, keep_checkpoints=4)
    return run, train(config, evaluate=always_the_same)


def test_the_learning_rate_is_halved_while_the_validation_loss_does_not_fall(plateau_run):
    rates = [x["learning_rate"] for x in read_lines(plateau_run[0]) if "learning_rate" in x]
    # Evaluated after 2, 4 and 6 steps; that after 2 is the best one.
    assert rates == pytest.approx([0, 5e-4, 1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4])


@pytest.mark.parametrize("was_scored", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_plateau_goes_on_bit_for_bit_wherever_the_run_was_stopped(
    plateau_run, tmp_path, was_scored
):
    run = tmp_path / "run"
    shutil.copytree(plateau_run[0], run)
    for step in (6, 8):
        shutil.rmtree(run / "checkpoints" / str(step))
    if not was_scored:  # stopped during the evaluation
        (run / "checkpoints" / "4" / "score.json").unlink()
    config = tiny(run, **PLATEAU, keep_checkpoints=4)
    assert_equal_networks(train(config, resume=True, evaluate=always_the_same), plateau_run[1])
    assert learning(run) == learning(plateau_run[0])


def test_a_plateau_binds_its_evaluations(plateau_run, tmp_path):
    settings = PLATEAU | {"evaluate_every": 3}
    with pytest.raises(ConfigError, match=r"another train\.evaluate_every"):
        train(tiny(plateau_run[0], **settings), resume=True, evaluate=always_the_same)
    constant = {"schedule": "constant", "evaluate_every": 2}
    with pytest.raises(ConfigError, match=r"made 8 steps, .* schedule = constant does not"):
        train(tiny(plateau_run[0], **constant, plateau_patience=1), resume=True)
    with pytest.raises(ConfigError, match="needs validation cases"):
        train(tiny(tmp_path / "run", **PLATEAU))
    with pytest.raises(ConfigError, match=r"train\.evaluate_every"):
        tiny(tmp_path, schedule="plateau")


def test_what_a_longer_run_would_have_done_otherwise_is_not_trained_on(whole_run, tmp_path):
    with pytest.raises(ConfigError, match=r"made 8 steps, .* schedule = cosine .*initial_weights"):
        train(tiny(whole_run[0], steps=9), resume=True)
    settings = config_to_dict(tiny(tmp_path / "run", **CONSTANT))
    settings["episode"]["shuffled_prompts_share"] = 0.5
    shuffled = config_from_dict(settings)
    assert steps_bind(shuffled)
    settings["episode"]["shuffled_prompts_from"] = 0.0
    assert not steps_bind(config_from_dict(settings))


def steps_bind(config) -> bool:
    return not _has_no_share_of_steps(config)


def test_a_run_of_a_version_that_knew_fewer_settings_goes_on(whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run[0], run)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    del settings["train"]["ema"], settings["model"]["precision"]
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    assert_equal_networks(train(tiny(run), resume=True), whole_run[1])
    with pytest.raises(ConfigError, match=r"another train\.ema"):
        train(tiny(run, ema=0.9), resume=True)


@pytest.mark.slow
def test_a_run_by_muon_goes_on_to_the_same_network_bit_for_bit(tmp_path):
    whole = train(tiny(tmp_path / "whole", optimizer="muon", keep_checkpoints=3))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in saved_steps(tmp_path / "cut")[1:]:
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / str(step))
    cut = tiny(tmp_path / "cut", optimizer="muon", keep_checkpoints=3)
    assert_equal_networks(train(cut, resume=True), whole)


def test_a_run_is_not_started_over_without_being_asked(whole_run):
    with pytest.raises(ConfigError, match="--resume"):
        train(tiny(whole_run[0]))


def test_resuming_with_other_settings_names_them(whole_run):
    with pytest.raises(ConfigError, match=r"train\.learning_rate"):
        train(tiny(whole_run[0], learning_rate=0.5), resume=True)


def test_resuming_may_change_what_does_not_touch_learning(whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run[0], run)
    settings = [
        "train.log_every=1",
        "train.keep_checkpoints=5",
        "train.keep_best=3",
        "train.max_skipped=2",
        "parallel.context=1",
        "episode.context_multiple=2",
        "model.context.mini_context=1",
        "model.context.remat=none",
    ]
    train(override_config(tiny(run), settings), resume=True)


def test_the_evaluator_is_called_on_time_and_its_scores_are_logged(tmp_path):
    calls = []

    def evaluate(model):
        calls.append(model)
        return Evaluation({"dice": 0.5})

    run = tmp_path / "run"
    train(tiny(run, evaluate_every=3), evaluate=evaluate)
    assert [line["step"] for line in read_lines(run) if "dice" in line] == [3, 6, 8]
    assert len(calls) == 3


def test_a_log_whose_last_line_was_cut_off_does_not_stop_a_run(whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run[0], run)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')
    train(tiny(run), resume=True)
    assert (run / "log.jsonl").read_text() == (whole_run[0] / "log.jsonl").read_text()


def test_checkpoints_without_their_configuration_are_not_resumed(whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run[0], run)
    (run / "config.yaml").unlink()
    for resume, message in ((False, "--resume"), (True, "config.yaml")):
        with pytest.raises(ConfigError, match=message):
            train(tiny(run), resume=resume)


def test_a_damaged_configuration_of_a_run_is_told(whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run[0], run)
    (run / "config.yaml").write_text("train: [")
    with pytest.raises(ConfigError, match="damaged"):
        train(tiny(run), resume=True)


@pytest.mark.slow
def test_a_start_that_saved_nothing_may_be_made_again(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 7\n")
    train(tiny(run, steps=2))
