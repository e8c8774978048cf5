import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wsicl_jax import config as config_module
from wsicl_jax.config import (
    SYNTHETIC,
    ExperimentConfig,
    config_from_dict,
    config_to_dict,
    load_config,
    override_config,
)
from wsicl_jax.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("**/*.yaml"))
SECTIONS = [
    kind
    for _, kind in inspect.getmembers(config_module, dataclasses.is_dataclass)
    if kind.__module__ == config_module.__name__
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
        ({"prompts": {"kinds": {"scribble": 1}}}, "prompts.kinds.scribble"),
        ({"prompts": {"kinds": {"box": 0}}}, "prompts"),
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
    settings = {"data": SYNTHETIC, "train": {"steps": 3}}
    config_from_dict(settings)
    assert settings == {"data": SYNTHETIC, "train": {"steps": 3}}


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


def test_inheriting_twice_is_refused(write):
    write("a.yaml", {"seed": 3})
    write("b.yaml", {"inherits": "a.yaml"})
    with pytest.raises(ConfigError, match="one level only"):
        load_config(write("c.yaml", {"inherits": "b.yaml"}))


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
        "episode": st.fixed_dictionaries({"contexts": ranges, "validation_share": st.floats(0, 1)}),
        "prompts": st.fixed_dictionaries(
            {"kinds": st.dictionaries(st.sampled_from(["box", "point", "mask"]), st.floats(0.1, 9))}
        ).filter(lambda prompts: prompts["kinds"]),
        "train": st.fixed_dictionaries({"steps": counts, "clip_norm": amounts}),
    },
)


@given(experiments)
def test_a_configuration_comes_back_from_its_plain_values_and_from_yaml(settings):
    config = config_from_dict(settings)
    plain = config_to_dict(config)
    assert config_from_dict(plain) == config
    assert config_from_dict(yaml.safe_load(yaml.safe_dump(plain))) == config


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExperimentConfig().seed = 1


@pytest.mark.parametrize("section", SECTIONS, ids=lambda kind: kind.__name__)
def test_every_setting_is_documented(section):
    settings = section.__pydantic_fields__
    assert settings.keys() == {field.name for field in dataclasses.fields(section)}
    assert not [name for name, setting in settings.items() if not setting.description]


def test_reading_a_configuration_does_not_import_jax():
    code = "import sys, wsicl_jax.config; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_there_are_configurations():
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_file_loads(path):
    assert load_config(path).run


def test_only_the_sections_that_are_named_may_be_overridden():
    config = override_config(ExperimentConfig(), ["evaluation.contexts=7"], ("evaluation",))
    assert config.evaluation.contexts == 7
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
        ({"episode": {"contexts": [1, 2], "usual_contexts": 3}}, "more than episode.contexts"),
    ],
)
def test_settings_of_context_and_mesh_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(settings)
