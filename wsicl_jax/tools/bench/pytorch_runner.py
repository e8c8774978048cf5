"""Runs the PyTorch network for a timing. Importing this module needs PyTorch."""

from collections.abc import Callable

import numpy as np

from wsicl_jax.config import TrainConfig
from wsicl_jax.errors import MissingExtraError
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.tools.bench.timed_episode import LEARNING_RATE, TimedEpisode
from wsicl_jax.weights.export.torch_network import torch_network_of

try:
    import torch
except ImportError as error:
    raise MissingExtraError(
        "a comparison with PyTorch needs PyTorch, which is not installed; "
        "pip install 'wsicl_jax[torch]'"
    ) from error

FORMATS = ("contiguous", "channels last")
"""Memory formats of PyTorch tensors that are timed."""


def pytorch_device() -> str:
    """The device that PyTorch runs on, with threads and version."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def pytorch_runner(
    operation: str, model: DualBranch, train: TrainConfig, episode: TimedEpisode, format: str
) -> Callable[[], object]:
    """A function that runs the PyTorch network once and waits for it, with `model`'s parameters.

    `operation` is `forward` or `training step`, `format` one of `FORMATS`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    network = torch_network_of(model).to(device)
    target, images, prompts, truth = (
        torch.from_numpy(np.moveaxis(x, -1, -4).copy()).to(device) for x in episode
    )
    if format == "channels last":
        network = network.to(memory_format=torch.channels_last_3d)
        target = target.to(memory_format=torch.channels_last_3d)

    def forward() -> None:
        with torch.inference_mode():
            network(target, images, prompts)

    if operation == "forward":
        return _waiting(forward, device)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        error = (network(target, images, prompts) - truth).abs()
        beta = train.loss_beta
        cubic = 0.333 * error**3 / beta**2
        loss = torch.where(error < beta, cubic, error + 0.333 * beta**3 - beta).mean()
        (train.loss_weight * loss).backward()
        optimizer.step()

    return _waiting(step, device)


def _waiting(run: Callable[[], None], device: "torch.device") -> Callable[[], None]:
    def run_and_wait() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run_and_wait
