"""Writes a network as an ONNX graph, with its weights under the authors' names, and runs it.

The graph is built node by node, not traced. It accepts any number of context images and any size,
and keeps the tensor names.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float

from wsicl_jax.errors import MissingExtraError
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.weights.export.verification import Sample
from wsicl_jax.weights.file_digest import BLANK, DIGEST, digest_of
from wsicl_jax.weights.stored_settings import KEY, Settings, settings_text
from wsicl_jax.weights.tensor_names import to_state_dict

try:
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper
except ImportError as error:
    raise MissingExtraError(
        "ONNX needs the packages onnx and onnxruntime, which are not installed; "
        "pip install 'wsicl_jax[onnx]'"
    ) from error

_OPSET = 20
"""The first one with the exact GELU."""
_IR_VERSION = 9
"""The one of this opset; a newer one would exclude older runtimes without need."""
_FLOAT = onnx.TensorProto.FLOAT
_VOLUME, _VOLUMES = ("x", "y", "z"), ("contexts", "x", "y", "z")

_TARGET, _IMAGES, _PROMPTS, _SCORE = "target", "context_images", "context_prompts", "score"


def write_onnx(path: Path, model: DualBranch, settings: Settings) -> None:
    """Write the graph from (target, context_images, context_prompts) to the score, in float32.

    Their shapes are (x, y, z), (L, x, y, z) twice, and (x, y, z), with any L from 1 on and any
    sides that the network accepts. A `Scan` processes one context image after another, so that
    only the images themselves need memory that grows with L.
    """
    nodes = _Nodes()
    _dual_branch(nodes, model.config.channels)
    tensors = to_state_dict(model)
    graph = helper.make_graph(
        nodes.nodes,
        "dual_branch",
        [
            helper.make_tensor_value_info(_TARGET, _FLOAT, _VOLUME),
            helper.make_tensor_value_info(_IMAGES, _FLOAT, _VOLUMES),
            helper.make_tensor_value_info(_PROMPTS, _FLOAT, _VOLUMES),
        ],
        [helper.make_tensor_value_info(_SCORE, _FLOAT, _VOLUME)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    built = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        producer_name="wsicl_jax",
        ir_version=_IR_VERSION,
    )
    helper.set_model_props(built, {KEY: settings_text(settings, has_digest=True), DIGEST: BLANK})
    onnx.checker.check_model(built, full_check=True)
    content = built.SerializeToString()
    before, _, after = content.rpartition(BLANK.encode())
    path.write_bytes(before + digest_of([before, after]).encode() + after)


def run_onnx(path: Path, samples: Sequence[Sample]) -> Iterator[Float[np.ndarray, "x y z"]]:
    """The outputs of a file by ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for sample in samples:
        inputs = dict(zip((_TARGET, _IMAGES, _PROMPTS), sample, strict=True))
        yield session.run([_SCORE], inputs)[0]


class _Nodes:
    """Nodes of a graph in their order; an inner graph continues the numbers of the outer one."""

    def __init__(self, outer: "_Nodes | None" = None):
        self.nodes: list[onnx.NodeProto] = []
        self._numbers = outer._numbers if outer else iter(range(10**9))

    def add(self, kind: str, *inputs: str, output: str = "", **attributes) -> str:
        """Add a node with one output; returns the name of the output."""
        output = output or f"{kind.lower()}_{next(self._numbers)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, values: np.ndarray) -> str:
        return self.add("Constant", value=numpy_helper.from_array(values))

    def conv(self, x: str, name: str, size: int, stride: int = 1) -> str:
        """A convolution with the weights `name`; zero padding that keeps or halves the size."""
        padding = (size - stride) // 2 if stride > 1 else size // 2
        return self.add(
            "Conv",
            x,
            f"net.{name}.weight",
            f"net.{name}.bias",
            kernel_shape=[size] * 3,
            strides=[stride] * 3,
            pads=[padding] * 6,
        )

    def gelu_of_sum(self, x: str, y: str) -> str:
        return self.add("Gelu", self.add("Add", x, y))

    def unit(self, x: str, name: str) -> str:
        y = self.add("Gelu", self.conv(x, f"{name}.layers.0", 3))
        return self.gelu_of_sum(x, self.conv(y, f"{name}.layers.2", 3))

    def merge(self, left: str, right: str, name: str) -> str:
        return self.conv(self.add("Concat", left, right, axis=1), name, 1)

    def down(self, x: str, name: str, *, by_pooling: bool) -> str:
        if by_pooling:
            return self.add("MaxPool", x, kernel_shape=[2] * 3, strides=[2] * 3)
        return self.conv(x, name, 4, stride=2)

    def up(self, x: str) -> str:
        scales = self.constant(np.array([1, 1, 2, 2, 2], np.float32))
        half_pixel = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return self.add("Resize", x, "", scales, **half_pixel)

    def with_axes(self, x: str, axes: Sequence[int]) -> str:
        return self.add("Unsqueeze", x, self.constant(np.array(axes, np.int64)))


def _dual_branch(nodes: _Nodes, channels: tuple[int, ...]) -> None:
    stages = len(channels) - 1
    pooled = [a == b for a, b in pairwise(channels)]

    encoder = "target_encoder"
    x = nodes.conv(nodes.with_axes(_TARGET, (0, 1)), f"{encoder}.target_embedding", 1)
    shortcuts = []
    for i in range(stages):
        x = nodes.unit(x, f"{encoder}.enc_blocks.{i}.target_conv")
        shortcuts.append(x)
        name = f"{encoder}.downsample_blocks.{i}.target_linear_layer"
        x = nodes.down(x, name, by_pooling=pooled[i])

    # A context feature has the shape of the target's feature of the same stage.
    like = [x, *shortcuts[::-1]]
    count = nodes.add("Shape", _IMAGES, start=0, end=1)
    count = nodes.add("Cast", count, to=_FLOAT)
    means = [nodes.add("Div", total, count) for total in _totals(nodes, like, shortcuts, pooled)]

    decoder = "target_decoder"

    def block(x: str, mean: str, name: str) -> str:
        x = nodes.unit(x, f"{name}.target_conv")
        return nodes.gelu_of_sum(x, nodes.merge(mean, x, f"{name}.combine_conv_target.module"))

    x = block(x, means[0], f"{decoder}.enc_blocks.0")
    for i in range(stages):
        name = f"{decoder}.upsample_blocks.{i}.target_conv_layer"
        x = nodes.merge(nodes.up(x), shortcuts[-1 - i], name)
        x = block(x, means[i + 1], f"{decoder}.dec_blocks.{i}")
    x = nodes.unit(x, f"{decoder}.output_block.block.0")
    x = nodes.conv(x, f"{decoder}.output_block.block.1", 1)
    nodes.add("Squeeze", x, nodes.constant(np.array([0, 1], np.int64)), output=_SCORE)


def _totals(nodes: _Nodes, like: list[str], shortcuts: list[str], pooled: list[bool]) -> list[str]:
    """Sums of the context branch's features over the context set, by a `Scan`."""
    inside = _Nodes(nodes)
    so_far = [f"total_{i}" for i in range(len(like))]
    image, prompts = "context_image", "context_prompt"
    features = _context_branch(inside, image, prompts, shortcuts, pooled)
    sums = [inside.add("Add", *both) for both in zip(so_far, features, strict=True)]
    volumes = [helper.make_tensor_value_info(name, _FLOAT, _VOLUME) for name in (image, prompts)]
    body = helper.make_graph(
        inside.nodes,
        "context_branch",
        [*(_map_value(name) for name in so_far), *volumes],
        [_map_value(name) for name in sums],
    )
    zeros = [nodes.add("ConstantOfShape", nodes.add("Shape", name), value=_zero()) for name in like]
    totals = [f"context_total_{i}" for i in range(len(like))]
    inputs = [*zeros, _IMAGES, _PROMPTS]
    nodes.nodes.append(
        helper.make_node("Scan", inputs, totals, "context_set", body=body, num_scan_inputs=2)
    )
    return totals


def _context_branch(
    nodes: _Nodes, image: str, prompts: str, shortcuts: list[str], pooled: list[bool]
) -> list[str]:
    unet = "context_unet"
    inputs = [nodes.with_axes(volume, (0, 1)) for volume in (image, prompts)]
    x = nodes.merge(*inputs, f"{unet}.context_embedding.module")
    context_shortcuts = []
    for i, target in enumerate(shortcuts):
        name = f"{unet}.enc_blocks.{i}"
        x = nodes.unit(x, f"{name}.context_conv.module")
        fused = nodes.merge(x, target, f"{name}.combine_conv_context.module")
        x = nodes.gelu_of_sum(x, fused)
        context_shortcuts.append(x)
        name = f"{unet}.downsample_blocks.{i}.context_linear_layer.module"
        x = nodes.down(x, name, by_pooling=pooled[i])
    x = nodes.unit(x, f"{unet}.enc_blocks.{len(shortcuts)}.context_conv.module")
    features = [x]
    for i, shortcut in enumerate(context_shortcuts[::-1]):
        name = f"{unet}.upsample_blocks.{i}.context_conv_layer.module"
        x = nodes.unit(
            nodes.merge(nodes.up(x), shortcut, name),
            f"{unet}.dec_blocks.{i}.context_conv.module",
        )
        features.append(x)
    return features


def _map_value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _FLOAT, [None] * 5)


def _zero() -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(1, np.float32))
