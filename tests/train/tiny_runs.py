"""Runs of a few seconds, and what is compared of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import yaml
from flax import nnx

from wsicl_jax.config import config_from_dict, config_to_dict
from wsicl_jax.storage.object_path import Place
from wsicl_jax.train.meter import MEASURED

STEPS = 8

# The pause after each step leaves time to be interrupted between two checkpoints.
TRAIN_SLOWLY = """
import sys, time
from wsicl_jax.cli import main
from wsicl_jax.train import loop
make_step = loop.make_step
def make_slow_step(*arguments):
    step = make_step(*arguments)
    def slow(*inputs):
        time.sleep(float(sys.argv[2]))
        return step(*inputs)
    return slow
loop.make_step = make_slow_step
sys.exit(main(["train", sys.argv[1], "--resume", *sys.argv[3:]]))
"""
"""Code that trains with a pause in seconds, the second argument."""


def tiny(run: Place, **train_settings):
    return config_from_dict(
        {
            "run": str(run),
            "data": "synthetic",
            "volume": {"grid": [16, 16, 16]},
            "episode": {"contexts": [2, 2]},
            "augment": {"gin": 0.3, "noise": 0.5},  # so that 8 steps have some of each
            "model": {"channels": [2, 4]},
            "train": {
                "steps": STEPS,
                "batch": 2,
                "warmup_steps": 2,
                "log_every": 2,
                "checkpoint_every": 3,
                **train_settings,
            },
        }
    )


def parameters(model) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(nnx.state(model, nnx.Param))]


def assert_equal_networks(a, b) -> None:
    for x, y in zip(parameters(a), parameters(b), strict=True):
        np.testing.assert_array_equal(x, y)


def read_lines(run: Place) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_bytes().splitlines()]


def learning(run: Place) -> list[dict[str, float]]:
    """The log without what depends on the machine and its load."""
    return [
        {name: value for name, value in line.items() if name not in MEASURED}
        for line in read_lines(run)
    ]


def saved_steps(run: Place) -> list[int]:
    return sorted(int(d.name) for d in (run / "checkpoints").iterdir() if d.name.isdigit())


def start(config, code: str, *arguments: str, file=None, **kwargs) -> subprocess.Popen:
    """A process that runs `code` with the configuration's file as first argument."""
    file = file or Path(config.run).with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config_to_dict(config)))
    return subprocess.Popen(
        [sys.executable, "-c", code, str(file), *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        text=True,
        **kwargs,
    )
