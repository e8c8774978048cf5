"""Trials: fixed by the seed, never trained on, scored on the target's own grid."""

import numpy as np
import pytest
from flax import nnx

from wsicl_jax.config import config_from_dict, config_to_dict
from wsicl_jax.data.episodes import Episode
from wsicl_jax.data.sources import (
    SMALLEST_STRUCTURE,
    prepared_case,
    split,
    synthetic_subjects,
)
from wsicl_jax.data.store import Store, create_store, write_case
from wsicl_jax.errors import DataError
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
    training, validation = split(Store.open(store), 0.3, seed=0)
    config = experiment(store)
    prepared = {
        prepared_case(Store.open(store), name, 0, config.volume)[0].tobytes() for name in training
    }
    found = protocol.plan_trials(config).trials
    assert [trial.target for trial in found] == validation * 2
    for trial in found:
        target, *contexts = (image.tobytes() for image in trial.group().images)
        assert target not in prepared
        assert len(contexts) == 3 and set(contexts) <= prepared


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
    config = experiment(path, contexts=2)
    for trial in protocol.plan_trials(config).trials:
        assert all(mask.sum() >= SMALLEST_STRUCTURE for mask in trial.group().masks[1:])


def test_every_channel_is_scored_by_itself(tmp_path):
    path = tmp_path / "store"
    create_store(path, "two_channels", ("T1", "T2"), {1: "block"})
    rng = np.random.default_rng(0)
    for number in range(8):
        label = np.zeros(SHAPE, np.uint8)
        label[4:12, 4:12, 4:12] = 1
        write_case(path, f"case_{number}", rng.random((2, *SHAPE), np.float32), label, np.eye(4))
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
        (config.seed, Stream.TRAINING_COHORT, 0), config.volume, 1, structures=2
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
