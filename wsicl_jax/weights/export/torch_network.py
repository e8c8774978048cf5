"""The dual-branch network in plain PyTorch, with the authors' tensor names.

For users of PyTorch, and as an independent check of `DualBranch`: the same weights load into the
authors' release and into this network.
"""

from itertools import pairwise

from wsicl_jax.errors import MissingExtraError, ShapeError

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError(
        "the PyTorch network needs PyTorch, which is not installed; pip install 'wsicl_jax[torch]'"
    ) from error


from jaxtyping import Float

from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.weights.tensor_names import to_state_dict

Features = list[Float[Tensor, "..."]]


def torch_network_of(model: DualBranch) -> "TorchDualBranch":
    """The PyTorch network with the parameters of `model`, on the CPU."""
    network = TorchDualBranch(model.config.channels)
    tensors = {name: torch.from_numpy(array) for name, array in to_state_dict(model).items()}
    network.load_state_dict(tensors, strict=True)
    return network


class TorchDualBranch(nn.Module):
    """The dual-branch network of WS-ICL (arXiv 2510.05899); it processes all contexts at once.

    `channels` run from fine to coarse.
    """

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        self.size_multiple = 2 ** (len(channels) - 1)
        self.net = nn.Module()
        self.net.context_unet = _ContextUnet(channels)
        self.net.target_encoder = _TargetEncoder(channels)
        self.net.target_decoder = _TargetDecoder(channels)

    def forward(
        self,
        target: Float[Tensor, "batch 1 x y z"],
        context_images: Float[Tensor, "batch context 1 x y z"],
        context_prompts: Float[Tensor, "batch context 1 x y z"],
    ) -> Float[Tensor, "batch 1 x y z"]:
        """The target's score, about 1 inside the structure and 0 outside; the threshold is 0.5.

        Raises:
            ShapeError: a size is not a multiple of `size_multiple`.
        """
        if any(size % self.size_multiple for size in target.shape[2:]):
            raise ShapeError(
                f"target size {tuple(target.shape[2:])} is not a multiple of {self.size_multiple}, "
                "as the network's stages need; pad or resize target and contexts"
            )
        batch, count = context_images.shape[:2]
        shortcuts, x = self.net.target_encoder(target)
        contexts = torch.cat([context_images, context_prompts], dim=2).flatten(0, 1)
        repeated = [s.repeat_interleave(count, dim=0) for s in shortcuts]
        features = self.net.context_unet(contexts, repeated)
        means = [f.unflatten(0, (batch, count)).mean(dim=1) for f in features]
        return self.net.target_decoder(x, shortcuts, means)


class _Named(nn.Module):
    """Adds `module` to the names of its tensors, as in the authors' release."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


class _ResidualUnit(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        # The activation has index 1, so that the convolutions have 0 and 2.
        self.layers = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv3d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x + self.layers(x))


def _conv1(c_in: int, c_out: int) -> nn.Conv3d:
    return nn.Conv3d(c_in, c_out, 1)


def _down(c_in: int, c_out: int) -> nn.Module:
    if c_in == c_out:
        return nn.MaxPool3d(2)
    return nn.Conv3d(c_in, c_out, 4, stride=2, padding=1)


def _upsample2(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)


def _list(modules) -> nn.ModuleList:
    return nn.ModuleList(nn.ModuleDict(m) if isinstance(m, dict) else m for m in modules)


class _TargetEncoder(nn.Module):
    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        self.target_embedding = _conv1(1, channels[0])
        self.enc_blocks = _list({"target_conv": _ResidualUnit(c)} for c in channels[:-1])
        self.downsample_blocks = _list(
            {"target_linear_layer": _down(a, b)} for a, b in pairwise(channels)
        )

    def forward(self, x: Tensor) -> tuple[Features, Tensor]:
        x = self.target_embedding(x)
        shortcuts = []
        for block, down in zip(self.enc_blocks, self.downsample_blocks, strict=True):
            x = block["target_conv"](x)
            shortcuts.append(x)
            x = down["target_linear_layer"](x)
        return shortcuts, x


class _ContextUnet(nn.Module):
    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        self.context_embedding = _Named(_conv1(2, channels[0]))
        stages = [
            {
                "context_conv": _Named(_ResidualUnit(c)),
                "combine_conv_context": _Named(_conv1(2 * c, c)),
            }
            for c in channels[:-1]
        ]
        self.enc_blocks = _list([*stages, {"context_conv": _Named(_ResidualUnit(channels[-1]))}])
        self.downsample_blocks = _list(
            {"context_linear_layer": _Named(_down(a, b))} for a, b in pairwise(channels)
        )
        upward = channels[::-1]
        self.upsample_blocks = _list(
            {"context_conv_layer": _Named(_conv1(a + b, b))} for a, b in pairwise(upward)
        )
        self.dec_blocks = _list({"context_conv": _Named(_ResidualUnit(c))} for c in upward[1:])

    def forward(self, x: Tensor, target_shortcuts: Features) -> Features:
        x = self.context_embedding(x)
        *stages, bottleneck = self.enc_blocks
        shortcuts = []
        for block, down, target in zip(
            stages, self.downsample_blocks, target_shortcuts, strict=True
        ):
            x = block["context_conv"](x)
            x = nn.functional.gelu(x + block["combine_conv_context"](torch.cat([x, target], 1)))
            shortcuts.append(x)
            x = down["context_linear_layer"](x)
        x = bottleneck["context_conv"](x)
        features = [x]
        for up, block, shortcut in zip(
            self.upsample_blocks, self.dec_blocks, shortcuts[::-1], strict=True
        ):
            x = up["context_conv_layer"](torch.cat([_upsample2(x), shortcut], 1))
            x = block["context_conv"](x)
            features.append(x)
        return features


class _DecoderBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.target_conv = _ResidualUnit(channels)
        self.combine_conv_target = _Named(_conv1(2 * channels, channels))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = self.target_conv(x)
        return nn.functional.gelu(x + self.combine_conv_target(torch.cat([context, x], 1)))


class _TargetDecoder(nn.Module):
    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        upward = channels[::-1]
        self.enc_blocks = _list([_DecoderBlock(upward[0])])
        self.upsample_blocks = _list(
            {"target_conv_layer": _conv1(a + b, b)} for a, b in pairwise(upward)
        )
        self.dec_blocks = _list(_DecoderBlock(c) for c in upward[1:])
        self.output_block = nn.ModuleDict(
            {"block": nn.Sequential(_ResidualUnit(channels[0]), _conv1(channels[0], 1))}
        )

    def forward(self, x: Tensor, shortcuts: Features, context: Features) -> Tensor:
        x = self.enc_blocks[0](x, context[0])
        for up, block, shortcut, feature in zip(
            self.upsample_blocks, self.dec_blocks, shortcuts[::-1], context[1:], strict=True
        ):
            x = up["target_conv_layer"](torch.cat([_upsample2(x), shortcut], 1))
            x = block(x, feature)
        return self.output_block["block"](x)
