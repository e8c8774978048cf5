"""An initialization with which the network outputs the mean of the context prompts.

Subjects have similar positions in most images, so the mean of the prompts is a good first guess.
With random weights, training takes thousands of steps to reach it. Here one channel of the finest
stage carries the prompt from the context image to the output, and training learns corrections.
The architecture is the published one; only the initial values differ.
"""

from jaxtyping import Array

from wsicl_jax.model.blocks import Conv, Merge, ResidualUnit
from wsicl_jax.model.dual_branch import DualBranch

_CARRIER = 0
"""The channel of the finest stage that carries the prompt."""

_SCALE = 4.0
"""Scale of the carried prompt: gelu is almost the identity from about half of it on."""

_OTHERS = 0.1
"""Initial factor of the head's weights for the other channels."""


def initialize_prompt_mean(model: DualBranch) -> None:
    """Change a randomly initialized network, in place, to output the mean of the prompts.

    The output is about 0 where no context image has a prompt, 0.4 where half of them have, and 1
    where all have, for any images; the other channels add small values.
    """
    context, decoder = model.context_branch, model.target_decoder
    _carry(context.embed, source=1, scale=_SCALE)
    _keep(context.units[0])
    _carry(context.fuse[0].conv, source=None)
    _carry(context.ups[-1].conv, source=_right(context.ups[-1]))
    _keep(context.up_units[-1])
    _carry(decoder.ups[-1].conv, source=None)
    _keep(decoder.blocks[-1].unit)
    _carry(decoder.blocks[-1].fuse.conv, source=_CARRIER)
    _keep(decoder.head_unit)
    head = decoder.head.kernel[...] * _OTHERS
    decoder.head.kernel[...] = head.at[..., _CARRIER, 0].set(1 / _SCALE)
    decoder.head.bias[...] = decoder.head.bias[...] * 0


def _carry(conv: Conv, source: int | None, scale: float = 1.0) -> None:
    """Set the carrier to one input channel of a convolution of kernel 1, or to 0."""
    kernel: Array = conv.kernel[...].at[..., _CARRIER].set(0.0)
    if source is not None:
        kernel = kernel.at[..., source, _CARRIER].set(scale)
    conv.kernel[...] = kernel
    conv.bias[...] = conv.bias[...].at[_CARRIER].set(0.0)


def _keep(unit: ResidualUnit) -> None:
    """Make the unit add nothing to the carrier."""
    unit.second.kernel[...] = unit.second.kernel[...].at[..., _CARRIER].set(0.0)
    unit.second.bias[...] = unit.second.bias[...].at[_CARRIER].set(0.0)


def _right(merge: Merge) -> int:
    """The carrier of the right part, among the inputs of both."""
    return merge.c_left + _CARRIER
