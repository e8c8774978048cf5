"""The PyTorch network: the authors' keys, and the same numbers and gradients as ours."""

import importlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from wsicl_jax.config import ContextConfig, ModelConfig
from wsicl_jax.errors import MissingExtraError, ShapeError
from wsicl_jax.weights.export.torch_network import TorchDualBranch, torch_network_of
from wsicl_jax.weights.lightning_reader import read_lightning
from wsicl_jax.weights.tensor_names import to_state_dict

DATA = Path(__file__).parents[2] / "data"

CASES = {
    "mini_contexts": ((3, 5), 2, (2, 3, 4, 6, 8)),
    "max_pool": ((3, 3), 0, (1, 2, 8, 4, 12)),
    "one_context": ((2, 4), 1, (3, 1, 2, 4, 6)),
}


def to_torch(channels_last: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(channels_last, -1, -4).copy())


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def both(request, random_network):
    """Output and gradients of the mean square, from `DualBranch` and from PyTorch."""
    channels, mini_context, (batch, contexts, *size) = request.param
    context = ContextConfig(mini_context=mini_context)
    model = random_network(ModelConfig(channels=channels, context=context))
    rng = np.random.default_rng(2)
    target = rng.normal(size=(batch, *size, 1)).astype(np.float32)
    images, prompts = rng.normal(size=(2, batch, contexts, *size, 1)).astype(np.float32)

    graph, parameters = nnx.split(model)

    def loss(parameters, *inputs):
        output = nnx.merge(graph, parameters)(*inputs)
        return (output**2).mean(), output

    # Compiles in half the time; the numbers are held to the same tolerances.
    options = {"xla_backend_optimization_level": 0}
    gradient = jax.jit(jax.grad(loss, has_aux=True), compiler_options=options)
    gradients, output = gradient(parameters, target, images, prompts)

    network = torch_network_of(model)
    torch_output = network(*map(to_torch, (target, images, prompts)))
    torch_output.square().mean().backward()
    torch_gradients = {name: p.grad.numpy() for name, p in network.named_parameters()}
    return (
        (np.asarray(output), to_state_dict(nnx.merge(graph, gradients))),
        (np.moveaxis(torch_output.detach().numpy(), 1, -1), torch_gradients),
    )


def test_output_is_ours(both, agree):
    (ours, _), (theirs, _) = both
    agree("PyTorch network: output", ours, theirs, 1e-5)
    assert ours.std() > 0.05


def test_gradients_of_all_parameters_are_ours(both, agree):
    (_, ours), (_, theirs) = both
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.abs(theirs[name]).max() > 0
        agree("PyTorch network: gradients, relative", ours[name], theirs[name], 1e-4, relative=True)


def test_keys_and_shapes_of_the_published_size_are_the_authors():
    with torch.device("meta"):
        network = TorchDualBranch((32, 64, 128, 256, 512))
    lines = (DATA / "state_dict_full.tsv").read_text().splitlines()[1:]
    given = {f"{k}\t{','.join(map(str, t.shape))}" for k, t in network.state_dict().items()}
    assert given == set(lines)
    assert len(lines) == 132


def test_authors_checkpoint_loads_strictly_and_gives_their_output():
    content = torch.load(DATA / "tiny_lightning.ckpt", weights_only=True)
    network = TorchDualBranch((4, 8, 16))
    network.load_state_dict(content["state_dict"], strict=True)
    golden = np.load(DATA / "tiny_forward.npz")
    names = ("target", "context_image", "context_prompt")
    target, images, prompts = (torch.from_numpy(golden[n])[None] for n in names)
    with torch.no_grad():
        output = network(target[:, None], images[:, :, None], prompts[:, :, None])
    np.testing.assert_allclose(output[0, 0], golden["output_mini_context_5"], rtol=0, atol=1e-5)


def test_saved_network_is_read_back(tmp_path):
    network = TorchDualBranch((2, 3, 3))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "network.pt")
    config, tensors, *_ = read_lightning(tmp_path / "network.pt")
    assert config.channels == (2, 3, 3)
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(tensors[name], tensor.numpy())


def test_size_that_is_no_multiple_is_refused():
    network = TorchDualBranch((2, 3, 4))
    volume = torch.zeros(1, 1, 8, 6, 8)
    with pytest.raises(ShapeError, match="multiple of 4"):
        network(volume, volume[:, None], volume[:, None])


def test_without_torch_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "wsicl_jax.weights.export.torch_network")
    with pytest.raises(MissingExtraError, match=r"pip install 'wsicl_jax\[torch\]'"):
        importlib.import_module("wsicl_jax.weights.export.torch_network")
