"""Trials: fixed by the seed, never trained on, scored on the target's own grid."""

import numpy as np
import pytest
from flax import nnx

from wsicl_jax.config import config_from_dict, config_to_dict
from wsicl_jax.data.sources import TRAINING, prepared_case, split, synthetic_subjects
from wsicl_jax.data.store import Store, create_store, write_case
from wsicl_jax.errors import DataError
from wsicl_jax.evaluate import protocol
from wsicl_jax.model.dual_branch import DualBranch

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
    found = list(protocol.trials(config))
    assert [trial.target for trial in found] == validation * 2
    for trial in found:
        target, *contexts = (image.tobytes() for image in trial.group.images)
        assert target not in prepared
        assert len(contexts) == 3 and set(contexts) <= prepared


def test_trials_follow_from_the_seed_alone(store):
    first, again = (list(protocol.trials(experiment(store))) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        for x, y in zip(a.episode("box", 2), b.episode("box", 2), strict=True):
            np.testing.assert_array_equal(x, y)


def test_structures_may_unite_labels(store):
    config = experiment(store)
    data = [{"store": str(store), "structures": {"both": [1, 2]}}]
    settings = config_from_dict({**config_to_dict(config), "data": data})
    trial = next(iter(protocol.trials(settings)))
    label = Store.open(store).read_label(trial.target)
    np.testing.assert_array_equal(trial.truth, label > 0)
    assert trial.other_masks is None


def test_a_structure_that_names_an_unknown_label_is_an_error(store):
    data = [{"store": str(store), "structures": {"x": [9]}}]
    settings = config_from_dict({**config_to_dict(experiment(store)), "data": data})
    with pytest.raises(DataError, match=r"\[9\]"):
        list(protocol.trials(settings))


def test_too_few_cases_for_the_context_set_are_an_error(store):
    with pytest.raises(DataError, match="7 training"):
        list(protocol.trials(experiment(store, contexts=8)))


def test_prompts_of_another_structure_lie_outside_the_one_asked_for(store):
    for trial in protocol.trials(experiment(store)):
        other = trial.episode("mask", 1, "other").context_prompts[..., 0] > 0
        assert other.any()
        assert not (other & np.stack(trial.group.masks[1:])).any()
        assert not trial.episode("mask", 1, "none").context_prompts.any()


def test_a_perfect_network_scores_one_on_the_targets_own_grid(store, monkeypatch, model):
    found = list(protocol.trials(experiment(store)))
    maps = [trial.group.masks[0].astype(np.float32) for trial in found]
    monkeypatch.setattr(protocol, "predict", lambda *_, **__: maps)
    values = protocol.dice_of(model, found, kind="box", count=2)
    assert np.mean(values) > 0.9
    for trial, values in zip(found, maps, strict=True):
        assert trial.restore(values).shape == trial.truth.shape == SHAPE


def test_fewer_contexts_by_weight_equal_fewer_contexts(model):
    found = list(protocol.trials(experiment("synthetic")))[:3]
    shown = [trial.episode("box", 2) for trial in found]
    fewer = [
        e._replace(context_images=e.context_images[:2], context_prompts=e.context_prompts[:2])
        for e in shown
    ]
    for a, b in zip(
        protocol.predict(model, shown, contexts=2), protocol.predict(model, fewer), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_predictions_do_not_depend_on_how_many_targets_run_at_once(model, monkeypatch):
    shown = [trial.episode("point", 2) for trial in protocol.trials(experiment("synthetic"))][:5]
    together = protocol.predict(model, shown)
    monkeypatch.setattr(protocol, "_TARGETS_AT_ONCE", 1)
    for a, b in zip(together, protocol.predict(model, shown), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_unseen_cohorts_are_none_of_training(model):
    config = experiment("synthetic")
    training = synthetic_subjects((config.seed, TRAINING, 0), config.volume, 1, structures=2)[0][0][
        0
    ]
    unseen = next(iter(protocol.trials(config))).group.images
    assert not any(np.array_equal(training, image) for image in unseen)


def test_every_kind_is_scored_on_every_trial(store, model):
    config = experiment(store, kinds=["box", "mask"])
    trials = list(protocol.trials(config))
    scores = protocol.evaluate(model, trials, config.evaluation)
    assert [(s.kind, s.target) for s in scores] == [
        (kind, trial.target) for kind in ("box", "mask") for trial in trials
    ]
    assert all(0 <= score.dice <= 1 for score in scores)
