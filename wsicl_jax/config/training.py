"""Settings of optimization and of the device mesh."""

from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import (
    RULES,
    AboveZero,
    Amount,
    Count,
    Decay,
    LocalPath,
    Positive,
    Shards,
    Share,
)


def _check_profile(steps: tuple[int, ...]) -> tuple[int, ...]:
    if steps and (len(steps) != 2 or steps[0] > steps[1]):
        raise ValueError(f"{list(steps)}: expected the first and the last step, such as [20, 22]")
    return steps


@dataclass(frozen=True, kw_only=True, config=RULES)
class TrainConfig:
    """Optimization."""

    initial_weights: LocalPath = ""
    """Network whose weights the run starts from: a run, a checkpoint or a file of weights, also by
    URL, or the name of a network that ships with this package. Empty: weights are sampled."""
    initialization: Literal["random", "prompt_mean"] = "random"
    """How weights are sampled. `prompt_mean`: the network first outputs the mean of the context
    prompts and learns corrections."""
    steps: Positive = 2000
    """Optimizer steps of the whole run."""
    batch: Positive = 4
    """Episodes per step, over all devices."""
    accumulate: Positive = 1
    """Parts into which each batch is split; their gradients are computed one after another and
    added up before the update. More parts need less memory and change no result."""
    optimizer: Literal["adam", "muon"] = "adam"
    """`muon`: orthogonalized updates of convolution kernels, scaled to Adam's size; biases are
    updated by NAdam."""
    learning_rate: Amount = 1e-3
    """Peak learning rate."""
    weight_decay: Amount = 0.0
    """Decoupled weight decay; each step subtracts this times the learning rate times the
    parameter."""
    schedule: Literal["constant", "cosine", "warmup_stable_decay", "plateau"] = "cosine"
    """Learning rate after the warm-up; `cosine` ends at 0. `warmup_stable_decay` is constant and
    falls linearly to 0 over the last `decay_steps`. `plateau` is halved while the validation loss
    does not fall. All but `cosine` can be trained on with more `steps`."""
    decay_steps: Count = 0
    """Last steps of the run, over which `warmup_stable_decay` lowers the learning rate."""
    plateau_patience: Positive = 10
    """Evaluations in a row without a lower validation loss, after which `plateau` halves the
    learning rate."""
    plateau_floor: Share = 0.01
    """Smallest share of `learning_rate` that `plateau` leaves."""
    warmup_steps: Count = 100
    """Steps over which the learning rate rises linearly from 0."""
    clip_norm: Amount = 0.25
    """Largest global norm of the gradient; larger gradients are scaled down. 0: no clipping."""
    ema: Decay = 0.0
    """Decay per update of the exponential moving average (EMA) of the weights, such as 0.999; after
    n updates at most (1 + n) / (10 + n). Evaluation, prediction and export use the averaged
    weights. 0: no average."""
    loss: Literal["smooth_l3_l1", "l1", "dice_ce"] = "smooth_l3_l1"
    """Training loss; `smooth_l3_l1` is the published one."""
    loss_weight: Amount = 50.0
    """Factor on the loss."""
    loss_cross_entropy: Amount = 1.0
    """Weight of the cross-entropy in `dice_ce`; soft Dice has weight 1. With less of it, structures
    whose place is uncertain are segmented larger."""
    loss_beta: AboveZero = 1.0
    """Error at which `smooth_l3_l1` changes from cubic to linear."""
    log_every: Positive = 20
    """Steps between log entries."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints, and between log entries of every structure; the last step always
    has both."""
    keep_checkpoints: Positive = 2
    """Number of newest checkpoints to keep."""
    keep_best: Count = 1
    """Number of checkpoints with the highest validation Dice to keep as well."""
    max_skipped: Positive = 10
    """Most updates in a row that may be skipped because loss or gradient is not finite; one more
    ends the run."""
    evaluate_every: Count = 0
    """Steps between evaluations on validation cases; 0: only at the end."""
    pictures: Count = 2
    """Validation cases that every evaluation during training draws for TensorBoard and the
    trackers; 0: none."""
    profile: Annotated[tuple[Positive, ...], AfterValidator(_check_profile)] = ()
    """First and last step of which process 0 writes a trace to the run's directory, for TensorBoard
    and Perfetto, such as [20, 22]; empty: none."""
    trackers: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Services that also show the run: Weights & Biases, MLflow. Each is an extra; environment
    variables of its own choose server and project."""
    workers: Count = 0
    """Processes that prepare episodes in advance; 0: threads of the training process."""

    @property
    def stable_until(self) -> int:
        """The step after which `warmup_stable_decay` decays: a run can be trained on from it."""
        return self.steps - self.decay_steps

    @model_validator(mode="after")
    def _check(self):
        has_decay = self.schedule == "warmup_stable_decay"
        if has_decay and not 0 < self.decay_steps <= self.steps - self.warmup_steps:
            raise ValueError(
                f"train.decay_steps = {self.decay_steps} does not fit schedule = {self.schedule}; "
                f"expected 1 to {self.steps - self.warmup_steps}: train.steps without warmup_steps"
            )
        if self.decay_steps and not has_decay:
            raise ValueError(
                f"train.decay_steps = {self.decay_steps} has no effect on schedule = "
                f"{self.schedule}; set it to 0, or schedule to warmup_stable_decay"
            )
        if self.schedule == "plateau" and not self.evaluate_every:
            raise ValueError(
                "train.schedule = plateau needs evaluations during training: set "
                "train.evaluate_every to the steps between them"
            )
        if self.batch % self.accumulate:
            raise ValueError(
                f"train.batch = {self.batch} cannot be split into train.accumulate = "
                f"{self.accumulate} parts; make it a multiple"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=RULES)
class ParallelConfig:
    """The devices of all processes as a mesh of three axes; results do not depend on it."""

    data: Shards = -1
    """Devices that share the episodes of a step; -1: all that the other axes leave."""
    context: Shards = 1
    """Devices that share the context set of an episode."""
    space: Shards = 1
    """Devices that share each volume, split along its first axis, if it is too large for one."""
    shard_parameters: bool = False
    """Shard parameters and optimizer state over `data` instead of replicating them."""
    overlap: bool | None = None
    """On GPUs, overlap exchange between devices with computation; needs up to twice the memory of
    activations. null: only if `context` or `space` is split."""
    channels_last: bool = False
    """On GPUs, convolve in training with channels last, the layout of tensor cores, instead of
    first, XLA's choice. Which one is faster has not been measured."""
    tpu_convolutions: Literal["planes", "volumes"] = "planes"
    """On TPUs, convolutions of fewer than 128 channels in training: `planes` are 2D convolutions of
    stacked planes; `volumes` are XLA's 3D convolutions, which compile three times as long. No TPU
    has timed either."""
    fast_compile: bool = False
    """On TPUs, compile the training step with the least effort: several times faster, for trials.
    Each step then takes longer."""

    @model_validator(mode="after")
    def _check(self):
        sizes = (self.data, self.context, self.space)
        if 0 in sizes or sizes.count(-1) > 1:
            raise ValueError("data, context and space are 1 or more each; one of them may be -1")
        return self
