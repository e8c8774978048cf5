"""Damaged configurations: every mutant is read, or refused with the package's own error."""

from contextlib import suppress
from pathlib import Path

import pytest
from fuzz import failures

from wsicl_jax.config import (
    ExperimentConfig,
    load_ablation,
    load_config,
    load_sweep,
    override_config,
)
from wsicl_jax.errors import WsiclError
from wsicl_jax.train.run_directory import changed_settings, saved_settings

CONFIGS = Path(__file__).parents[2] / "configs"
COUNTS = [50, pytest.param(2000, marks=pytest.mark.slow)]

WORDS = (
    *(b"inherits: parent.yaml", b"inherits: a.yaml", b"inherits: [a]", b"run: ~/x", b"seed: *a"),
    *(b"&a", b"*a", b"&a [*a]", b"&a [&b [*a, *a], *b]", b"<<: *a", b"<<: [*a, *a]", b"? [a]\n: b"),
    *(b"!!int x", b"!!binary x", b"!!python/object:os.system x", b"!!timestamp 1", b"%YAML 9.9\n"),
    *(b'"\\ud800"', b'"\\0"', b'"\\U00110000"', b"0x" + b"f" * 6000, b"1:60:60", b"0b_", b".inf"),
    *(b"prompts: {kinds: {point: 1}}", b"{a: 1, a: 2}", b"---", b"...", b"|\n", b">-\n", b"null"),
)

EXPERIMENT = b"""\
run: ~/runs/a
inherits: parent.yaml
seed: 3
data:
- store: stores/a
  weight: 2.0
  structures: {left: [1, 2], right: [3]}
  structure_weights: {left: 2}
volume: {grid: &grid [32, 32, 32], percentiles: [0.5, 99.5]}
prompts:
  kinds: {point: 1, box: 0.5}
  count: [1, 3]
episode: {contexts: [2, 4], structures: named, tasks: {segmentation: 1.0}}
model: {channels: [8, 16], context: {mini_context: 2}}
train: {steps: 100, learning_rate: 1.0e-3}
"""


def read_configuration(path):
    """Read as every kind of configuration, and its lines as overrides."""
    for load in (load_config, load_sweep, load_ablation):
        with suppress(WsiclError):
            load(path)
    text = path.read_bytes()[:2000].decode(errors="surrogateescape")
    for line in text.splitlines()[:5]:
        with suppress(WsiclError):
            override_config(ExperimentConfig(), [line.replace(": ", "=", 1)])


def read_run(path):
    """Compare what a run was started with, as resuming it does."""
    changed_settings(saved_settings(path.parent), ExperimentConfig())


def seeds_of(name):
    if name == "experiment":
        return [{"a.yaml": EXPERIMENT, "parent.yaml": b"train: {steps: 5}\nprompts: {count: 2}\n"}]
    return [{"a.yaml": path.read_bytes()} for path in sorted((CONFIGS / name).glob("*.yaml"))]


def test_the_seeds_are_sound(tmp_path):
    for name, content in seeds_of("experiment")[0].items():
        (tmp_path / name).write_bytes(content)
    assert load_config(tmp_path / "a.yaml").prompts.kinds == {"point": 1, "box": 0.5}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["experiment", "sweeps"])
def test_a_damaged_configuration_is_refused_or_read(tmp_path, name, count):
    found = failures(read_configuration, seeds_of(name), tmp_path, count=count, words=WORDS)
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_configuration_of_a_run_is_refused_or_read(tmp_path, count):
    seeds = [{"config.yaml": (CONFIGS / "small" / "01_appearance.yaml").read_bytes()}]
    found = failures(read_run, seeds, tmp_path, count=count, words=WORDS)
    assert not found, "\n".join(map(str, found))
