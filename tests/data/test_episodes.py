import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from fabricated import dataset, store_of
from hypothesis import given, settings
from hypothesis import strategies as st

from wsicl_jax.config import (
    AUGMENTATIONS,
    SYNTHETIC,
    DatasetConfig,
    EpisodeConfig,
    ExperimentConfig,
    config_from_dict,
    config_to_dict,
)
from wsicl_jax.data.datasets import DataSet
from wsicl_jax.data.episodes import (
    Episode,
    EpisodeSource,
    context_sizes,
    draw_prompts,
    episode,
)
from wsicl_jax.data.sources import Group, prepared_case
from wsicl_jax.data.store import Store, create_store, finish_store, write_case
from wsicl_jax.errors import DataError

SHAPE = (10, 12, 8)
NO_CHANGES = dict.fromkeys(AUGMENTATIONS, 0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("episodes") / "store"
    create_store(path, "tiny", ("T1",), {1: "left", 2: "right"})
    rng = np.random.default_rng(0)
    for i in range(9):
        label = np.zeros(SHAPE, np.uint8)
        label[1:4, 2 : 5 + i % 3, 1:7] = 1
        label[6:9, 4 + i % 2 : 10, 2:6] = 2
        image = label + rng.normal(0, 0.1, SHAPE).astype(np.float32)
        write_case(path, f"case{i}", image[None], label, np.eye(4))
    finish_store(path)
    return path


@pytest.fixture(scope="module")
def experiment(store) -> ExperimentConfig:
    """Two thirds of the episodes from a store, one third from synthetic cohorts."""
    return config_from_dict(
        {
            "data": [{"store": str(store), "weight": 2}, {"store": SYNTHETIC}],
            "volume": {"grid": [16, 16, 8]},
            "model": {"channels": [2, 4]},
            "episode": {"contexts": [1, 3]},
            "prompts": {"kinds": {"box": 1, "point": 1, "mask": 1}},
            "augment": {"flip": 0.5, "noise": 0.5, "invert_mask": 0.5},
            "train": {"steps": 40, "batch": 3},
        }
    )


@pytest.fixture(scope="module")
def episodes(experiment):
    source = EpisodeSource(experiment)
    return [source[index] for index in range(len(source))]


def changed(experiment: ExperimentConfig, **sections) -> ExperimentConfig:
    parts = {name: replace(getattr(experiment, name), **new) for name, new in sections.items()}
    return replace(experiment, **parts)


def store_only(experiment: ExperimentConfig) -> ExperimentConfig:
    return replace(experiment, data=experiment.data[:1])


def digest(shown: Episode) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(part) for part in shown)).hexdigest()


def test_a_run_has_an_episode_for_every_row_of_every_step(experiment):
    assert len(EpisodeSource(experiment)) == 120


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(0, 119), min_size=1, max_size=6))
def test_an_episode_is_the_same_from_a_new_source_in_any_order(experiment, episodes, indices):
    source = EpisodeSource(experiment)
    for index in indices:
        assert digest(source[index]) == digest(episodes[index])


def test_an_episode_is_the_same_in_another_process(experiment, episodes, tmp_path):
    plain = tmp_path / "experiment.json"
    plain.write_text(json.dumps(config_to_dict(experiment)))
    code = (
        "import hashlib, json, sys\n"
        "import numpy as np\n"
        "from wsicl_jax.config import config_from_dict\n"
        "from wsicl_jax.data.episodes import EpisodeSource\n"
        "source = EpisodeSource(config_from_dict(json.load(open(sys.argv[1]))))\n"
        "for index in (17, 3, 100):\n"
        "    parts = b''.join(np.ascontiguousarray(part) for part in source[index])\n"
        "    print(hashlib.sha256(parts).hexdigest())\n"
    )
    command = [sys.executable, "-c", code, str(plain)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert told == [digest(episodes[index]) for index in (17, 3, 100)]


def test_episodes_differ_from_each_other_and_between_seeds(experiment, episodes):
    assert len({digest(shown) for shown in episodes}) == len(episodes)
    other = EpisodeSource(replace(experiment, seed=1))
    assert digest(other[0]) != digest(episodes[0])


def test_no_two_draws_share_their_random_numbers(experiment, monkeypatch):
    def told(seed):
        states.append(tuple(np.random.SeedSequence(seed).generate_state(4)))
        return generator(seed)

    states, generator = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", told)
    config = changed(replace(experiment, data=experiment.data[1:]), train={"batch": 1})
    source = EpisodeSource(config)
    for index in range(5):
        source[index]
    # Of each episode: number of contexts, episode, cohort, and two subjects or more.
    assert len(states) >= 5 * 5
    assert len(set(states)) == len(states)


def test_the_number_of_contexts_is_constant_in_a_step_and_covers_the_range(episodes):
    counts = np.array([len(shown.context_images) for shown in episodes]).reshape(40, 3)
    assert (counts == counts[:, :1]).all()
    assert set(counts[:, 0]) == {1, 2, 3}


def test_shapes_and_types_are_what_the_network_takes(episodes):
    for shown in episodes:
        contexts = len(shown.context_images)
        assert {part.dtype for part in shown} == {np.dtype(np.float32)}
        assert shown.target.shape == shown.truth.shape == (16, 16, 8, 1)
        assert shown.context_images.shape == (contexts, 16, 16, 8, 1)
        assert shown.context_prompts.shape == shown.context_images.shape


def test_the_truth_is_binary_and_neither_empty_nor_full(episodes):
    for shown in episodes:
        assert set(np.unique(shown.truth)) == {0, 1}


def test_every_context_has_prompts_between_0_and_1(episodes):
    for shown in episodes:
        channels = shown.context_prompts
        assert (channels.max((1, 2, 3, 4)) == 1).all()
        assert channels.min() >= 0


def data_sets(weights_and_names, labels: int = 1):
    cases = {f"case{i}": dict.fromkeys(range(1, labels + 1), 9) for i in range(9)}
    return [
        dataset(store_of(cases, name=name), weight=weight) for weight, name in weights_and_names
    ]


def test_data_sets_are_shown_by_their_weights(experiment):
    class Told:
        def __init__(self, name):
            self.name = name

        def group(self, index, count, rng):
            shown.append(self.name)
            mask = np.zeros((16, 16, 8), bool)
            mask[:4] = True
            return Group([np.zeros(mask.shape, np.float32)] * count, [mask] * count)

    shown = []
    source = EpisodeSource(experiment, data_sets([(2, "a"), (0, "b"), (1, "c")]))
    assert len(source.sources) == 2  # none for the weight 0
    source.sources = [Told(name) for name in "ac"]
    for index in range(600):
        source[index]
    # Three standard deviations of a binomial draw.
    assert abs(shown.count("a") - 400) < 3 * np.sqrt(600 * 2 / 9)


@pytest.mark.parametrize(("sampling", "share"), [("dataset", 2 / 3), ("structure", 10 / 11)])
def test_structures_are_counted_where_all_are_drawn_alike(experiment, sampling, share):
    """Five structures of weight 2 against the one of a synthetic data set."""
    config = changed(experiment, episode={"sampling": sampling})
    (store,) = data_sets([(2, "a")], labels=5)
    synthetic = DataSet(DatasetConfig(), None, {}, {})
    source = EpisodeSource(config, [store, synthetic])
    np.testing.assert_allclose(source._source_shares, [share, 1 - share])


def test_two_data_sets_of_one_name_are_refused(experiment):
    with pytest.raises(DataError, match="called 'tiny'"):
        EpisodeSource(replace(experiment, data=experiment.data[:1] * 2))


def test_named_structures_are_what_a_truth_shows(experiment, store):
    data = {"store": str(store), "structures": {"both": [1, 2], "left": [1]}}
    config = config_from_dict(config_to_dict(experiment) | {"data": [data]})
    config = changed(
        config,
        episode={"structures": "named"},
        augment=NO_CHANGES,
        prompts={"kinds": {"mask": 1.0}},
    )
    labels = prepared(store, config)
    source, values = EpisodeSource(config), set()
    for index in range(20):
        shown = source[index]
        label = labels[shown.target.tobytes()]
        values.add(tuple(np.unique(label[shown.truth[..., 0] > 0])))
    assert values == {(1,), (1, 2)}


def prepared(store, config) -> dict[bytes, np.ndarray]:
    """Labels of the store's cases by their images."""
    opened = Store.open(store)
    cases = [prepared_case(opened, name, 0, config.volume) for name in opened.cases]
    return {image.tobytes(): label for image, label in cases}


def test_without_changes_an_episode_shows_cases_as_they_are_stored(experiment, store):
    config = store_only(changed(experiment, augment=NO_CHANGES, prompts={"kinds": {"mask": 1.0}}))
    labels = prepared(store, config)
    source = EpisodeSource(config)
    for index in range(20):
        shown = source[index]
        label = labels[shown.target.tobytes()]
        values = np.unique(label[shown.truth[..., 0] > 0])
        np.testing.assert_array_equal(shown.truth[..., 0], np.isin(label, values))
        # A mask prompt is the same structure on the context image.
        for image, channel in zip(shown.context_images, shown.context_prompts, strict=True):
            masks = np.isin(labels[image.tobytes()], values)
            np.testing.assert_array_equal(channel[..., 0], masks)


def test_training_never_shows_a_validation_case(experiment, store):
    config = store_only(changed(experiment, augment=NO_CHANGES, episode={"validation_share": 0.4}))
    source = EpisodeSource(config)
    shown = {
        image.tobytes()
        for index in range(40)
        for image in [source[index].target, *source[index].context_images]
    }
    assert len(prepared(store, config)) == 9
    assert len(shown) == 5


def test_episodes_leave_cached_cases_as_they_were(experiment, store):
    opened = Store.open(store)
    config = store_only(changed(experiment, augment=dict.fromkeys(NO_CHANGES, 1.0)))
    before = {
        name: [part.copy() for part in prepared_case(opened, name, 0, config.volume)]
        for name in opened.cases
    }
    source = EpisodeSource(config)
    for index in range(30):
        for part in source[index]:
            part *= -1
    for name, parts in before.items():
        for part, now in zip(parts, prepared_case(opened, name, 0, config.volume), strict=True):
            np.testing.assert_array_equal(now, part)


def test_masks_are_inverted_for_mask_prompts_alone(experiment):
    def structures(kind):
        config = changed(
            experiment, augment={**NO_CHANGES, "invert_mask": 1.0}, prompts={"kinds": {kind: 1.0}}
        )
        source = EpisodeSource(store_only(config))
        return [source[index].truth.mean() for index in range(6)]

    assert min(structures("mask")) > 0.5
    assert max(structures("box")) < 0.5
    assert max(structures("point")) < 0.5


def test_images_are_turned_each_by_itself_in_synthetic_cohorts_alone(experiment):
    for data, turned in ((experiment.data[:1], False), (experiment.data[1:], True)):
        plain = changed(replace(experiment, data=data), augment=NO_CHANGES)
        each = changed(plain, augment={"turn_each": 1.0})
        same = [digest(EpisodeSource(config)[0]) for config in (plain, each)]
        assert (same[0] != same[1]) == turned


def group(contexts: int = 3) -> Group:
    masks = np.zeros((contexts + 1, 16, 16, 8), bool)
    for i, mask in enumerate(masks):
        mask[4:10, 4 + i : 12, 2:6] = True
    images = np.random.default_rng(0).random(masks.shape, np.float32)
    return Group(list(images), list(masks))


def test_the_first_subject_is_the_target_and_the_others_its_contexts():
    shown = episode(group(), "mask", 1, np.random.default_rng(0))
    np.testing.assert_array_equal(shown.target[..., 0], group().images[0])
    np.testing.assert_array_equal(shown.truth[..., 0], group().masks[0])
    np.testing.assert_array_equal(shown.context_images[..., 0], group().images[1:])
    np.testing.assert_array_equal(shown.context_prompts[..., 0], group().masks[1:])


@pytest.mark.parametrize("kind", ["box", "point"])
@pytest.mark.parametrize("count", [1, 4])
def test_every_context_gets_the_prompts_asked_for(kind, count):
    drawn = draw_prompts(group(), kind, count, np.random.default_rng(0))
    assert [len(prompts) for prompts in drawn] == [count] * 3


def test_the_number_of_prompts_covers_its_range(experiment, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "wsicl_jax.data.episodes.draw_prompts",
        lambda group, kind, count, rng: (
            asked.append(count) or draw_prompts(group, kind, count, rng)
        ),
    )
    source = EpisodeSource(changed(store_only(experiment), prompts={"count": (2, 4)}))
    for index in range(40):
        source[index]
    assert set(asked) == {2, 3, 4}


def test_the_usual_number_of_contexts_comes_as_often_as_asked(experiment):
    settings = replace(experiment.episode, contexts=(1, 3), usual_contexts=2, usual_share=0.5)
    source = EpisodeSource(replace(experiment, episode=settings))
    counts = np.bincount([source.contexts(step) for step in range(600)], minlength=4)
    assert counts[0] == 0
    # Half of the steps, and a third of the others.
    np.testing.assert_allclose(counts[1:] / 600, [1 / 6, 2 / 3, 1 / 6], atol=0.06)


def test_each_size_of_filled_context_sets_is_known_beforehand():
    settings = EpisodeConfig(contexts=(1, 8), usual_contexts=3)
    assert context_sizes(settings, 1) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert context_sizes(settings, 4) == [4, 8]
