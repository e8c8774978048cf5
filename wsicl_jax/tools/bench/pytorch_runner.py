"""The PyTorch twin, made ready to be timed."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from wsicl_jax.config import TrainConfig
from wsicl_jax.errors import MissingExtraError
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.weights.export.torch_network import torch_network_of

try:
    import torch
except ImportError as error:
    raise MissingExtraError(
        "comparing with PyTorch needs it, and it is not installed; pip install 'wsicl_jax[torch]'"
    ) from error

if TYPE_CHECKING:
    from wsicl_jax.tools.bench.network_speed import Inputs

FORMATS = ("contiguous", "channels last")
"""How PyTorch may lay out its tensors."""

_LEARNING_RATE = 1e-5


def pytorch_device() -> str:
    """What PyTorch runs on, with its version."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def pytorch_runner(
    what: str, model: DualBranch, train: TrainConfig, inputs: "Inputs", form: str
) -> Callable[[], object]:
    """A function that runs the twin once and waits for it, with the parameters of `model`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    twin = torch_network_of(model).to(device)
    target, images, prompts, truth = (
        torch.from_numpy(np.moveaxis(x, -1, -4).copy()).to(device) for x in inputs
    )
    if form == "channels last":
        twin = twin.to(memory_format=torch.channels_last_3d)
        target = target.to(memory_format=torch.channels_last_3d)
    if what == "forward":
        return _waiting(lambda: _forward(twin, target, images, prompts), device)
    optimizer = torch.optim.Adam(twin.parameters(), lr=_LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        error = (twin(target, images, prompts) - truth).abs()
        beta = train.loss_beta
        cubic = 0.333 * error**3 / beta**2
        loss = torch.where(error < beta, cubic, error + 0.333 * beta**3 - beta).mean()
        (train.loss_weight * loss).backward()
        optimizer.step()

    return _waiting(step, device)


def _forward(twin: "torch.nn.Module", *inputs: "torch.Tensor") -> "torch.Tensor":
    with torch.inference_mode():
        return twin(*inputs)


def _waiting(run: Callable[[], object], device: "torch.device") -> Callable[[], object]:
    def waited() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return waited
