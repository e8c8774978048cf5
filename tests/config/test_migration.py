"""Settings that earlier versions stored are read under their present names."""

import copy

import pytest
import yaml
from safetensors import safe_open

from wsicl_jax.config import (
    config_from_dict,
    config_from_stored,
    config_to_dict,
    load_config,
    migrate_settings,
)
from wsicl_jax.config.migration import _RENAMED
from wsicl_jax.errors import ConfigError
from wsicl_jax.storage.documents import parse_json
from wsicl_jax.train.run_directory import saved_settings
from wsicl_jax.weights.networks import find_network, shipped_networks

RENAMED = [(dotted, old, new) for dotted, names in _RENAMED.items() for old, new in names.items()]


def section(settings, dotted):
    for part in dotted.split("."):
        settings = settings[part]
    return settings


def present():
    return config_to_dict(config_from_dict({}))


def stored_by_an_earlier_version():
    settings = present()
    for dotted, old, new in RENAMED:
        renamed = section(settings, dotted)
        renamed[old] = renamed.pop(new)
    return settings


@pytest.mark.parametrize(("dotted", "old", "new"), RENAMED)
def test_every_old_name_becomes_a_present_setting(dotted, old, new):
    settings = present()
    renamed = section(settings, dotted)
    renamed[old] = renamed.pop(new)
    assert old not in section(migrate_settings(settings), dotted)
    assert config_from_stored(settings) == config_from_dict(present())


def test_all_old_names_together_become_present_settings_and_the_input_stays():
    settings = stored_by_an_earlier_version()
    before = copy.deepcopy(settings)
    assert migrate_settings(settings) == present()
    assert settings == before


def test_present_settings_are_not_changed():
    assert migrate_settings(present()) == present()


def test_the_configuration_of_a_run_is_migrated(tmp_path):
    text = yaml.safe_dump(stored_by_an_earlier_version())
    (tmp_path / "config.yaml").write_text(text)
    assert saved_settings(tmp_path) == present()


def test_an_unknown_stored_setting_is_refused():
    with pytest.raises(ConfigError, match=r"unknown setting 'train\.stps'"):
        config_from_stored({"train": {"stps": 3}})


@pytest.mark.parametrize(("dotted", "old", "new"), RENAMED)
def test_users_write_present_names(dotted, old, new, tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("seed: 1")
    with pytest.raises(ConfigError, match=rf"unknown setting '{dotted}\.{old}'"):
        load_config(path, [f"{dotted}.{old}=1"])


def test_the_shipped_network_keeps_the_settings_that_it_was_trained_with():
    path = shipped_networks()["small"]
    with safe_open(path, framework="numpy") as file:
        stored = parse_json(file.metadata()["wsicl_jax"])["config"]
    experiment = find_network("small").experiment
    smoothing = migrate_settings(stored)["volume"]["prompt_smoothing"]
    assert experiment.volume.prompt_smoothing == smoothing > 0
    assert experiment.train.initial_weights


@pytest.mark.parametrize(("stored", "stores"), [("", []), ("stores/atlas", ["stores/atlas"])])
def test_the_single_prior_of_earlier_versions_becomes_a_list(stored, stores):
    experiment = config_from_stored({"synth": {"prior": stored}})
    assert [prior.store for prior in experiment.synth.priors] == stores
