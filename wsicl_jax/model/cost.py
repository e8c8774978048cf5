"""Floating-point operations of the network, computed from its architecture.

The usual convention for model FLOPs: convolutions only, a multiply-add is 2, padding included.
Activations, resampling and rematerialization do not count.
"""

from collections.abc import Sequence

from wsicl_jax.config import ModelConfig

_BACKWARD = 2
"""Cost of a backward pass in forward passes: the gradients by inputs and by kernels."""


def forward_flops(config: ModelConfig, grid: Sequence[int], contexts: int) -> float:
    """Operations of one forward pass: one target with its context set on a working grid."""
    c = config.channels
    voxels = [grid[0] * grid[1] * grid[2] / 8**stage for stage in range(len(c))]
    last = len(c) - 1

    def conv(stage: int, c_in: int, c_out: int, size: int = 1) -> float:
        return 2 * size**3 * c_in * c_out * voxels[stage]

    def unit(stage: int) -> float:
        return 2 * conv(stage, c[stage], c[stage], 3)

    def down(stage: int) -> float:
        return 0.0 if c[stage] == c[stage + 1] else conv(stage + 1, c[stage], c[stage + 1], 4)

    def up_merge(stage: int) -> float:
        return conv(stage + 1, c[stage + 1], c[stage]) + conv(stage, c[stage], c[stage])

    def half_merge(stage: int) -> float:
        return conv(stage, c[stage], c[stage])

    def mean(stage: int) -> float:
        return 2 * c[stage] * voxels[stage]

    fine = range(last)
    encoder = sum(unit(stage) + down(stage) for stage in fine)
    ups = sum(up_merge(stage) + unit(stage) for stage in fine)
    fusions = sum(half_merge(stage) for stage in fine)

    target = conv(0, 1, c[0]) + encoder + unit(last) + 2 * half_merge(last) + ups + 2 * fusions
    head = unit(0) + conv(0, c[0], 1)
    # The target's half of each fusion in the context branch is shared by the context set.
    shared = fusions
    context = conv(0, 2, c[0]) + encoder + fusions + unit(last) + ups
    context += sum(mean(stage) for stage in range(len(c)))
    return target + head + shared + contexts * context


def training_flops(config: ModelConfig, grid: Sequence[int], contexts: int) -> float:
    """Operations of one episode in a training step: forward and backward."""
    return (1 + _BACKWARD) * forward_flops(config, grid, contexts)
