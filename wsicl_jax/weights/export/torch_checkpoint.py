"""Writes a network as a PyTorch Lightning checkpoint of the authors' layout, and runs it."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.weights.export.torch_network import TorchDualBranch, torch
from wsicl_jax.weights.export.verification import Sample
from wsicl_jax.weights.stored_settings import KEY, Settings, settings_text
from wsicl_jax.weights.tensor_names import to_state_dict

_LIGHTNING = "2.0.0"
"""Version in the file: older than any in use, so that none rejects the file as too new."""


def write_lightning(path: Path, model: DualBranch, settings: Settings) -> None:
    """Write a file for `torch.load(weights_only=True)`, Lightning and the authors' release.

    The settings of this package have a key of their own.
    """
    experiment = settings.experiment
    tensors = to_state_dict(model).items()
    content = {
        "epoch": 0,
        "global_step": settings.step or 0,
        "pytorch-lightning_version": _LIGHTNING,
        "state_dict": OrderedDict((name, torch.from_numpy(array)) for name, array in tensors),
        "loops": {},
        "hparams_name": "hparams",
        "hyper_parameters": {
            "nb_inner_channels": list(experiment.model.channels),
            "nb_conv_layers_per_stage": 2,
            "data_slice_only": False,
            "lr": experiment.train.learning_rate,
            "gradient_clip_val": experiment.train.clip_norm,
            "train_gpus": (0,),
            "ell": experiment.model.context.mini_context or max(experiment.episode.contexts),
        },
        KEY: settings_text(settings),
    }
    torch.save(content, path)


def run_lightning(path: Path, samples: Sequence[Sample]) -> Iterator[Float[np.ndarray, "x y z"]]:
    """The outputs of the PyTorch network with a file's weights, on the CPU."""
    content = torch.load(path, weights_only=True, map_location="cpu")
    network = TorchDualBranch(tuple(content["hyper_parameters"]["nb_inner_channels"]))
    network.load_state_dict(content["state_dict"], strict=True)
    for sample in samples:
        target, images, prompts = map(torch.from_numpy, sample)
        with torch.no_grad():
            output = network(target[None, None], images[None, :, None], prompts[None, :, None])
        yield output[0, 0].numpy()
