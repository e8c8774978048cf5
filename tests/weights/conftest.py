"""A small trained network and one export of it in every format, for all tests here."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wsicl_jax.config import (
    ContextConfig,
    DatasetConfig,
    ExperimentConfig,
    ModelConfig,
    VolumeConfig,
    config_to_dict,
)
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.weights.export.export import export
from wsicl_jax.weights.export.torch_network import torch_network_of
from wsicl_jax.weights.export.verification import Sample
from wsicl_jax.weights.network_checkpoint import save_model
from wsicl_jax.weights.tensor_names import fill_from_state_dict, state_dict_shapes

NAMES = {"torch": "m.ckpt", "safetensors": "m.safetensors", "stablehlo": "m.hlo", "onnx": "m.onnx"}


@pytest.fixture(scope="session")
def experiment() -> ExperimentConfig:
    """Settings that are not the defaults, where a file has to carry them."""
    return ExperimentConfig(
        model=ModelConfig(channels=(4, 8), context=ContextConfig(mini_context=2)),
        volume=VolumeConfig(grid=(8, 6, 10), percentiles=(1.0, 98.0), prompt_smoothing=0.25),
        data=(DatasetConfig(store="stores/a|b"),),
        seed=7,
    )


@pytest.fixture(scope="session")
def random_network():
    """`random_network(config)`: one whose outputs are of the order of 1."""
    return _random_network


def _random_network(config: ModelConfig) -> DualBranch:
    rng = np.random.default_rng(1)
    model = DualBranch.abstract(config)
    tensors = {
        name: rng.normal(0, np.prod(shape[1:], initial=1.0) ** -0.5, shape).astype(np.float32)
        for name, shape in state_dict_shapes(config).items()
    }
    fill_from_state_dict(model, tensors)
    return model


@pytest.fixture(scope="session")
def trained(experiment, tmp_path_factory) -> SimpleNamespace:
    """A checkpoint at step 30: `path`, `model`, `experiment`."""
    path = tmp_path_factory.mktemp("trained") / "checkpoint"
    model = _random_network(experiment.model)
    save_model(path, model, {"config": config_to_dict(experiment), "step": 30})
    return SimpleNamespace(path=path, model=model, experiment=experiment)


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """`exported(format)`: what `export` gave for `trained`; written once."""
    folder = tmp_path_factory.mktemp("exported")

    @functools.cache
    def of(format: str):
        return export(trained.path, folder / NAMES[format], format, licence="CC BY 4.0")

    return of


@pytest.fixture(scope="session")
def output_of_pytorch():
    """`output_of_pytorch(model, sample)`: by PyTorch, which has nothing to compile."""

    def output(model: DualBranch, sample: Sample) -> np.ndarray:
        target, images, prompts = map(torch.from_numpy, sample)
        with torch.no_grad():
            inputs = target[None, None], images[None, :, None], prompts[None, :, None]
            return torch_network_of(model)(*inputs)[0, 0].numpy()

    return output
