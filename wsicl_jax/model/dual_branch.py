"""The dual-branch 3D U-Net: target encoder, context branch, target decoder.

Backbone of WS-ICL (arXiv 2510.05899), from Neuroverse3D (arXiv 2503.02410). The context branch
receives the target as the shortcuts of its encoder, and returns only the mean of the context
features, one map per stage.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from wsicl_jax.config import ModelConfig
from wsicl_jax.distributed.mesh import CONTEXT, shards
from wsicl_jax.errors import ShapeError
from wsicl_jax.model.blocks import Conv, Down, Merge, ResidualUnit, UpMerge, gelu, stage
from wsicl_jax.model.context import Features, mean_over_contexts

THRESHOLD = 0.5
"""The network's output above this is inside the structure."""

ArrayLike = Array | np.ndarray


class TargetEncoder(nnx.Module):
    """Target image to one shortcut per stage but the last, and the bottleneck's input."""

    def __init__(self, channels: tuple[int, ...], *, remat: bool, rngs: nnx.Rngs):
        self.remat = remat
        self.embed = Conv(1, channels[0], 1, rngs=rngs)
        self.units = nnx.List([ResidualUnit(c, rngs=rngs) for c in channels[:-1]])
        self.downs = nnx.List(_downs(channels, rngs))

    def __call__(self, target: Float[Array, "batch x y z 1"]) -> tuple[Features, Array]:
        encode = stage(_encode_target, remat=self.remat)
        x = self.embed(target)
        shortcuts = []
        for unit, down in zip(self.units, self.downs, strict=True):
            x = encode(unit, x)
            shortcuts.append(x)
            x = down(x)
        return tuple(shortcuts), x


class ContextBranch(nnx.Module):
    """One context image with its prompts, and the target's shortcuts, to one feature map per stage.

    Features run from the bottleneck (coarsest) to full size. Context images that share
    a target are consecutive along the batch.
    """

    def __init__(self, channels: tuple[int, ...], *, remat: bool, rngs: nnx.Rngs):
        self.remat = remat
        self.embed = Conv(2, channels[0], 1, rngs=rngs)
        self.units = nnx.List([ResidualUnit(c, rngs=rngs) for c in channels[:-1]])
        self.fuse = nnx.List([Merge(c, c, c, rngs=rngs) for c in channels[:-1]])
        self.downs = nnx.List(_downs(channels, rngs))
        self.bottleneck = ResidualUnit(channels[-1], rngs=rngs)
        self.ups = nnx.List(_up_merges(channels, rngs))
        self.up_units = nnx.List([ResidualUnit(c, rngs=rngs) for c in channels[-2::-1]])

    def __call__(
        self,
        image_and_prompt: Float[Array, "batch x y z 2"],
        target_shortcuts: Features,
    ) -> Features:
        encode = stage(_encode_context, remat=self.remat)
        decode = stage(_decode_context, remat=self.remat)
        x = self.embed(image_and_prompt)
        shortcuts = []
        for unit, fuse, down, target in zip(
            self.units, self.fuse, self.downs, target_shortcuts, strict=True
        ):
            x = encode(unit, fuse, x, target)
            shortcuts.append(x)
            x = down(x)
        x = self.bottleneck(x)
        features = [x]
        for merge, unit, shortcut in zip(self.ups, self.up_units, shortcuts[::-1], strict=True):
            x = decode(merge, unit, x, shortcut)
            features.append(x)
        return tuple(features)


class DecoderBlock(nnx.Module):
    """Residual unit on the target, then the mean context feature of the stage mixed in."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.unit = ResidualUnit(channels, rngs=rngs)
        self.fuse = Merge(channels, channels, channels, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch x y z c"], context: Float[Array, "batch x y z c"]
    ) -> Float[Array, "batch x y z c"]:
        x = self.unit(x)
        return gelu(x + self.fuse(context.astype(x.dtype), x))


class TargetDecoder(nnx.Module):
    """Bottleneck of the target and mean context features to the mask."""

    def __init__(self, channels: tuple[int, ...], *, remat: bool, rngs: nnx.Rngs):
        self.remat = remat
        self.bottleneck = DecoderBlock(channels[-1], rngs=rngs)
        self.ups = nnx.List(_up_merges(channels, rngs))
        self.blocks = nnx.List([DecoderBlock(c, rngs=rngs) for c in channels[-2::-1]])
        self.head_unit = ResidualUnit(channels[0], rngs=rngs)
        self.head = Conv(channels[0], 1, 1, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch x y z c"], shortcuts: Features, context: Features
    ) -> Float[Array, "batch X Y Z 1"]:
        decode = stage(_decode_target, remat=self.remat)
        x = self.bottleneck(x, context[0])
        for merge, block, shortcut, feature in zip(
            self.ups, self.blocks, shortcuts[::-1], context[1:], strict=True
        ):
            x = decode(merge, block, x, shortcut, feature)
        return self.head(stage(ResidualUnit.__call__, remat=self.remat)(self.head_unit, x))


# The stages of the three parts: `remat: stage` recomputes each in the backward pass.


def _encode_target(unit: ResidualUnit, x: Array) -> Array:
    return unit(x)


def _encode_context(unit: ResidualUnit, fuse: Merge, x: Array, target: Array) -> Array:
    x = unit(x)
    return gelu(x + fuse(x, target))


def _decode_context(merge: UpMerge, unit: ResidualUnit, x: Array, shortcut: Array) -> Array:
    return unit(merge(x, shortcut))


def _decode_target(
    merge: UpMerge, block: DecoderBlock, x: Array, shortcut: Array, context: Array
) -> Array:
    return block(merge(x, shortcut), context)


@functools.cache
def _shapes_of(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """Structure and shapes of a network; cached, because tracing its initialization is slow."""
    return nnx.split(nnx.eval_shape(lambda: DualBranch(config, rngs=nnx.Rngs(0))))


class DualBranch(nnx.Module):
    """The network: a target and its context set in, the target's mask out.

    About `2 * L + 2` times the arithmetic of a plain U-Net of the same channels;
    parameters do not depend on the number of contexts L.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        remat = config.context.remat == "stage"
        self.target_encoder = TargetEncoder(config.channels, remat=remat, rngs=rngs)
        self.context_branch = ContextBranch(config.channels, remat=remat, rngs=rngs)
        self.target_decoder = TargetDecoder(config.channels, remat=remat, rngs=rngs)

    @classmethod
    def abstract(cls, config: ModelConfig) -> "DualBranch":
        """A network of shapes without values, to be filled from a file."""
        return nnx.merge(*_shapes_of(config), copy=True)

    def __call__(
        self,
        target: Float[ArrayLike, "batch x y z 1"],
        context_images: Float[ArrayLike, "batch context x y z 1"],
        context_prompts: Float[ArrayLike, "batch context x y z 1"],
        context_weights: Float[ArrayLike, "batch all_contexts"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch x y z 1"]:
        """Regress the target's mask towards {0, 1}, in float32; cut at `THRESHOLD` to segment.

        Images are expected in [0, 1], prompts as `prompts.to_channel` makes them.
        `context_weights` are relative weights of the context images in the mean: 0 excludes one
        (padding), None weighs all alike. `key` samples the part of the context set for a
        truncated gradient.

        In a program over several devices, the arrays are this device's parts, except the
        weights, which are those of the whole context set.

        Raises:
            ShapeError: shapes differ between target and contexts, there is no context,
                or a size is no multiple of `config.size_multiple`.
        """
        _check_shapes(
            target, context_images, context_prompts, context_weights, self.config.size_multiple
        )
        encoded = self.encode(target)
        return self.predict(encoded, context_images, context_prompts, context_weights, key=key)

    def encode(self, target: Float[ArrayLike, "batch x y z 1"]) -> tuple[Features, Array]:
        """The target's features, for `predict` with one or several context sets.

        Raises:
            ShapeError: a size is no multiple of `config.size_multiple`.
        """
        _check_multiple(target, self.config.size_multiple)
        with jax.named_scope("encoder"):
            return self.target_encoder(jnp.asarray(target, self.config.precision))

    def predict(
        self,
        encoded: tuple[Features, Array],
        context_images: Float[ArrayLike, "batch context x y z 1"],
        context_prompts: Float[ArrayLike, "batch context x y z 1"],
        context_weights: Float[ArrayLike, "batch all_contexts"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch x y z 1"]:
        """The output of the network, for a target that is encoded already."""
        shortcuts, x = encoded
        features = mean_over_contexts(
            self.context_branch,
            jnp.asarray(context_images),
            jnp.asarray(context_prompts),
            None if context_weights is None else jnp.asarray(context_weights),
            shortcuts,
            self.config.context,
            key,
        )
        with jax.named_scope("decoder"):
            return self.target_decoder(x, shortcuts, features).astype(jnp.float32)

    def after_each(
        self,
        target: Float[ArrayLike, "batch x y z 1"],
        context_images: Float[ArrayLike, "batch context x y z 1"],
        context_prompts: Float[ArrayLike, "batch context x y z 1"],
        requested: Bool[ArrayLike, " context"],
    ) -> Float[Array, "context batch x y z 1"]:
        """The outputs for the first context image alone, for the first two, and so on.

        Only the sizes of `requested` are decoded; the others are zeros. Every context image is
        processed once for all sizes, and `requested` may change without a new compilation. For
        inference on one device or on parts of a batch, without gradients.

        Raises:
            ShapeError: as calling the network does.
        """
        _check_shapes(target, context_images, context_prompts, None, self.config.size_multiple)
        shortcuts, x = self.target_encoder(jnp.asarray(target, self.config.precision))
        contexts = (jnp.asarray(a) for a in (context_images, context_prompts))
        graph, parameters = nnx.split((self.context_branch, self.target_decoder))

        def decoded(features: Features) -> Array:
            _, decoder = nnx.merge(graph, parameters)
            return decoder(x, shortcuts, features).astype(jnp.float32)

        def add(total: Features, xs):
            image, prompts, number, is_requested = xs
            branch, _ = nnx.merge(graph, parameters)
            context = jnp.concatenate([image, prompts], axis=-1).astype(shortcuts[0].dtype)
            features = branch(context, shortcuts)
            total = jax.tree.map(lambda t, f: t + f.astype(t.dtype), total, features)
            means = jax.tree.map(lambda t: t / number, total)
            zeros = jnp.zeros(target.shape, jnp.float32)
            return total, lax.cond(is_requested, decoded, lambda _: zeros, means)

        images, prompts = (jnp.moveaxis(a, 1, 0) for a in contexts)
        numbers = jnp.arange(1, len(images) + 1, dtype=jnp.float32)
        shape = jax.eval_shape(
            lambda i: nnx.merge(graph, parameters)[0](i.astype(shortcuts[0].dtype), shortcuts),
            jax.ShapeDtypeStruct((*target.shape[:4], 2), jnp.float32),
        )
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shape)
        return lax.scan(add, zeros, (images, prompts, numbers, jnp.asarray(requested)))[1]


def count_parameters(config: ModelConfig) -> int:
    """Number of trainable values of a network."""
    parameters = nnx.state(DualBranch.abstract(config), nnx.Param)
    return sum(parameter.size for parameter in jax.tree.leaves(parameters))


def _downs(channels: tuple[int, ...], rngs: nnx.Rngs) -> list[Down]:
    return [Down(a, b, rngs=rngs) for a, b in itertools.pairwise(channels)]


def _up_merges(channels: tuple[int, ...], rngs: nnx.Rngs) -> list[UpMerge]:
    coarse_to_fine = channels[::-1]
    return [UpMerge(a, b, b, rngs=rngs) for a, b in itertools.pairwise(coarse_to_fine)]


def _check_shapes(target, images, prompts, weights, multiple: int) -> None:
    if target.ndim != 5 or target.shape[-1] != 1:
        raise ShapeError(f"target has shape {target.shape}; expected (batch, X, Y, Z, 1)")
    if images.ndim != 6 or images.shape[1] == 0 or images.shape[-1] != 1:
        raise ShapeError(
            f"context_images has shape {images.shape}; expected (batch, L, X, Y, Z, 1), L >= 1"
        )
    if images.shape != prompts.shape:
        raise ShapeError(
            f"context_images has shape {images.shape} but context_prompts {prompts.shape}; "
            "give one prompt channel per context image, of the image's size"
        )
    if (images.shape[0], *images.shape[2:]) != target.shape:
        raise ShapeError(
            f"context images are {images.shape[2:5]} (batch {images.shape[0]}) but the target is "
            f"{target.shape[1:4]} (batch {target.shape[0]}); resize them to one grid"
        )
    expected = (images.shape[0], images.shape[1] * shards(CONTEXT))
    if weights is not None and weights.shape != expected:
        raise ShapeError(
            f"context_weights has shape {weights.shape}; expected (batch, L) = {expected}"
        )
    _check_multiple(target, multiple)


def _check_multiple(target, multiple: int) -> None:
    if any(size % multiple for size in target.shape[1:4]):
        padded = tuple(-(-size // multiple) * multiple for size in target.shape[1:4])
        raise ShapeError(
            f"target size {target.shape[1:4]} is no multiple of {multiple}, as the network's "
            f"stages need; pad or resize target and contexts to {padded}"
        )
