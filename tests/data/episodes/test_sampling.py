import hashlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fabricated import dataset, store_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsicl_jax.config import (
    AUGMENTATIONS,
    SYNTHETIC,
    DatasetConfig,
    EpisodeConfig,
    ExperimentConfig,
    VolumeConfig,
    config_from_dict,
    config_to_dict,
)
from wsicl_jax.data.augmentation.group import augment_group
from wsicl_jax.data.datasets import DataSet
from wsicl_jax.data.episodes.cached_cases import working_grid_case
from wsicl_jax.data.episodes.sampling import (
    Episode,
    EpisodeSource,
    context_sizes,
    draw_mixed,
    paired_episode,
    prompted_episode,
)
from wsicl_jax.data.episodes.sources import Sampled
from wsicl_jax.data.random_streams import RandomStream
from wsicl_jax.data.store import Store
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.data.subject_group import Group
from wsicl_jax.errors import DataError
from wsicl_jax.prompts import (
    Point,
    context_inputs,
    draw,
    kind_of,
    smoothed_prompts,
    to_channel,
)

SHAPE = (10, 12, 8)
NO_CHANGES = dict.fromkeys(AUGMENTATIONS, 0)
KINDS = ("point", "box", "scribble", "box3d", "mask2d", "mask")


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
            "prompts": {"kinds": dict.fromkeys(KINDS, 1)},
            "augment": {"flip": 0.5, "noise": 0.5, "invert_mask": 0.5},
            "train": {"steps": 20, "batch": 3},
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
    assert len(EpisodeSource(experiment)) == 60


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(0, 59), min_size=1, max_size=6))
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
        "from wsicl_jax.data.episodes.sampling import EpisodeSource\n"
        "source = EpisodeSource(config_from_dict(json.load(open(sys.argv[1]))))\n"
        "for index in (17, 3, 50):\n"
        "    parts = b''.join(np.ascontiguousarray(part) for part in source[index])\n"
        "    print(hashlib.sha256(parts).hexdigest())\n"
    )
    command = [sys.executable, "-c", code, str(plain)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert told == [digest(episodes[index]) for index in (17, 3, 50)]


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
    # Of each episode: number of contexts, episode, task, cohort, and two subjects or more.
    assert len(states) >= 5 * 6
    assert len(set(states)) == len(states)


def test_the_number_of_contexts_is_constant_in_a_step_and_covers_the_range(episodes):
    counts = np.array([len(shown.context_images) for shown in episodes]).reshape(20, 3)
    assert (counts == counts[:, :1]).all()
    assert set(counts[:, 0]) == {1, 2, 3}


def test_shapes_and_types_are_what_the_network_takes(episodes):
    for shown in episodes:
        contexts = len(shown.context_images)
        assert {part.dtype for part in shown[:-1]} == {np.dtype(np.float32)}
        assert (shown.structures.dtype, shown.structures.shape) == (np.int32, (5,))
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


def test_data_sets_are_sampled_by_their_weights(experiment):
    class Told:
        def __init__(self, name):
            self.name = name

        def sample(self, index, count, rng):
            shown.append(self.name)
            mask = np.zeros((16, 16, 8), bool)
            mask[:4] = True
            group = Group([np.zeros(mask.shape, np.float32)] * count, [mask] * count)
            return Sampled(group, (0,))

    shown = []
    config = changed(experiment, prompts={"kinds": {"box": 1.0}})
    source = EpisodeSource(config, data_sets([(2, "a"), (0, "b"), (1, "c")]))
    assert len(source.sources) == 2  # none for the weight 0
    source.sources = [Told(name) for name in "ac"]
    for index in range(600):
        number, *others = source[index].structures.tolist()
        assert source.structures[number].startswith(f"{shown[-1]}/") and set(others) == {-1}
    # Three standard deviations of a binomial draw.
    assert abs(shown.count("a") - 400) < 3 * np.sqrt(600 * 2 / 9)
    assert shown == [source.data_set_of(index) for index in range(600)]


@pytest.mark.parametrize(("sampling", "share"), [("dataset", 2 / 3), ("structure", 10 / 11)])
def test_structures_are_counted_where_all_are_drawn_alike(experiment, sampling, share):
    """Five structures of weight 2 against the one of a synthetic data set."""
    config = changed(experiment, episode={"sampling": sampling})
    (store,) = data_sets([(2, "a")], labels=5)
    synthetic = DataSet(DatasetConfig(), None, {}, {})
    source = EpisodeSource(config, [store, synthetic])
    np.testing.assert_allclose(source.source_shares, [share, 1 - share])


def test_weights_are_multiplied_by_the_root_of_the_number_of_cases(experiment):
    config = changed(experiment, episode={"sampling": "sqrt_cases"})
    few, many = (
        dataset(store_of({f"case{i}": {1: 9} for i in range(count)}, name=str(count)), weight=2)
        for count in (10, 40)
    )
    source = EpisodeSource(config, [few, many, DataSet(DatasetConfig(), None, {}, {})])
    weights = [2 * np.sqrt(len(one.cases("train"))) for one in (few, many)] + [1]
    assert len(many.cases("train")) == 36  # the others are for validation
    np.testing.assert_allclose(source.source_shares, np.array(weights) / np.sum(weights))


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
    cases = [working_grid_case(opened, name, 0, config.volume) for name in opened.cases]
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
        name: [part.copy() for part in working_grid_case(opened, name, 0, config.volume)]
        for name in opened.cases
    }
    source = EpisodeSource(config)
    for index in range(30):
        for part in source[index]:
            part *= -1
    for name, parts in before.items():
        for part, now in zip(parts, working_grid_case(opened, name, 0, config.volume), strict=True):
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
        each = changed(plain, augment={"rotate90_each": 1.0})
        same = [digest(EpisodeSource(config)[0]) for config in (plain, each)]
        assert (same[0] != same[1]) == turned


def group(contexts: int = 3) -> Group:
    masks = np.zeros((contexts + 1, 16, 16, 8), bool)
    for i, mask in enumerate(masks):
        mask[4:10, 4 + i : 12, 2:6] = True
    images = np.random.default_rng(0).random(masks.shape, np.float32)
    return Group(list(images), list(masks))


def test_prompts_in_training_have_the_halo_of_the_configuration(experiment):
    plain = changed(experiment, augment=NO_CHANGES, prompts={"kinds": {"point": 1}})
    haloed = changed(plain, volume={"prompt_smoothing": 0.1})
    for index in range(4):
        a, b = EpisodeSource(plain)[index], EpisodeSource(haloed)[index]
        np.testing.assert_array_equal(a.context_images, b.context_images)
        assert a.context_prompts.any()
        expected = smoothed_prompts(
            a.context_prompts[..., 0], [False] * len(a.context_prompts), 0.1
        )
        np.testing.assert_array_equal(b.context_prompts[..., 0], expected)


def test_registered_context_images_and_their_smoothed_prompts_fit_the_target():
    images, masks = group()
    images = [ndimage.gaussian_filter(image, 2) for image in images]
    prompts = [[mask] if i else [Point(6, 6, 4)] for i, mask in enumerate(masks[1:])]
    plain, moved = (
        prompted_episode(images, masks[0], prompts, volume)
        for volume in (
            VolumeConfig(prompt_smoothing=0.2),
            VolumeConfig(prompt_smoothing=0.2, registration=True),
        )
    )
    np.testing.assert_array_equal(moved.target, plain.target)
    volume = VolumeConfig(prompt_smoothing=0.2, registration=True)
    expected = context_inputs(images[0], images[1:], prompts, volume)
    np.testing.assert_array_equal(moved.context_images[..., 0], expected[0])
    np.testing.assert_array_equal(moved.context_prompts[..., 0], expected[1])
    assert (moved.context_images != plain.context_images).any()


def test_an_episode_shows_the_target_its_contexts_and_the_prompts_on_these():
    images, masks = group()
    prompts = [draw("box", mask, 2, np.random.default_rng(0)) for mask in masks[1:]]
    shown = prompted_episode(images, masks[0], prompts, VolumeConfig())
    np.testing.assert_array_equal(shown.target[..., 0], images[0])
    np.testing.assert_array_equal(shown.truth[..., 0], masks[0])
    np.testing.assert_array_equal(shown.context_images[..., 0], images[1:])
    painted = [to_channel(of_image, images[0].shape) for of_image in prompts]
    np.testing.assert_array_equal(shown.context_prompts[..., 0], painted)
    np.testing.assert_array_equal(shown.context_weights, [1, 1, 1])


def test_a_pair_shows_what_each_image_should_become():
    images, wanted = group().images, [image * 2 for image in group().images]
    shown = paired_episode(images, wanted)
    np.testing.assert_array_equal(shown.target[..., 0], images[0])
    np.testing.assert_array_equal(shown.truth[..., 0], wanted[0])
    np.testing.assert_array_equal(shown.context_images[..., 0], images[1:])
    np.testing.assert_array_equal(shown.context_prompts[..., 0], wanted[1:])
    np.testing.assert_array_equal(shown.context_weights, [1, 1, 1])
    assert {part.dtype for part in shown[:-1]} == {np.dtype(np.float32)}


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_mixed_prompts_have_the_requested_number_of_each_kind(jitter):
    kinds = ["point", "mask", "box", "point", "box3d", "mask", "scribble", "box3d", "box", "point"]
    drawn = draw_mixed(kinds, group().masks[1], np.random.default_rng(0), jitter=jitter)
    found = Counter(kind_of(prompt) for prompt in drawn)
    # Those of the whole structure come once.
    assert found == {"point": 3, "box": 2, "scribble": 1, "box3d": 1, "mask": 1}
    for kind in ("point", "box"):
        of_kind = [prompt for prompt in drawn if kind_of(prompt) == kind]
        assert len(set(of_kind)) == len(of_kind)


def test_mixed_prompts_of_a_tiny_structure_are_fewer_and_of_an_absent_one_none():
    mask = np.zeros((8, 8, 8), bool)
    kinds = ["point", "point", "box", "box", "mask2d", "mask2d"]
    assert draw_mixed(kinds, mask, np.random.default_rng(0)) == []
    mask[3, 3, 3] = True
    drawn = draw_mixed(kinds, mask, np.random.default_rng(0))
    assert Counter(kind_of(prompt) for prompt in drawn) == {"point": 1, "box": 1, "mask2d": 1}


@pytest.fixture
def told(monkeypatch):
    """The kinds that are drawn, of each context image; filled when an episode is made."""
    asked = []
    monkeypatch.setattr(
        "wsicl_jax.data.episodes.sampling.draw_mixed",
        lambda kinds, *args, **more: asked.append(list(kinds)) or draw_mixed(kinds, *args, **more),
    )
    return asked


def kinds_of(told, source, index):
    """The kinds of the prompts of each context image of an episode."""
    told.clear()
    source[index]
    return [list(kinds) for kinds in told]


def test_the_number_of_prompts_covers_its_range_and_is_one_in_an_episode(experiment, told):
    source = EpisodeSource(changed(store_only(experiment), prompts={"count": (2, 4)}))
    counts = [{len(kinds) for kinds in kinds_of(told, source, index)} for index in range(40)]
    assert all(len(of_episode) == 1 for of_episode in counts)
    assert set.union(*counts) == {2, 3, 4}


def mixed(experiment, mixing):
    return EpisodeSource(
        changed(
            store_only(experiment),
            prompts={"mixing": mixing, "count": (4, 4), "kinds": {"box": 1.0, "point": 3.0}},
            episode={"contexts": (3, 3)},
            augment=NO_CHANGES,
        )
    )


@pytest.mark.parametrize("mixing", ["episode", "image", "prompt"])
def test_kinds_are_mixed_between_episodes_images_or_prompts(experiment, told, mixing):
    source = mixed(experiment, mixing)
    episodes = [kinds_of(told, source, index) for index in range(60)]
    assert all(len(images) == 3 and {len(i) for i in images} == {4} for images in episodes)
    within_images = any(len(set(kinds)) > 1 for images in episodes for kinds in images)
    assert within_images == (mixing == "prompt")
    between_images = any(len({kinds[0] for kinds in images}) > 1 for images in episodes)
    assert between_images == (mixing != "episode")
    # Whatever has one kind, kinds come as often as asked for.
    units = {
        "episode": [images[0][0] for images in episodes],
        "image": [kinds[0] for images in episodes for kinds in images],
        "prompt": [kind for images in episodes for kinds in images for kind in kinds],
    }[mixing]
    # Three standard deviations of a binomial draw.
    assert abs(np.mean([kind == "point" for kind in units]) - 0.75) < 1.3 / np.sqrt(len(units))


def test_masks_are_not_inverted_beside_other_prompts(experiment):
    config = changed(
        store_only(experiment),
        augment={**NO_CHANGES, "invert_mask": 1.0},
        prompts={"mixing": "prompt", "count": (3, 3), "kinds": {"mask": 1.0, "point": 1.0}},
    )
    source = EpisodeSource(config)
    assert max(source[index].truth.mean() for index in range(10)) < 0.5


def test_a_target_without_the_structure_is_another_one_and_has_an_empty_mask(experiment):
    plain = changed(store_only(experiment), augment=NO_CHANGES)
    source = EpisodeSource(changed(plain, episode={"absent_share": 0.4, "self_context_share": 0.0}))
    same = EpisodeSource(changed(plain, episode={"self_context_share": 0.0}))
    absent = 0
    for index in range(30):
        one, other = source[index], same[index]
        np.testing.assert_array_equal(one.context_images, other.context_images)
        assert one.context_prompts.any()
        if not one.truth.any():
            absent += 1
            assert np.abs(one.target - other.target).mean() > 0.05
        else:
            np.testing.assert_array_equal(one.target, other.target)
    assert 5 < absent < 20


def test_a_blank_target_is_noise_and_has_an_empty_mask(experiment):
    plain = changed(store_only(experiment), augment=NO_CHANGES)
    source = EpisodeSource(changed(plain, episode={"blank_share": 0.4, "self_context_share": 0.0}))
    same = EpisodeSource(changed(plain, episode={"self_context_share": 0.0}))
    blank, constant = 0, 0
    for index in range(40):
        one, other = source[index], same[index]
        np.testing.assert_array_equal(one.context_images, other.context_images)
        assert one.context_prompts.any()
        if one.truth.any():
            np.testing.assert_array_equal(one.target, other.target)
            continue
        blank += 1
        assert 0 <= one.target.min() <= one.target.max() <= 1
        if np.ptp(one.target) == 0:
            constant += 1
            continue
        assert abs(np.corrcoef(one.target.ravel(), other.target.ravel())[0, 1]) < 0.3
    assert 8 < blank < 28
    assert 0 < constant < blank


def test_settings_that_change_nothing_leave_every_episode_as_it_was(experiment, episodes):
    """Also the order in which frequencies are written."""
    config = changed(
        experiment,
        prompts={"jitter": 0.0, "mixing": "episode", "kinds": dict.fromkeys(reversed(KINDS), 1.0)},
        episode={"self_context_share": 0.0, "tasks": {"denoising": 0.0, "segmentation": 0.3}},
        augment={"gin": 0.0, "invert_image": 0.0, "scale": 0.0, "shift": 0.0, "noise": 0.0},
    )
    source = EpisodeSource(config)
    for index in range(0, 60, 5):
        assert digest(source[index]) == digest(episodes[index])


def test_kinds_that_never_come_change_no_episode(experiment):
    few = changed(experiment, prompts={"kinds": {"box": 1.0, "point": 1.0}})
    more = changed(experiment, prompts={"kinds": {"mask": 0.0, "point": 1.0, "box": 1.0}})
    one, other = EpisodeSource(few), EpisodeSource(more)
    for index in range(0, 60, 10):
        assert digest(one[index]) == digest(other[index])


def test_what_a_seed_means_stays_the_same(experiment):
    """Source, kind, number of prompts, cases, changes, then the prompts of each context."""
    config = store_only(experiment)
    source = EpisodeSource(config)
    kinds = sorted(KINDS)
    for index in range(12):
        rng = np.random.default_rng((config.seed, RandomStream.EPISODE, index))
        rng.choice(1, p=[1.0])
        kind = kinds[rng.choice(6, p=np.full(6, 1 / 6))]
        count = int(rng.integers(1, 6))
        contexts = source.contexts(index // 3)
        images, masks = augment_group(
            source.sources[0].sample(index, contexts + 1, rng).group,
            config.augment,
            rng,
            may_invert_mask=kind == "mask",
            may_rotate90_each=False,
        )
        shown = [draw(kind, mask, count, rng) for mask in masks[1:]]
        made = source[index]
        by_hand = prompted_episode(images, masks[0], shown, VolumeConfig())
        assert digest(made) == digest(by_hand._replace(structures=made.structures))


RICH = {
    "prompts": {"mixing": "prompt", "jitter": 0.1},
    "episode": {
        "self_context_share": 0.3,
        "tasks": {
            "segmentation": 2.0,
            "denoising": 1.0,
            "inpainting": 1.0,
            "super_resolution": 1.0,
        },
    },
    "augment": {"gin": 0.0, "invert_image": 0.0, "scale": 0.0, "shift": 0.0, "noise": 0.0},
}


def test_mixed_jittered_and_restored_episodes_are_the_same_from_a_new_source(experiment):
    config = changed(experiment, **RICH)
    first, again = EpisodeSource(config), EpisodeSource(config)
    made = [digest(first[index]) for index in range(12)]
    assert [digest(again[index]) for index in reversed(range(12))] == made[::-1]
    assert len(set(made)) == 12


def test_jitter_moves_prompts_alone(experiment, episodes):
    moved = EpisodeSource(changed(experiment, prompts={"jitter": 0.3}))
    differ = 0
    for index in range(12):
        one, other = episodes[index], moved[index]
        for part in ("target", "truth", "context_images"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
        assert (other.context_prompts.max((1, 2, 3, 4)) == 1).all()
        differ += not np.array_equal(one.context_prompts, other.context_prompts)
    assert differ > 8


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_first_context_is_the_target_itself_as_often_as_set(experiment, share):
    config = changed(
        store_only(experiment),
        episode={"self_context_share": share, "contexts": (2, 2)},
        prompts={"kinds": {"mask": 1.0}},
    )
    source, own = EpisodeSource(config), 0
    for index in range(60):
        shown = source[index]
        same = [np.array_equal(shown.target, image) for image in shown.context_images]
        assert same[1:] == [False]
        # Its prompts are on the target's structure.
        if same[0]:
            np.testing.assert_array_equal(shown.context_prompts[0], shown.truth)
        own += same[0]
    # Three standard deviations of a binomial draw.
    assert abs(own - 60 * share) <= 3 * np.sqrt(60 * share * (1 - share))


def of_task(experiment, task):
    tasks = {"segmentation": 0.0, task: 1.0}
    config = changed(experiment, **{**RICH, "episode": {"tasks": tasks}})
    plain = changed(config, episode={"tasks": {"segmentation": 1.0}})
    return EpisodeSource(config), EpisodeSource(plain)


@pytest.mark.parametrize("task", ["denoising", "inpainting", "super_resolution"])
def test_an_image_to_image_task_shows_worse_images_with_what_they_should_become(experiment, task):
    """Its images are those of a segmentation episode with the same number."""
    source, plain = of_task(experiment, task)
    for index in range(4):
        shown, clean = source[index], plain[index]
        np.testing.assert_array_equal(shown.truth, clean.target)
        np.testing.assert_array_equal(shown.context_prompts, clean.context_images)
        worse = [shown.target, *shown.context_images]
        wanted = [shown.truth, *shown.context_prompts]
        for image, became in zip(worse, wanted, strict=True):
            assert image.shape == became.shape == (16, 16, 8, 1)
            if task == "inpainting":
                holes = image != became
                assert (image[holes] == 0).all() and holes.mean() < 0.2
                assert ((image == 0).mean()) >= (1 / 6) ** 3 / 2
            elif task == "super_resolution":
                for axis in range(3):
                    assert detail(image, axis) < 0.9 * detail(became, axis)
        if task == "denoising":
            deviations = [np.std(a - b) for a, b in zip(worse, wanted, strict=True)]
            # One for all images of an episode; 2048 voxels tell it to 2 percent.
            assert min(deviations) > 0.045 and max(deviations) < 0.215
            np.testing.assert_allclose(deviations, np.mean(deviations), rtol=0.1)


def detail(image, axis):
    return float(np.abs(np.diff(image, axis=axis)).mean())


def test_tasks_are_sampled_as_often_as_set_and_leave_other_episodes_unchanged(experiment):
    tasks = {"segmentation": 3.0, "denoising": 1.0}
    config = changed(store_only(experiment), **{**RICH, "episode": {"tasks": tasks}})
    plain = changed(config, episode={"tasks": {"segmentation": 1.0}})
    source, other = EpisodeSource(config), EpisodeSource(plain)
    masks = 0
    for index in range(100):
        shown = source[index]
        if set(np.unique(shown.truth)) == {0, 1}:
            masks += 1
            if index < 30:
                assert digest(shown) == digest(other[index])
    # Three standard deviations of a binomial draw.
    assert abs(masks - 75) < 3 * np.sqrt(100 * 0.75 * 0.25)


def test_the_answer_of_an_image_to_image_task_is_never_among_its_contexts(experiment):
    source, _ = of_task(changed(experiment, episode={"self_context_share": 1.0}), "inpainting")
    assert source.config.episode.self_context_share == 1
    for index in range(5):
        shown = source[index]
        assert not any(np.array_equal(shown.truth, clean) for clean in shown.context_prompts)


def test_the_common_number_of_contexts_is_sampled_as_often_as_set(experiment):
    settings = replace(
        experiment.episode, contexts=(1, 3), common_contexts=2, common_contexts_share=0.5
    )
    source = EpisodeSource(replace(experiment, episode=settings))
    counts = np.bincount([source.contexts(step) for step in range(600)], minlength=4)
    assert counts[0] == 0
    # Half of the steps, and a third of the others.
    np.testing.assert_allclose(counts[1:] / 600, [1 / 6, 2 / 3, 1 / 6], atol=0.06)


def test_context_sizes_lists_each_size_of_filled_context_sets():
    settings = EpisodeConfig(contexts=(1, 8), common_contexts=3)
    assert context_sizes(settings, 1) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert context_sizes(settings, 4) == [4, 8]


CLOSE = {"episode": {"crop_share": 1.0, "min_voxels": 2}, "volume": {"grid": (6, 6, 4)}}


def test_close_episodes_show_the_structure_in_every_image_and_repeat_themselves(experiment):
    config = changed(experiment, **CLOSE)
    first, again = EpisodeSource(config), EpisodeSource(config)
    whole = EpisodeSource(changed(experiment, **CLOSE | {"episode": {"min_voxels": 2}}))
    differ = 0
    for index in range(15):
        shown = first[index]
        assert shown.target.shape == (6, 6, 4, 1)
        assert shown.truth.sum() >= 2
        assert all(prompts.any() for prompts in shown.context_prompts)
        assert digest(again[index]) == digest(shown)
        differ += digest(whole[index]) != digest(shown)
    assert differ == 15


def test_cropped_episodes_show_the_structure_larger(experiment):
    """The structures are smaller than a view: closer ones show them larger."""
    plain = {"augment": NO_CHANGES, "volume": {"grid": (6, 6, 4)}}
    few = {"min_voxels": 2, "structures": "named"}
    close = changed(store_only(experiment), **plain, episode={**few, "crop_share": 1.0})
    whole = changed(store_only(experiment), **plain, episode=few)
    shares = [
        np.mean([EpisodeSource(config)[index].truth.mean() for index in range(30)])
        for config in (close, whole)
    ]
    assert shares[0] > 1.1 * shares[1]


def test_shuffled_episodes_exchange_prompts_between_context_images(experiment):
    prompts = replace(experiment.prompts, kinds={"mask": 1.0})
    whole = replace(experiment, prompts=prompts, augment=experiment.augment.only(), seed=3)
    shuffled = replace(whole, episode=replace(whole.episode, shuffled_prompts_share=1.0))
    before, after = EpisodeSource(whole), EpisodeSource(shuffled)
    half = len(before) // 2
    moved = 0
    for index in range(half, half + 20):
        a, b = before[index], after[index]
        for name in ("target", "truth", "context_images"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        shown = {p.tobytes() for p in a.context_prompts}
        assert shown == {p.tobytes() for p in b.context_prompts}
        moved += not np.array_equal(a.context_prompts, b.context_prompts)
    assert moved > 3


def test_no_prompts_are_exchanged_before_their_time(experiment):
    shuffled = replace(
        experiment,
        episode=replace(experiment.episode, shuffled_prompts_share=1.0, shuffled_prompts_from=0.5),
    )
    before, after = EpisodeSource(experiment), EpisodeSource(shuffled)
    for index in range(0, len(before) // 2, 7):
        np.testing.assert_array_equal(before[index].context_prompts, after[index].context_prompts)


def negative_of(shown: Episode) -> list[int]:
    """Voxels of each context image that negative prompts mark."""
    return [int((channel < 0).sum()) for channel in shown.context_prompts]


def test_negative_points_are_on_the_share_of_context_images_that_is_set(experiment):
    source = EpisodeSource(changed(store_only(experiment), prompts={"negative_share": 0.5}))
    marked = [bool(count) for i in range(40) for count in negative_of(source[i])]
    assert 0.35 < np.mean(marked) < 0.65
    without = EpisodeSource(store_only(experiment))
    assert not any(count for i in range(40) for count in negative_of(without[i]))


def test_excluded_parts_are_marked_on_the_target_and_missing_from_the_truth(experiment):
    config = changed(
        replace(experiment, data=(DatasetConfig(store=SYNTHETIC),)),
        episode={"excluded_share": 1.0, "max_labels": 3},
        augment=NO_CHANGES,
    )
    source = EpisodeSource(config)
    excluding = 0
    for index in range(12):
        shown = source[index]
        np.testing.assert_array_equal(shown.context_images[0], shown.target)
        first = shown.context_prompts[0]
        excluding += (first < 0).any()
        centres = first == -1
        assert not (shown.truth[centres] > 0).any()
        # The other context images have prompts on the whole structure, and none that is negative.
        assert not any(negative_of(shown)[1:])
        if len(negative_of(shown)) == 1:
            assert (first > 0).any()
    assert excluding == 12
