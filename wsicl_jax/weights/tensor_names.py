"""Maps the parameters of `DualBranch` to the authors' tensor names and layout, and back.

Source: the `state_dict` of the authors' release (WS-ICL, arXiv 2510.05899). A convolution is
(out, in, X, Y, Z) there, and (X, Y, Z, in, out) here.
"""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32

from wsicl_jax.config import ModelConfig
from wsicl_jax.errors import CheckpointError
from wsicl_jax.model.dual_branch import DualBranch

Path = tuple[str | int, ...]
Shape = tuple[int, ...]

# Names here to names there; `{i}` counts along a list, `{last}` is the coarsest stage. A stage
# with max-pooling has no downsampling convolution, here nor there.
_MODULES = {
    "target_encoder.embed": "target_encoder.target_embedding",
    "target_encoder.units.{i}": "target_encoder.enc_blocks.{i}.target_conv",
    "target_encoder.downs.{i}.conv": "target_encoder.downsample_blocks.{i}.target_linear_layer",
    "context_branch.embed": "context_unet.context_embedding.module",
    "context_branch.units.{i}": "context_unet.enc_blocks.{i}.context_conv.module",
    "context_branch.fuse.{i}.conv": "context_unet.enc_blocks.{i}.combine_conv_context.module",
    "context_branch.downs.{i}.conv": (
        "context_unet.downsample_blocks.{i}.context_linear_layer.module"
    ),
    "context_branch.bottleneck": "context_unet.enc_blocks.{last}.context_conv.module",
    "context_branch.ups.{i}.conv": "context_unet.upsample_blocks.{i}.context_conv_layer.module",
    "context_branch.up_units.{i}": "context_unet.dec_blocks.{i}.context_conv.module",
    "target_decoder.bottleneck.unit": "target_decoder.enc_blocks.0.target_conv",
    "target_decoder.bottleneck.fuse.conv": (
        "target_decoder.enc_blocks.0.combine_conv_target.module"
    ),
    "target_decoder.ups.{i}.conv": "target_decoder.upsample_blocks.{i}.target_conv_layer",
    "target_decoder.blocks.{i}.unit": "target_decoder.dec_blocks.{i}.target_conv",
    "target_decoder.blocks.{i}.fuse.conv": (
        "target_decoder.dec_blocks.{i}.combine_conv_target.module"
    ),
    "target_decoder.head_unit": "target_decoder.output_block.block.0",
    "target_decoder.head": "target_decoder.output_block.block.1",
}
_UNIT = {"first": "layers.0", "second": "layers.2"}
_LEAF = {"kernel": "weight", "bias": "bias"}

_MAX_LISTED = 5


def authors_name(path: Path, stages: int) -> str:
    """The authors' name of the parameter at `path` in a network of so many stages."""
    *module, leaf = path
    in_unit = [_UNIT[str(module.pop())]] if module[-1] in _UNIT else []
    index = next((part for part in module if isinstance(part, int)), None)
    pattern = ".".join("{i}" if isinstance(part, int) else part for part in module)
    name = _MODULES[pattern].format(i=index, last=stages - 1)
    return ".".join(["net", name, *in_unit, _LEAF[str(leaf)]])


def to_state_dict(model: DualBranch) -> dict[str, Float32[np.ndarray, "..."]]:
    """The parameters under the authors' names, in their layout, as new float32 arrays."""
    return {
        name: _to_authors_layout(np.asarray(parameter[...]))
        for name, (_, parameter) in _named_parameters(model).items()
    }


def fill_from_state_dict(model: DualBranch, tensors: Mapping[str, np.ndarray]) -> None:
    """Set every parameter from tensors with the authors' names and layout, bit for bit.

    `model` may be abstract. An error leaves it unchanged.

    Raises:
        CheckpointError: a name is missing or unexpected, or a shape or type does not fit.
    """
    named = _named_parameters(model)
    shapes = {name: _authors_shape(parameter.shape) for name, (_, parameter) in named.items()}
    check_shapes(shapes, {name: np.shape(t) for name, t in tensors.items()}, "the state_dict")
    for name, tensor in tensors.items():
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise CheckpointError(
                f"{name} has type {tensor.dtype}; expected a floating-point type; "
                "give the network's weights unchanged"
            )
    filled = [
        (path, parameter.replace(jnp.asarray(_to_our_layout(tensors[name]), parameter.dtype)))
        for name, (path, parameter) in named.items()
    ]
    nnx.update(model, nnx.from_flat_state(filled))


def state_dict_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of the authors' network of these channels."""
    return dict(_shapes_of(config.channels))


@functools.lru_cache(maxsize=8)
def _shapes_of(channels: tuple[int, ...]) -> Mapping[str, Shape]:
    model = DualBranch.abstract(ModelConfig(channels=channels))
    return {
        name: _authors_shape(parameter.shape)
        for name, (_, parameter) in _named_parameters(model).items()
    }


def check_shapes(expected: Mapping[str, Shape], shapes: Mapping[str, Shape], source: str) -> None:
    """Check that names and shapes of tensors are exactly the expected ones.

    Raises:
        CheckpointError: the message names `source` and the first tensors that are missing,
            unexpected or of another shape.
    """
    missing = [f"{name} {expected[name]}" for name in expected if name not in shapes]
    unexpected = [f"{name} {shapes[name]}" for name in shapes if name not in expected]
    other_shape = [
        f"{name} is {shapes[name]}, expected {expected[name]}"
        for name in expected
        if name in shapes and tuple(shapes[name]) != tuple(expected[name])
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": other_shape}
    if any(problems.values()):
        listing = "; ".join(
            f"{len(names)} {problem}: {', '.join(names[:_MAX_LISTED])}"
            + (", ..." if len(names) > _MAX_LISTED else "")
            for problem, names in problems.items()
            if names
        )
        raise CheckpointError(
            f"{source} has {len(shapes)} tensors and this network {len(expected)}, which do not "
            f"match: {listing}; use a network of the checkpoint's channels"
        )


def _named_parameters(model: DualBranch) -> dict[str, tuple[Path, nnx.Param]]:
    # Starts from the model, so that no parameter is forgotten.
    stages = len(model.config.channels)
    return {
        authors_name(path, stages): (path, parameter)
        for path, parameter in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }


def _authors_shape(shape: Shape) -> Shape:
    return shape if len(shape) == 1 else (shape[4], shape[3], *shape[:3])


def _to_authors_layout(parameter: np.ndarray) -> np.ndarray:
    moved = parameter if parameter.ndim == 1 else parameter.transpose(4, 3, 0, 1, 2)
    return np.array(moved, np.float32, order="C")


def _to_our_layout(tensor: np.ndarray) -> np.ndarray:
    return tensor if tensor.ndim == 1 else tensor.transpose(2, 3, 4, 1, 0)
