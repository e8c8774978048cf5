import dataclasses
import inspect
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from wsicl_jax import config as config_module
from wsicl_jax.config import (
    INTENSITY_AUGMENTATIONS,
    SYNTHETIC,
    EvaluationConfig,
    ExperimentConfig,
    PromptKind,
    RestorationTask,
    config_from_dict,
    config_to_dict,
    load_ablation,
    load_config,
    load_sweep,
    override_config,
)
from wsicl_jax.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("**/*.yaml"))
SECTIONS = [
    kind
    for _, kind in inspect.getmembers(config_module, dataclasses.is_dataclass)
    if kind.__module__.startswith(config_module.__name__)
]


def error_of(settings=None, overrides=()) -> str:
    with pytest.raises(ConfigError) as caught:
        override_config(config_from_dict(settings or {}), overrides)
    return str(caught.value)


@pytest.fixture
def write(tmp_path):
    def write(name: str, settings) -> Path:
        path = tmp_path / name
        path.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
        return path

    return write


@pytest.mark.parametrize(
    ("settings", "given", "nearest"),
    [
        ({"trian": {}}, "trian", "train"),
        ({"train": {"stps": 3}}, "train.stps", "train.steps"),
        ({"data": [{}, {"wieght": 3}]}, "data.1.wieght", "data.1.weight"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_one(settings, given, nearest):
    assert error_of(settings) == f"unknown setting {given!r}; nearest is {nearest!r}"


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"train": {"steps": "many"}}, "train.steps"),
        ({"train": {"steps": 0}}, "train.steps"),
        ({"train": {"learning_rate": float("inf")}}, "train.learning_rate"),
        ({"train": {"learning_rate": float("nan")}}, "train.learning_rate"),
        ({"train": {"loss_beta": 0}}, "train.loss_beta"),
        ({"train": {"loss": "l2"}}, "train.loss"),
        ({"train": None}, "train"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"train": {"steps": True}}, "train.steps"),
        ({"augment": {"flip": 1.5}}, "augment.flip"),
        ({"augment": {"elastic_displacement": 0.2}}, "augment.elastic_displacement"),
        ({"augment": {"gin_blend": [1.0, 0.7]}}, "augment.gin_blend"),
        ({"model": {"channels": [4]}}, "model.channels"),
        ({"model": {"channels": [4, 0]}}, "model.channels.1"),
        ({"volume": {"grid": [8, 8]}}, "volume.grid"),
        ({"volume": {"percentiles": [5, 5]}}, "volume"),
        ({"volume": {"percentiles": [5, 101]}}, "volume"),
        ({"data": []}, "data"),
        ({"data": [{"structures": {"whole": [1, 0]}}]}, "data.0.structures.whole.1"),
        ({"prompts": {"kinds": {"scrible": 1}}}, "prompts.kinds.scrible"),
        ({"prompts": {"kinds": {"mixed": 1}}}, "prompts.kinds.mixed"),
        ({"prompts": {"kinds": {"box": 0}}}, "prompts: at least one kind needs"),
        ({"prompts": {"mixing": "subject"}}, "prompts.mixing"),
        ({"prompts": {"jitter": -0.1}}, "prompts.jitter"),
        ({"prompts": {"jitter": float("nan")}}, "prompts.jitter"),
        ({"episode": {"tasks": {"denoise": 1}}}, "episode.tasks.denoise"),
        ({"episode": {"tasks": {}}}, "episode: at least one task needs"),
        ({"episode": {"tasks": {"segmentation": 0}}}, "episode: at least one task needs"),
        ({"episode": {"self_context_share": 1.5}}, "episode.self_context_share"),
        ({"evaluation": 3}, "evaluation = 3"),
        ({"evaluation": "box"}, "evaluation = 'box'"),
        ({"evaluation": [1]}, "evaluation = [1]"),
        ({"evaluation": None}, "evaluation = None"),
        ({"evaluation": {"kinds": ["boxes"]}}, "evaluation.kinds.0"),
        ({"evaluation": {"kinds": []}}, "evaluation: nothing is evaluated"),
        ({"evaluation": {"contexts": 0}}, "evaluation.contexts.0"),
        ({"evaluation": {"contexts": [4, 0]}}, "evaluation.contexts.1"),
        ({"evaluation": {"contexts": []}}, "evaluation.contexts"),
        ({"evaluation": {"contexts": True}}, "evaluation.contexts"),
        ({"evaluation": {"prompts": 2.0}}, "evaluation.prompts"),
        ({"evaluation": {"interactive": {"kinds": ["mask"]}}}, "evaluation.interactive.kinds.0"),
        ({"evaluation": {"interactive": {"rounds": 0}}}, "evaluation.interactive.rounds"),
        ({"evaluation": {"restoration": ["segmentation"]}}, "evaluation.restoration.0"),
        ({"episode": {"contexts": [5, 2]}}, "episode.contexts"),
        ({"prompts": {"count": [5, 2]}}, "prompts.count"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_key(settings, key):
    assert error_of(settings).startswith(key)


def test_a_bad_list_entry_is_reported_once():
    assert ";" not in error_of({"data": [{"weight": -1}]})


def test_several_bad_values_are_reported_together():
    message = error_of({"train": {"steps": 0, "batch": 0}})
    assert "train.steps" in message
    assert "train.batch" in message


def test_data_sets_of_weight_0_alone_are_refused():
    assert "weight" in error_of({"data": [{"weight": 0}, {"weight": 0}]})


def test_a_grid_that_the_network_cannot_halve_is_refused_with_its_multiple():
    settings = {"model": {"channels": [2, 4, 8]}, "volume": {"grid": [8, 8, 10]}}
    message = error_of(settings)
    assert message.startswith("volume.grid")
    assert "multiple of 4" in message
    settings["model"]["channels"] = [2, 4]
    assert config_from_dict(settings).model.size_multiple == 2


@pytest.mark.parametrize("store", [SYNTHETIC, "stores/two words"])
def test_a_single_name_stands_for_a_list_of_data_sets(store):
    config = config_from_dict({"data": store})
    assert config == config_from_dict({"data": [{"store": store}]})


def test_settings_that_are_read_stay_as_they_were():
    settings = {"data": SYNTHETIC, "train": {"steps": 3}, "evaluation": {"contexts": 3}}
    config_from_dict(settings)
    assert settings == {"data": SYNTHETIC, "train": {"steps": 3}, "evaluation": {"contexts": 3}}


def test_a_single_number_stands_for_a_list_of_contexts_or_prompts():
    config = config_from_dict({"evaluation": {"contexts": 3, "prompts": [5, 1]}})
    assert (config.evaluation.contexts, config.evaluation.prompts) == ((3,), (5, 1))
    assert config.evaluation.most_prompts == 5
    assert EvaluationConfig(prompts=2) == EvaluationConfig(prompts=(2,))


def test_context_images_are_enough_for_interactive_sessions_too():
    beside = {"kinds": ["box"], "contexts": 8}
    assert EvaluationConfig(contexts=(4, 1)).most_contexts == 4
    assert EvaluationConfig(contexts=(4, 1), interactive=beside).most_contexts == 8
    assert EvaluationConfig(contexts=(4, 1), interactive={"contexts": 8}).most_contexts == 4
    assert EvaluationConfig(kinds=["mask"], interactive=beside).context_kinds == ("mask", "box")
    assert EvaluationConfig(kinds=["mask"], interactive={"kinds": ["box"]}).context_kinds == (
        "mask",
    )


def test_overrides_reach_sections_lists_and_new_entries():
    config = override_config(
        config_from_dict({"data": [{"store": "a"}, {"store": "b"}]}),
        [
            "train.learning_rate=1e-4",
            "data.1.weight=2.5",
            "data.1.structures.whole=[1, 2]",
            "volume.grid.0=64",
            "prompts.kinds.mask=1",
            "run=runs/a=b",
        ],
    )
    assert config.train.learning_rate == 1e-4
    assert [dataset.weight for dataset in config.data] == [1, 2.5]
    assert config.data[1].structures == {"whole": (1, 2)}
    assert config.volume.grid == (64, 32, 32)
    assert config.prompts.kinds == {"box": 1, "mask": 1}
    assert config.run == "runs/a=b"


def test_plus_appends_to_a_list_or_to_its_default(write):
    path = write("a.yaml", {"data": [{"store": "a", "labels": [1]}]})
    overrides = ["data+=b", "data+={store: c, weight: 2}", "data.0.labels+=[2, 3]"]
    config = load_config(path, [*overrides, "evaluation.kinds+=point"])
    assert [(one.store, one.weight) for one in config.data] == [("a", 1), ("b", 1), ("c", 2)]
    assert config.data[0].labels == (1, 2, 3)
    assert config.evaluation.kinds == ("box", "point")
    assert override_config(ExperimentConfig(), ["data+=b"]).data[0].store == SYNTHETIC
    assert "train.steps = [2000, 5] does not fit" in error_of(overrides=["train.steps+=5"])


def test_what_an_ablation_appends_is_appended_in_every_cell(write):
    path = write("a.yaml", {"base": "b.yaml", "output": "runs/a"})
    ablation = load_ablation(path, ["data+=b", "data+=c", "output=runs/b"])
    assert ablation.overrides == {"data+": ["b", "c"]} and ablation.output == "runs/b"


def test_the_last_of_two_overrides_counts():
    overrides = ["train.steps=1", "train.steps=2"]
    assert override_config(ExperimentConfig(), overrides).train.steps == 2


@pytest.mark.parametrize(
    "override",
    [
        "train.steps",
        "=3",
        "train..steps=3",
        "train.steps=[",
        "data.1.store=x",
        "data.-1.store=x",
        "data.².store=x",
        "data.first.store=x",
        "run.name=x",
        "train.stps=3",
        "train=",
    ],
)
def test_an_override_that_leads_nowhere_is_refused(override):
    assert error_of(overrides=[override])


def test_a_file_gives_what_differs_and_overrides_come_last(write):
    path = write("a.yaml", {"seed": 3, "train": {"steps": 7, "batch": 2}})
    expected = config_from_dict({"seed": 3, "train": {"steps": 7, "batch": 5}})
    assert load_config(path, ["train.batch=5"]) == expected


def test_an_empty_file_is_the_defaults(write):
    assert load_config(write("a.yaml", "# nothing\n")) == ExperimentConfig()


def test_a_file_inherits_what_it_does_not_say_itself(write):
    write("base.yaml", {"seed": 3, "data": [{"store": "a"}, {"store": "b"}], "train": {"steps": 7}})
    path = write(
        "a.yaml", {"inherits": "base.yaml", "data": [{"store": "c"}], "train": {"batch": 2}}
    )
    config = load_config(path)
    assert (config.seed, config.train.steps, config.train.batch) == (3, 7, 2)
    assert [dataset.store for dataset in config.data] == ["c"]


def test_the_nearest_file_of_a_chain_of_inherited_files_counts(write):
    write("a.yaml", {"seed": 3, "train": {"steps": 7, "batch": 1, "warmup_steps": 5}})
    write("b.yaml", {"inherits": "a.yaml", "train": {"steps": 8, "batch": 2}})
    config = load_config(write("c.yaml", {"inherits": "b.yaml", "train": {"steps": 9}}))
    train = config.train
    assert (config.seed, train.warmup_steps, train.batch, train.steps) == (3, 5, 2, 9)


def test_an_inherited_file_is_relative_to_the_file_that_names_it(write, tmp_path, monkeypatch):
    for folder in ("below", "elsewhere"):
        (tmp_path / folder).mkdir()
    write("a.yaml", {"seed": 3, "data": "stores/a"})
    write("below/b.yaml", {"inherits": "../a.yaml"})
    path = write("c.yaml", {"inherits": "below/b.yaml"})
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load_config(path)
    # A path of data stays as it is: relative to the working directory.
    assert (config.seed, config.data[0].store) == (3, "stores/a")


@pytest.mark.parametrize("parents", [["a"], ["b", "a"], ["b", "c", "b"]])
def test_a_file_that_inherits_from_itself_is_refused(write, parents):
    for child, parent in zip(["a", *parents], parents, strict=False):
        path = write(f"{child}.yaml", {"inherits": f"{parent}.yaml"})
    with pytest.raises(ConfigError, match=r"\.yaml inherits from itself"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path, write):
    with pytest.raises(ConfigError, match=r"no configuration at .*none\.yaml"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"no configuration at .*none\.yaml"):
        load_config(write("a.yaml", {"inherits": "none.yaml"}))


@pytest.mark.parametrize("content", ["a: [1", "- a\n- b\n", "text", "\x00"])
def test_a_file_that_is_no_yaml_mapping_is_named(write, content):
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        load_config(write("a.yaml", content))


def test_a_directory_or_binary_file_is_named(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x80")
    for path in (tmp_path, tmp_path / "a.yaml"):
        with pytest.raises(ConfigError, match=path.name):
            load_config(path)


counts = st.integers(1, 9)
ranges = st.tuples(counts, counts).map(sorted)
amounts = st.floats(0, 1e6)
experiments = st.fixed_dictionaries(
    {},
    optional={
        "run": st.text(),
        "seed": st.integers(0, 2**32 - 1),
        "data": st.lists(
            st.fixed_dictionaries(
                {"store": st.text(), "weight": st.floats(0.1, 9)},
                optional={"structures": st.dictionaries(st.text(), st.lists(counts))},
            ),
            min_size=1,
            max_size=3,
        ),
        "volume": st.builds(
            lambda grid, low: {"grid": [8 * n for n in grid], "percentiles": [low, 99.5]},
            st.tuples(counts, counts, counts),
            st.floats(0, 99),
        ),
        "episode": st.fixed_dictionaries(
            {"contexts": ranges, "validation_share": st.floats(0, 1)},
            optional={
                "self_context_share": st.floats(0, 1),
                "tasks": st.just({"segmentation": 1, "denoising": 0}),
            },
        ),
        "prompts": st.fixed_dictionaries(
            {
                "kinds": st.dictionaries(
                    st.sampled_from(PromptKind.__args__), st.floats(0.1, 9), min_size=1
                )
            },
            optional={
                "mixing": st.sampled_from(["episode", "image", "prompt"]),
                "jitter": st.floats(0, 2),
            },
        ),
        "evaluation": st.fixed_dictionaries(
            {},
            optional={
                "kinds": st.lists(st.sampled_from([*PromptKind.__args__, "mixed"]), min_size=1),
                "contexts": counts | st.lists(counts, min_size=1),
                "prompts": counts | st.lists(counts, min_size=1),
                "interactive": st.fixed_dictionaries(
                    {"kinds": st.lists(st.sampled_from(["point", "box", "scribble"]))}
                ),
                "restoration": st.lists(st.sampled_from(RestorationTask.__args__)),
            },
        ),
        "train": st.fixed_dictionaries({"steps": counts, "clip_norm": amounts}),
    },
)


@settings(max_examples=60, deadline=None)
@given(experiments)
def test_a_configuration_comes_back_from_its_plain_values_and_from_yaml(given_settings):
    config = config_from_dict(given_settings)
    plain = config_to_dict(config)
    assert config_from_dict(plain) == config
    assert config_from_dict(yaml.safe_load(yaml.safe_dump(plain))) == config


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExperimentConfig().seed = 1


def test_there_are_sections():
    assert {ExperimentConfig, EvaluationConfig} < set(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda kind: kind.__name__)
def test_every_setting_is_documented(section):
    described = {
        name
        for kind in section.__mro__
        for name, setting in getattr(kind, "__pydantic_fields__", {}).items()
        if setting.description
    }
    assert described == {field.name for field in dataclasses.fields(section)}


def test_reading_a_configuration_does_not_import_jax():
    code = "import sys, wsicl_jax.config; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_there_are_configurations():
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_file_loads(path):
    if path.parent.name != "sweeps":
        assert load_config(path).run
    elif "base" in yaml.safe_load(path.read_text()):  # trainings; the others evaluate
        assert load_config(load_ablation(path).base).run
    else:
        assert load_sweep(path).checkpoints


def test_each_stage_of_the_small_network_begins_with_the_weights_of_the_one_before():
    configs = Path(__file__).parents[2] / "configs"
    stages = [*sorted((configs / "small").glob("*.yaml")), configs / "small.yaml"]
    first, *later = (load_config(stage) for stage in stages)
    assert not first.train.initial_weights
    assert later[-1].volume.registration
    for before, after in itertools.pairwise([first, *later]):
        assert after.train.initial_weights == before.run
        assert after.model == first.model
        assert after.volume.prompt_smoothing >= before.volume.prompt_smoothing > 0


def test_only_the_sections_that_are_named_may_be_overridden():
    config = override_config(ExperimentConfig(), ["evaluation.contexts=7"], ("evaluation",))
    assert config.evaluation.contexts == (7,)
    with pytest.raises(ConfigError, match="only settings of evaluation"):
        override_config(ExperimentConfig(), ["seed=1"], ("evaluation",))


def test_the_short_form_of_data_takes_overrides_too():
    assert override_config(ExperimentConfig(), ["data.0.weight=2"]).data[0].weight == 2


TRUNCATED = {"model": {"context": {"gradient": "truncated", "mini_context": 1}}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": {"context": {"gradient": "truncated"}}}, "needs mini_context"),
        ({**TRUNCATED, "parallel": {"context": 2}}, "set parallel.context to 1"),
        ({**TRUNCATED, "episode": {"context_multiple": 2}}, "set episode.context_multiple to 1"),
        ({"parallel": {"data": 0}}, "1 or more each"),
        ({"parallel": {"data": -1, "space": -1}}, "one of them may be -1"),
        ({"episode": {"contexts": [1, 2], "common_contexts": 3}}, "more than episode.contexts"),
    ],
)
def test_settings_of_context_and_mesh_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(settings)


LIGHT = dict.fromkeys(INTENSITY_AUGMENTATIONS, 0)


def restoring(tasks=None, **sections):
    tasks = {"segmentation": 1, "denoising": 1} if tasks is None else tasks
    return {"episode": {"tasks": tasks}, "augment": LIGHT, **sections}


def test_images_are_restored_without_changes_of_intensities_and_with_a_loss_for_grey_values():
    for tasks in (None, {"inpainting": 1}, {"segmentation": 0, "super_resolution": 2}):
        for loss in ("l1", "smooth_l3_l1"):
            config = config_from_dict(restoring(tasks, train={"loss": loss}))
            assert config.episode.tasks == (tasks or {"segmentation": 1, "denoising": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            restoring(train={"loss": "dice_ce"}),
            "train.loss = dice_ce is for masks, but episode.tasks has image-to-image tasks: set it "
            "to l1 or smooth_l3_l1",
        ),
        (
            restoring(augment={**LIGHT, "scale": 0.1, "noise": 0.2}),
            "augment.scale changes the input but not the expected image of the image-to-image "
            "tasks in episode.tasks: set scale, noise to 0",
        ),
        (
            restoring({"inpainting": 1}, augment={**LIGHT, "gin": 0.1}),
            "augment.gin changes the input but not the expected image of the image-to-image "
            "tasks in episode.tasks: set gin to 0",
        ),
    ],
    ids=["loss", "two changes", "one change"],
)
def test_settings_that_spoil_image_to_image_tasks_are_refused(settings, message):
    assert error_of(settings) == message


def test_tasks_that_never_come_ask_for_nothing():
    tasks = {"segmentation": 1, "denoising": 0}
    config = config_from_dict({"episode": {"tasks": tasks}, "train": {"loss": "dice_ce"}})
    assert config.augment.noise > 0


SWEEP = {"checkpoints": {"small": "runs/small"}, "data": [{"store": "a"}]}


def test_a_sweep_is_read_from_its_file_with_overrides(write):
    path = write("sweep.yaml", {**SWEEP, "evaluation": {"contexts": [1, 4], "prompts": 2}})
    sweep = load_sweep(path, ["evaluation.targets=3", "checkpoints.large=runs/large", "seed=7"])
    assert sweep.checkpoints == {"small": "runs/small", "large": "runs/large"}
    assert [data.store for data in sweep.data] == ["a"]
    assert sweep.evaluation.contexts == (1, 4) and sweep.evaluation.prompts == (2,)
    assert (sweep.evaluation.targets, sweep.seed) == (3, 7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SWEEP | {"checkpoint": {}}, "unknown setting 'checkpoint'; nearest is 'checkpoints'"),
        (SWEEP | {"data": []}, "nothing to evaluate on; give data, or lists of episodes"),
        (SWEEP | {"data": [{"stor": "a"}]}, "unknown setting 'data.0.stor'; nearest is 'data.0.st"),
        (SWEEP | {"checkpoints": {"a": 3}}, "checkpoints.a = 3 does not fit"),
        (SWEEP | {"evaluation": {"contexts": 0}}, "evaluation.contexts.0 = 0 does not fit"),
        (SWEEP | {"evaluation": 4}, "evaluation = 4 does not fit"),
        ("- a", "holds a list; expected `key: value` lines"),
    ],
)
def test_a_sweep_that_does_not_fit_is_refused(write, settings, message):
    with pytest.raises(ConfigError) as caught:
        load_sweep(write("sweep.yaml", settings))
    assert message in str(caught.value)


WITHOUT_INTENSITIES = [f"augment.{name}=0" for name in INTENSITY_AUGMENTATIONS]


@pytest.mark.parametrize("load", [load_config, load_sweep, load_ablation])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {steps: 1}\ntrain: {batch: 2}", "line 2: key 'train' is repeated"),
        ("a: &a [x]\nb: [*a, *a]\nc: " + "[" * 50_000, "line 3: .*nested"),
        ("seed: " + "9" * 6000, "line 1: a number has 6,000"),
        ('run: "\\ud800"', "line 1: has an invalid character"),
        ("inherits: [a, b]", "expected a file's name"),
    ],
)
def test_a_file_out_of_bounds_is_refused_with_its_name_and_line(write, load, text, message):
    path = write("odd.yaml", text)
    with pytest.raises(ConfigError, match=rf"odd\.yaml.*{message}"):
        load(path)


def test_a_date_with_month_13_is_an_error_of_use(write):
    with pytest.raises(ConfigError, match="seed = '2024-13-01' does not fit"):
        load_config(write("date.yaml", "seed: 2024-13-01"))


@pytest.mark.parametrize(
    "override", ["seed=" + "9" * 6000, "run={a: 1, a: 2}", 'run="\\0"', "run=" + "[" * 9999]
)
def test_an_override_out_of_bounds_is_refused(override):
    with pytest.raises(ConfigError, match="override"):
        override_config(ExperimentConfig(), [override])


def test_a_childs_free_keys_replace_its_parents_and_sections_are_merged(write):
    parent = "prompts: {kinds: {box: 1.0, point: 2.0}, count: [2, 3]}\ntrain: {steps: 7}\n"
    parent += "episode: {tasks: {segmentation: 1.0}}"
    write("parent.yaml", parent)
    child = "inherits: parent.yaml\nprompts: {kinds: {scribble: 1}}\ntrain: {batch: 3}\n"
    child += "episode: {tasks: {denoising: 1}}"
    config = load_config(write("child.yaml", child), ["train.loss=l1", *WITHOUT_INTENSITIES])
    assert config.prompts.kinds == {"scribble": 1}
    assert config.episode.tasks == {"denoising": 1}
    assert (config.prompts.count, config.train.steps, config.train.batch) == ((2, 3), 7, 3)


def test_a_tilde_is_the_home_directory(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    text = "run: ~/runs/a\ndata: ~/stores/a\ntrain: {initial_weights: ~/w.safetensors}\n"
    config = load_config(write("a.yaml", text), ["synth.priors=[{store: ~/prior}]"])
    prior = config.synth.priors[0].store
    paths = config.run, config.data[0].store, config.train.initial_weights, prior
    home = "/home/somebody"
    assert paths == tuple(f"{home}/{p}" for p in ("runs/a", "stores/a", "w.safetensors", "prior"))
    sweep = "output: ~/s\ndata: [{store: synthetic}]\ncheckpoints: {a: ~/runs/a}"
    sweep = load_sweep(write("sweep.yaml", sweep))
    assert (sweep.output, sweep.checkpoints) == (f"{home}/s", {"a": f"{home}/runs/a"})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.learning_rat=1", "nearest is 'train.learning_rate'"),
        ("train.grid=1", "there is 'volume.grid'"),
        ("grid=1", "there is 'volume.grid'"),
        ("train.zoo=1", "expected one of train.initial_weights, train.initialization, "),
        ("data.0.wight=1", "nearest is 'data.0.weight'"),
    ],
)
def test_an_unknown_setting_is_likened_only_to_what_is_alike(override, message):
    with pytest.raises(ConfigError) as caught:
        override_config(ExperimentConfig(), [override])
    assert message in str(caught.value)
