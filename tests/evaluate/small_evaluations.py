"""Tiny stores, lists and networks, for fast evaluations."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp

from wsicl_jax.config import ExperimentConfig, config_from_dict, config_to_dict
from wsicl_jax.data.datasets import open_datasets
from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.data.manifest import manifest_of, write_manifest
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.evaluate.planning import Planned, plan_experiment, with_prompts
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.train.binding import DATA
from wsicl_jax.weights.network_checkpoint import save_model

SHAPE = (10, 12, 8)
GRID = (12, 10, 8)
"""The working grid: the cases' own, turned, so that masks are as exact on one as on the other."""
AFFINE = np.array([[0, -2.0, 0, 3], [1.0, 0, 0, 0], [0, 0, 1.5, -4], [0, 0, 0, 1]])


def write_store(
    path: Path,
    *,
    cases: Sequence[str] = tuple(f"case{i}" for i in range(10)),
    channels: tuple[str, ...] = ("MR",),
    shape: tuple[int, int, int] = SHAPE,
    labels: Callable[[int], np.ndarray] | None = None,
    margin: int = 0,
) -> Path:
    """A store of two blocks at slightly different positions, or of other label maps.

    With a `margin`, every image lies in as many voxels of padding.
    """
    create_store(path, path.name, channels, {1: "left", 2: "right"})
    for number, name in enumerate(cases):
        label = labels(number) if labels else _two_blocks(number)
        rng = np.random.default_rng(number)
        image = label * 0.4 + rng.normal(0.1, 0.03, (len(channels), *shape))
        around = [(margin, margin)] * 3
        image = np.pad(image, [(0, 0), *around], constant_values=-3024)
        label = np.pad(label, around)
        write_case(path, name, image.astype(np.float32), label, AFFINE)
    finish_store(path)
    return path


def _two_blocks(number: int) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    shift = number % 3
    label[2:8, 1 + shift : 5, 2:6] = 1
    label[2:8, 7 : 11 - shift, 2:6] = 2
    return label


def experiment(store: Path | str, **evaluation) -> ExperimentConfig:
    """An experiment of three validation cases of ten, on one store or synthetic cohorts."""
    settings = {"contexts": 3, "prompts": 2, "synthetic_structures": 2, "synthetic_targets": 2}
    return config_from_dict(
        {
            "data": [{"store": str(store)}],
            "volume": {"grid": GRID},
            "synth": {"structures": [3, 5]},
            "episode": {"validation_share": 0.3},
            "model": {"channels": [2, 4]},
            "evaluation": settings | evaluation,
        }
    )


def planned(store: Path | str, **evaluation) -> Planned:
    """The one list of an experiment, with its prompts."""
    (draft,) = plan_experiment(experiment(store, **evaluation)).planned
    return with_prompts(draft)


def some_model(seed: int = 0) -> DualBranch:
    """An untrained network whose output is on both sides of the cut, so that masks are not empty.

    Its values are drawn outside of JAX, for which nothing has to be compiled.
    """
    graph, shapes = nnx.split(DualBranch.abstract(experiment("synthetic").model), nnx.Param)
    rng = np.random.default_rng(seed)

    def drawn(shape: jax.ShapeDtypeStruct) -> jax.Array:
        scale = 0.1 if len(shape.shape) < 2 else 1 / np.sqrt(np.prod(shape.shape[:-1]))
        return jnp.asarray(rng.normal(0, scale, shape.shape), shape.dtype)

    model = nnx.merge(graph, jax.tree.map(drawn, shapes))
    model.target_decoder.head.bias[...] += 0.3
    return model


class FakeNetwork(Predictor):
    """A network whose output is `answer(episode, size)`."""

    def __init__(self, answer: Callable[[Episode, int], np.ndarray]):
        self.volume = experiment("synthetic").volume
        self.answer = answer
        self.received: list[Episode] = []
        """All episodes that it received, in order."""

    @property
    def at_once(self) -> int:
        return 2

    def outputs(self, episodes, sizes):
        self.received += episodes
        outputs = [[self.answer(episode, size) for episode in episodes] for size in sizes]
        return np.asarray(outputs, np.float32)


def save_run(run: Path, store: Path, *, seed: int = 0) -> Path:
    """The directory of a run that was trained on the training cases of a store."""
    config = experiment(store)
    manifest = manifest_of(config, open_datasets(config))
    about = {"config": config_to_dict(config), "step": 1, DATA: manifest.digest}
    save_model(run / "checkpoints" / "1", some_model(seed), about)
    write_manifest(run, manifest)
    return run


def save_alone(path: Path, *, seed: int = 0) -> Path:
    """A checkpoint without a record of its training data."""
    about = {"config": config_to_dict(experiment("synthetic"))}
    save_model(path, some_model(seed), about)
    return path
