"""Lists planned from catalogues: fixed by the seed, of nothing that was trained on."""

import time
from dataclasses import replace

import numpy as np
import pytest
from evaluate.small_evaluations import SHAPE, experiment, planned, write_store
from fabricated import dataset, store_of

from wsicl_jax.config import ExperimentConfig, config_from_dict, config_to_dict
from wsicl_jax.data.datasets import open_datasets
from wsicl_jax.data.episodes.sampling import EpisodeSource
from wsicl_jax.data.episodes.sources import synthetic_subjects
from wsicl_jax.data.random_streams import RandomStream
from wsicl_jax.data.store import Store
from wsicl_jax.data.store_writer import finish_store, write_case
from wsicl_jax.errors import ConfigError, DataError
from wsicl_jax.evaluate import case_sources
from wsicl_jax.evaluate.case_sources import CohortCases, structure_mask
from wsicl_jax.evaluate.episode_list import decoded
from wsicl_jax.evaluate.planning import cases_of, plan, plan_experiment, with_prompts
from wsicl_jax.evaluate.prompted_episodes import prompted
from wsicl_jax.prompts import kind_of, to_channel

KINDS = ("point", "box", "scribble", "box3d", "mask2d", "mask", "mixed")


def with_data(store, **settings):
    """The experiment with other settings of its data set."""
    plain = config_to_dict(experiment(store))
    return config_from_dict({**plain, "data": [{"store": str(store), **settings}]})


def episodes(config, datasets=None):
    return [e for p in plan_experiment(config, datasets).planned for e in p.episodes.episodes]


# Which cases are targets and contexts.


def test_targets_are_validation_cases_and_contexts_training_cases(store):
    config = experiment(store)
    (data,) = open_datasets(config)
    found = episodes(config)
    assert [e.target for e in found] == data.cases("validation") * 2
    for episode in found:
        assert len(set(episode.contexts)) == 3
        assert set(episode.contexts) <= set(data.cases("train"))
    assert len({frozenset(e.contexts) for e in found}) > 1


def test_held_out_cases_are_targets_if_the_part_is_held_out(store):
    def targets(part):
        config = experiment(store)
        episode = replace(config.episode, held_out_share=0.2)
        config = replace(config, episode=episode, evaluation=replace(config.evaluation, part=part))
        (data,) = open_datasets(config)
        assert {e.target for e in episodes(config)} == set(data.cases(part))
        return set(data.cases(part))

    assert len(targets("validation")) == 3
    assert len(targets("held_out")) == 2
    assert not targets("validation") & targets("held_out")
    with pytest.raises(ConfigError, match="no subject is held out"):
        experiment(store, part="held_out")


def test_contexts_are_of_different_subjects_and_none_is_the_targets():
    visits = {f"ann{i // 3}_{i % 3}": {1: 9} for i in range(18)}
    data = [dataset(store_of(visits), subject_pattern=r"(\w+)_")]
    found = episodes(experiment("synthetic"), data)
    assert len({e.subject for e in found}) == 1  # a tenth of six subjects
    for episode in found:
        subjects = [name.split("_")[0] for name in (episode.target, *episode.contexts)]
        assert subjects[0] == episode.subject
        assert len(set(subjects)) == 4
    skipped = plan_experiment(experiment("synthetic", contexts=6), data).skipped
    assert "5 training subjects" in skipped["tiny/label 1"]


def test_cases_with_too_few_voxels_of_a_structure_are_neither_targets_nor_contexts():
    store = store_of({f"case{i}": {1: 9 if i < 20 else 8} for i in range(40)})
    found = episodes(ExperimentConfig(), [dataset(store, min_voxels=9)])
    assert found
    shown = {name for e in found for name in (e.target, *e.contexts)}
    assert {int(name[4:]) for name in shown} <= set(range(20))


def test_a_data_set_without_weight_has_contexts_and_targets_of_its_own(store, tmp_path):
    other = write_store(tmp_path / "other")
    plain = config_to_dict(experiment(store))
    plain["data"].append({"store": str(other), "weight": 0})
    config = config_from_dict(plain)
    _, data = open_datasets(config)
    assert [source.store.name for source in EpisodeSource(config).sources] == ["two_blocks"]
    (_, planned) = plan_experiment(config).planned
    assert {e.target for e in planned.episodes.episodes} == set(data.cases("validation"))
    contexts = {name for e in planned.episodes.episodes for name in e.contexts}
    assert contexts <= set(data.cases("train"))


def test_two_data_sets_of_one_name_are_refused(store):
    plain = config_to_dict(experiment(store))
    with pytest.raises(DataError, match="two_blocks"):
        plan_experiment(config_from_dict({**plain, "data": plain["data"] * 2}))


def test_there_are_at_most_the_requested_targets(store):
    found = episodes(experiment(store, targets=2))
    assert [e.structure for e in found] == ["left", "left", "right", "right"]


def test_a_list_follows_from_the_seed_alone(store):
    config = experiment(store)
    first, again, other = (
        plan_experiment(replace(config, seed=seed)).planned[0].episodes for seed in (0, 0, 1)
    )
    assert first == again
    assert first.episodes != other.episodes


def test_ten_thousand_cases_are_planned_in_seconds():
    voxels = dict.fromkeys(range(1, 21), 100)
    data = dataset(store_of({f"case{i:05}": voxels for i in range(10_000)}))
    begin = time.process_time()
    found = episodes(ExperimentConfig(), [data])  # no volume is read: there is none
    assert time.process_time() - begin < 10
    assert len(found) == 20 * 1000


# Structures and channels.


def test_structures_may_unite_labels(store):
    (found,) = plan_experiment(with_data(store, structures={"both": [1, 2]})).planned
    labels = found.episodes.structures["both"].labels
    target = found.episodes.episodes[0].target
    label = Store.open(store).read_label(target)
    np.testing.assert_array_equal(structure_mask(found.cases, target, labels), label > 0)


def test_a_structure_that_names_an_unknown_label_is_an_error(store):
    with pytest.raises(DataError, match=r"\[9\]"):
        plan_experiment(with_data(store, structures={"x": [9]}))


def test_a_named_structure_in_too_few_cases_is_an_error(store):
    config = with_data(store, structures={"x": [1]})
    config = replace(config, evaluation=experiment(store, contexts=8).evaluation)
    with pytest.raises(DataError, match="7 training"):
        plan_experiment(config)


def test_a_label_in_too_few_cases_is_skipped_with_its_reason(store):
    found = plan_experiment(experiment(store, contexts=8))
    assert not found.planned
    assert set(found.skipped) == {"two_blocks/left", "two_blocks/right"}
    assert all("7 training" in reason for reason in found.skipped.values())


def test_every_channel_is_scored_by_itself(tmp_path):
    listed, cases = planned(write_store(tmp_path / "two", channels=("T1", "T2")))
    first, second = (next(e for e in listed.episodes if e.channel == c) for c in ("T1", "T2"))
    assert listed.title(first) == "two, T1" and listed.title(second) == "two, T2"
    assert first.target == second.target and first.contexts == second.contexts
    assert first.name != second.name
    volume = experiment("synthetic").volume
    images = [cases.subject(e.target, e.channel, volume)[0] for e in (first, second)]
    assert not np.array_equal(*images)


def test_the_channels_that_are_named_are_scored():
    store = store_of({f"case{i}": {1: 9} for i in range(20)}, channels=("T1", "T2"))
    found = episodes(ExperimentConfig(), [dataset(store, channels=("T2",))])
    assert {e.channel for e in found} == {"T2"}


# Prompts.


def test_prompts_are_in_voxels_of_each_cases_own_grid_and_mark_the_structure(store):
    listed, cases = planned(store, kinds=KINDS, prompts=3)
    for name, structure in listed.structures.items():
        own = [e for e in listed.episodes if e.structure == name]
        assert set(structure.prompts) == {case for e in own for case in e.contexts}
        for case, prompts in structure.prompts.items():
            truth = structure_mask(cases, case, structure.labels)
            assert truth.shape == SHAPE
            for kind in KINDS[:-1]:
                drawn = decoded(prompts, kind, 3, truth)
                assert len(drawn) == (1 if kind in ("box3d", "mask") else 3)
                assert {kind_of(prompt) for prompt in drawn} == {kind}
            marked = {k: decoded(prompts, k, 3, truth) for k in KINDS}
            assert all(truth[tuple(map(int, point))] for point in marked["point"])
            assert all(
                truth[tuple(map(int, place))] for line in marked["scribble"] for place in line.path
            )
            assert all(truth[box.slices].all() for box in marked["box"])  # of a block
            (whole,) = marked["box3d"]
            assert truth[whole.slices].sum() == truth.sum()
            for one in marked["mask2d"]:
                np.testing.assert_array_equal(one.mask, truth.take(one.index, one.axis))
            assert {kind_of(p) for p in marked["mixed"]} == {"point", "box", "scribble"}


def test_another_kind_changes_no_prompt_of_the_others(store):
    few, more = (planned(store, kinds=kinds).episodes for kinds in (["box"], KINDS))
    for name, structure in few.structures.items():
        for case, prompts in structure.prompts.items():
            assert prompts.box == more.structures[name].prompts[case].box
    assert few.episodes == more.episodes


def test_a_structure_too_small_for_the_working_grid_is_marked_all_the_same(tmp_path):
    def speck(number: int) -> np.ndarray:
        label = np.zeros((40, 40, 40), np.uint8)
        label[9 + number, 11, 13] = 1
        return label

    path = write_store(tmp_path / "specks", shape=(40, 40, 40), labels=speck)
    listed, cases = planned(path, kinds=KINDS, contexts=2)
    volume = experiment(path).volume
    for kind in KINDS:
        episode = prompted(volume, listed, cases, listed.episodes[0], kind, 2, 2).episode
        assert episode.context_prompts.reshape(2, -1).any(axis=1).all(), kind


def test_prompts_of_another_structure_lie_outside_the_structure_of_the_episode(store):
    config = experiment(store, kinds=["mask", "point"])
    (draft,) = plan(
        open_datasets(config),
        config.evaluation,
        seed=0,
        synth=config.synth,
        cohort_grid=config.volume.grid,
        min_voxels=1,
        marking="other structure",
    ).planned
    listed, cases = with_prompts(draft)
    for structure in listed.structures.values():
        assert not set(structure.marked) & set(structure.labels)
        for case, prompts in structure.prompts.items():
            truth, marked = (
                structure_mask(cases, case, x) for x in (structure.labels, structure.marked)
            )
            for kind in ("mask", "point"):
                channel = to_channel(decoded(prompts, kind, 2, marked), SHAPE)
                assert channel.any()
            assert not (marked & truth).any()
            assert all(marked[tuple(map(int, place))] for place in prompts.point)


def test_what_interactive_sessions_show_beside_the_target_is_planned_too(store):
    beside = {"kinds": ["point"], "contexts": 5}
    listed = planned(store, kinds=["box"], contexts=2, interactive=beside).episodes
    assert listed.contexts == 5
    listed.check(5, "point", 2)
    alone = planned(store, kinds=["box"], contexts=2, interactive={"kinds": ["point"]}).episodes
    assert alone.contexts == 2 and alone.kinds == ("box",)


# Synthetic cohorts.


def test_unseen_cohorts_are_none_of_training():
    config = experiment("synthetic")
    training = synthetic_subjects(
        (config.seed, RandomStream.TRAINING_COHORT, 0),
        config.volume,
        1,
        structures=2,
        min_voxels=8,
        settings=config.synth,
    )[0][0][0]
    listed, cases = planned("synthetic")
    assert len({e.subject for e in listed.episodes}) == len(listed.structures) == 2
    for name in listed.cases:
        image, _ = cases.subject(name, "synthetic", config.volume)
        assert not np.array_equal(training, image)


def test_a_synthetic_list_brings_its_cohorts_with_it(tmp_path):
    listed, cases = planned("synthetic")
    again = cases_of(listed)
    volume = experiment("synthetic").volume
    for name in listed.cases:
        for a, b in zip(
            cases.subject(name, "", volume), again.subject(name, "", volume), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_a_cohorts_hash_changes_with_the_cases_of_its_prior(monkeypatch):
    _, cases = planned("synthetic")
    before = cases.digest("cohort 1/subject 1")
    monkeypatch.setattr(case_sources, "priors_fingerprint", lambda settings: 7)
    assert CohortCases(cases.cohorts).digest("cohort 1/subject 1") != before


# A list meets its store again.


def test_a_store_that_has_changed_since_is_refused(tmp_path):
    path = write_store(tmp_path / "store")
    listed, _ = planned(path)
    cases_of(listed)
    used = next(iter(listed.cases))
    write_case(path, used, np.ones((1, *SHAPE), np.float32), np.ones(SHAPE, np.uint8), np.eye(4))
    finish_store(path)
    with pytest.raises(DataError, match=f"changed since .* '{used}'; plan the list again"):
        cases_of(listed)


def test_a_store_that_lacks_what_the_list_shows_is_refused(store, tmp_path):
    listed, _ = planned(store)
    fewer = write_store(tmp_path / "fewer", cases=[])
    with pytest.raises(DataError, match=f"{len(listed.cases)} cases that .* lacks, such as 'case"):
        cases_of(replace(listed, store=str(fewer)))
    other = [replace(e, channel="CT") for e in listed.episodes]
    with pytest.raises(DataError, match=r"channels that .* lacks: \['CT'\]"):
        cases_of(replace(listed, episodes=tuple(other)))
    with pytest.raises(DataError, match="no store"):
        cases_of(replace(listed, store=str(tmp_path / "nowhere")))


def test_with_fewer_contexts_a_data_set_has_as_many_as_it_has_subjects_for(store):
    settings = {"contexts": [1, 3, 50], "kinds": ["mask"]}
    assert not plan_experiment(experiment(store, **settings)).planned
    (data,) = plan_experiment(experiment(store, **settings, fewer_contexts=True)).planned
    assert {len(e.contexts) for e in data.episodes.episodes} == {data.episodes.contexts} == {3}
