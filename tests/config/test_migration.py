"""Settings that earlier versions stored are read under today's names."""

import json

from safetensors import safe_open

from wsicl_jax.config import config_from_dict, config_to_dict, migrate_settings
from wsicl_jax.config.migration import _RENAMED
from wsicl_jax.weights.networks import find_network, shipped_networks


def section(settings, dotted):
    for part in dotted.split("."):
        settings = settings[part]
    return settings


def test_every_old_name_becomes_a_setting_of_today():
    today = config_to_dict(config_from_dict({}))
    for dotted, names in _RENAMED.items():
        for old, new in names.items():
            stored = json.loads(json.dumps(today))
            here = section(stored, dotted)
            here[old] = here.pop(new)
            assert old not in section(migrate_settings(stored), dotted)
            assert config_from_dict(migrate_settings(stored)) == config_from_dict(today)


def test_settings_of_today_are_not_changed():
    today = config_to_dict(config_from_dict({}))
    assert migrate_settings(today) == today


def test_the_shipped_network_keeps_the_settings_that_it_was_trained_with():
    path = shipped_networks()["small"]
    with safe_open(path, framework="numpy") as file:
        stored = json.loads(file.metadata()["wsicl_jax"])["config"]
    experiment = find_network("small").experiment
    smoothing = migrate_settings(stored)["volume"]["prompt_smoothing"]
    assert experiment.volume.prompt_smoothing == smoothing > 0
    assert experiment.train.initial_weights
