"""Trials: fixed by the seed, never trained on, scored on the target's own grid."""

import time
from dataclasses import replace

import numpy as np
import pytest
from fabricated import dataset, store_of
from flax import nnx

from wsicl_jax.config import EpisodeConfig, ExperimentConfig, config_from_dict, config_to_dict
from wsicl_jax.data.datasets import open_datasets
from wsicl_jax.data.episodes import Episode, EpisodeSource
from wsicl_jax.data.sources import prepared_case, synthetic_subjects
from wsicl_jax.data.store import Store, create_store, finish_store, write_case
from wsicl_jax.errors import ConfigError, DataError
from wsicl_jax.evaluate import protocol
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.streams import Stream

GRID = (16, 16, 16)
SHAPE = (20, 14, 18)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Ten cases with two labels at places that differ a little."""
    path = tmp_path_factory.mktemp("stores") / "two_blocks"
    create_store(path, "two_blocks", ("MR",), {1: "left", 2: "right"})
    rng = np.random.default_rng(0)
    for number in range(10):
        label = np.zeros(SHAPE, np.uint8)
        shift = number % 3
        label[2 + shift : 9, 3:9, 4:12] = 1
        label[11 : 17 - shift, 3:9, 4:12] = 2
        image = (label * 100 + rng.normal(0, 5, SHAPE)).astype(np.float32)
        write_case(path, f"case_{number}", image[None], label, np.diag([1.0, 2.0, 1.5, 1.0]))
    finish_store(path)
    return path


def experiment(store, **evaluation):
    return config_from_dict(
        {
            "data": [{"store": str(store)}],
            "volume": {"grid": GRID},
            "episode": {"validation_share": 0.3},
            "model": {"channels": [2, 4]},
            "evaluation": {"contexts": 3, "prompts": 2, "synthetic_structures": 2, **evaluation},
        }
    )


@pytest.fixture(scope="module")
def model():
    return DualBranch(experiment("synthetic").model, rngs=nnx.Rngs(0))


def test_targets_are_validation_cases_and_contexts_training_cases(store):
    config = experiment(store)
    (data,) = open_datasets(config)
    training, validation = data.cases("train"), data.cases("validation")
    prepared = {
        prepared_case(Store.open(store), name, 0, config.volume)[0].tobytes() for name in training
    }
    found = protocol.plan_trials(config).trials
    assert [trial.target for trial in found] == validation * 2
    shown = set()
    for trial in found:
        target, *contexts = (image.tobytes() for image in trial.group().images)
        assert target not in prepared
        assert len(contexts) == 3 and set(contexts) <= prepared
        shown.add(frozenset(contexts))
    assert len(shown) > 1


def test_trials_follow_from_the_seed_alone(store):
    first, again = (protocol.plan_trials(experiment(store)).trials for _ in range(2))
    for a, b in zip(first, again, strict=True):
        for x, y in zip(a.episode("box", 2), b.episode("box", 2), strict=True):
            np.testing.assert_array_equal(x, y)


def test_structures_may_unite_labels(store):
    config = experiment(store)
    data = [{"store": str(store), "structures": {"both": [1, 2]}}]
    settings = config_from_dict({**config_to_dict(config), "data": data})
    trial = protocol.plan_trials(settings).trials[0]
    label = Store.open(store).read_label(trial.target)
    np.testing.assert_array_equal(trial.truth(), label > 0)
    assert trial.other_labels is None


def test_a_structure_that_names_an_unknown_label_is_an_error(store):
    data = [{"store": str(store), "structures": {"x": [9]}}]
    settings = config_from_dict({**config_to_dict(experiment(store)), "data": data})
    with pytest.raises(DataError, match=r"\[9\]"):
        protocol.plan_trials(settings)


def test_a_named_structure_in_too_few_cases_is_an_error(store):
    data = [{"store": str(store), "structures": {"x": [1]}}]
    config = config_from_dict({**config_to_dict(experiment(store, contexts=8)), "data": data})
    with pytest.raises(DataError, match="7 training"):
        protocol.plan_trials(config)


def test_a_label_in_too_few_cases_is_left_out_with_its_reason(store):
    planned = protocol.plan_trials(experiment(store, contexts=8))
    assert not planned.trials
    assert set(planned.left_out) == {"two_blocks/left", "two_blocks/right"}
    assert all("7 training" in reason for reason in planned.left_out.values())


def test_two_data_sets_of_one_name_are_refused(store):
    config = config_to_dict(experiment(store))
    with pytest.raises(DataError, match="two_blocks"):
        protocol.plan_trials(config_from_dict({**config, "data": config["data"] * 2}))


def test_a_case_whose_structure_vanishes_on_the_working_grid_is_no_context(tmp_path):
    path = tmp_path / "store"
    create_store(path, "specks", ("MR",), {1: "speck"})
    rng = np.random.default_rng(0)
    for number in range(8):
        label = np.zeros((32, 32, 32), np.uint8)
        side = 2 if number < 4 else 12
        label[8 : 8 + side, 8 : 8 + side, 8 : 8 + side] = 1
        image = rng.random(label.shape, np.float32)
        write_case(path, f"case_{number}", image[None], label, np.eye(4))
    finish_store(path)
    config = experiment(path, contexts=2)
    for trial in protocol.plan_trials(config).trials:
        assert all(mask.sum() >= 8 for mask in trial.group().masks[1:])


def test_every_channel_is_scored_by_itself(tmp_path):
    path = tmp_path / "store"
    create_store(path, "two_channels", ("T1", "T2"), {1: "block"})
    rng = np.random.default_rng(0)
    for number in range(8):
        label = np.zeros(SHAPE, np.uint8)
        label[4:12, 4:12, 4:12] = 1
        write_case(path, f"case_{number}", rng.random((2, *SHAPE), np.float32), label, np.eye(4))
    finish_store(path)
    found = protocol.plan_trials(experiment(path)).trials
    assert {trial.dataset for trial in found} == {"two_channels, T1", "two_channels, T2"}
    first, second = (
        next(t for t in found if t.dataset.endswith(name)).group().images[0]
        for name in ("T1", "T2")
    )
    assert not np.array_equal(first, second)


def test_prompts_of_another_structure_lie_outside_the_one_asked_for(store):
    for trial in protocol.plan_trials(experiment(store)).trials:
        other = trial.episode("mask", 1, "other structure").context_prompts[..., 0] > 0
        assert other.any()
        assert not (other & np.stack(trial.group().masks[1:])).any()
        assert not trial.episode("mask", 1, "nothing").context_prompts.any()


def test_a_perfect_network_scores_one_on_the_targets_own_grid(store, monkeypatch, model):
    found = protocol.plan_trials(experiment(store)).trials
    truths = iter([trial.group().masks[0].astype(np.float32) for trial in found])
    monkeypatch.setattr(protocol, "outputs", lambda _, shown, __: [next(truths) for _ in shown])
    values = protocol.dice_of(model, found, kind="box", count=2)
    assert len(values) == len(found) and np.mean(values) > 0.9
    for trial in found:
        assert trial.restore(np.zeros(GRID, np.float32)).shape == trial.truth().shape == SHAPE


def test_fewer_contexts_by_weight_equal_fewer_contexts(model):
    found = protocol.plan_trials(experiment("synthetic")).trials[:3]
    shown = [trial.episode("box", 2) for trial in found]
    fewer = [Episode(e.target, e.truth, *(part[:2] for part in e[2:])) for e in shown]
    for a, b in zip(
        protocol.outputs(model, shown, contexts=2), protocol.outputs(model, fewer), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_scores_do_not_depend_on_how_many_targets_run_at_once(model, monkeypatch):
    found = protocol.plan_trials(experiment("synthetic")).trials[:5]
    together = protocol.dice_of(model, found, kind="point", count=2)
    monkeypatch.setattr(protocol, "_VOXELS_AT_ONCE", 1)
    assert protocol.dice_of(model, found, kind="point", count=2) == pytest.approx(together)


def test_unseen_cohorts_are_none_of_training(model):
    config = experiment("synthetic")
    training = synthetic_subjects(
        (config.seed, Stream.TRAINING_COHORT, 0), config.volume, 1, structures=2, min_voxels=8
    )[0][0][0]
    unseen = protocol.plan_trials(config).trials[0].group().images
    assert not any(np.array_equal(training, image) for image in unseen)


def test_every_kind_is_scored_on_every_trial(store, model):
    config = experiment(store, kinds=["box", "mask"])
    trials = protocol.plan_trials(config).trials
    scores = protocol.evaluate(model, trials, config.evaluation)
    assert [(s.kind, s.target) for s in scores] == [
        (kind, trial.target) for kind in ("box", "mask") for trial in trials
    ]
    assert all(0 <= score.dice <= 1 for score in scores)


# Which cases are targets and contexts.


def test_held_out_cases_are_targets_where_they_are_asked_for(store):
    def targets(part):
        config = experiment(store)
        episode = EpisodeConfig(validation_share=0.3, held_out_share=0.2)
        config = replace(config, episode=episode, evaluation=replace(config.evaluation, part=part))
        (data,) = open_datasets(config)
        trials = protocol.plan_trials(config).trials
        assert {trial.target for trial in trials} == set(data.cases(part))
        return {trial.target for trial in trials}

    assert len(targets("validation")) == 3
    assert len(targets("held_out")) == 2
    assert not targets("validation") & targets("held_out")
    with pytest.raises(ConfigError, match="nothing is held out"):
        experiment(store, part="held_out")


def test_a_data_set_without_weight_has_contexts_and_targets_of_its_own(store, tmp_path):
    other = tmp_path / "other"
    create_store(other, "other", ("MR",), {1: "left"})
    for number in range(8):
        label = np.zeros(SHAPE, np.uint8)
        label[2:9, 3:9, 4:12] = 1
        image = np.random.default_rng(number).random((1, *SHAPE), np.float32)
        write_case(other, f"case_{number}", image, label, np.eye(4))
    finish_store(other)
    plain = config_to_dict(experiment(store))
    plain["data"].append({"store": str(other), "weight": 0})
    config = config_from_dict(plain)
    _, data = open_datasets(config)
    assert [source.store.name for source in EpisodeSource(config).sources] == ["two_blocks"]
    trials = [t for t in protocol.plan_trials(config).trials if t.dataset == "other"]
    assert {trial.target for trial in trials} == set(data.cases("validation"))
    own = {
        prepared_case(data.store, name, 0, config.volume)[0].tobytes()
        for name in data.cases("train")
    }
    assert all(image.tobytes() in own for t in trials for image in t.group().images[1:])


def test_contexts_are_of_different_subjects_and_none_is_the_targets(tmp_path):
    path = tmp_path / "store"
    create_store(path, "visits", ("MR",), {1: "block"})
    for number in range(18):
        label = np.zeros(SHAPE, np.uint8)
        label[4:12, 4:12, 4:12] = 1
        image = np.random.default_rng(number).random((1, *SHAPE), np.float32)
        write_case(path, f"ann{number // 3}_{number % 3}", image, label, np.eye(4))
    finish_store(path)
    settings = config_to_dict(experiment(path))
    settings["data"][0]["subject_pattern"] = r"(\w+)_"
    config = config_from_dict(settings)
    store = Store.open(path)
    whose = {
        prepared_case(store, name, 0, config.volume)[0].tobytes(): name.split("_")[0]
        for name in store.cases
    }
    trials = protocol.plan_trials(config).trials
    assert len({whose[t.group().images[0].tobytes()] for t in trials}) == 2
    for trial in trials:
        assert len({whose[image.tobytes()] for image in trial.group().images}) == 4
    settings["evaluation"]["contexts"] = 5
    left_out = protocol.plan_trials(config_from_dict(settings)).left_out
    assert "4 training subjects" in left_out["visits/block"]


def test_the_channels_that_are_named_are_scored():
    store = store_of({f"case{i}": {1: 9} for i in range(20)}, channels=("T1", "T2"))
    trials = protocol.plan_trials(ExperimentConfig(), [dataset(store, channels=("T2",))]).trials
    assert {trial.dataset for trial in trials} == {"tiny, T2"}


def test_cases_with_too_few_voxels_of_a_structure_are_neither_targets_nor_contexts():
    store = store_of({f"case{i}": {1: 9 if i < 20 else 8} for i in range(40)})
    (trials, _) = protocol.plan_trials(ExperimentConfig(), [dataset(store, min_voxels=9)])
    assert len(trials) > 0
    assert {int(trial.target[4:]) for trial in trials} <= set(range(20))


def test_ten_thousand_cases_are_planned_in_two_seconds():
    voxels = dict.fromkeys(range(1, 21), 100)
    data = dataset(store_of({f"case{i:05}": voxels for i in range(10_000)}))
    begin = time.process_time()
    trials = protocol.plan_trials(ExperimentConfig(), [data]).trials
    assert time.process_time() - begin < 2
    assert len(trials) == 20 * 1000
