"""The experiment as typed, frozen dataclasses: each setting named, typed and defaulted once.

A YAML file under `configs/` gives the settings that differ from the defaults; it may name one
other file as `inherits`: sections of both are merged, any other value replaces the inherited one,
also where it is a mapping with free keys, as `prompts.kinds` is. `section.key=value` on the command
line comes last.
"""

import os
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from wsicl_jax.documents import DocumentError, parse_yaml, read_file
from wsicl_jax.errors import ConfigError, hint, reason

SYNTHETIC = "synthetic"


def _axes_in_space(letters: str) -> str:
    directions = [pair for x in letters for pair in ("RL", "AP", "SI") if x in pair]
    if len(letters) != 3 or sorted(directions) != ["AP", "RL", "SI"]:
        raise ValueError(
            "expected three letters such as RAS or LPS, in the order of the axes: R or L, A or P, "
            "and S or I"
        )
    return letters


# Strict, so that `true` or 2.0 is no number of steps.
Positive = Annotated[int, Field(ge=1, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Shards = Annotated[int, Field(ge=-1, strict=True)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
LocalPath = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path, where `~` is the home directory; or what else may stand for one."""
PromptKind = Literal["point", "box", "scribble", "box3d", "mask2d", "mask"]
EvaluatedKind = Literal[PromptKind, "mixed"]
InteractiveKind = Literal["point", "box", "scribble"]
RestorationTask = Literal["denoising", "inpainting", "super_resolution"]
BaselineName = Literal["prompt_mean", "intensity"]
Task = Literal["segmentation", RestorationTask]

Spacing = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Orientation = Annotated[str, AfterValidator(_axes_in_space)]

_LONGEST_KEY = 200
"""Characters of a key that a message shows."""

_RULES = ConfigDict(extra="forbid", use_attribute_docstrings=True)


def _in_place_of_lists(arguments: Any, names: Collection[str], length: int) -> Any:
    """The arguments of a section, where one number may stand for a list of equal ones."""
    settings = getattr(arguments, "kwargs", arguments)
    if not isinstance(settings, dict):
        return arguments
    single = {name: settings[name] for name in names if type(settings.get(name)) in (int, float)}
    return settings | {name: [value] * length for name, value in single.items()}


def _check_percentiles(percentiles: tuple[float, float]) -> None:
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise ValueError("percentiles must satisfy 0 <= low < high <= 100")


@dataclass(frozen=True, kw_only=True, config=_RULES)
class ContextConfig:
    """How the context set is processed; only `truncated` changes a result."""

    mini_context: Count = 0
    """Context images processed at a time, to bound memory; 0: all at once."""
    gradient: Literal["exact", "truncated"] = "exact"
    """`truncated` is the published estimate, from one mini-context alone; for ablation."""
    remat: Literal["none", "context", "stage"] = "context"
    """What the backward pass computes anew instead of keeping it: nothing, each mini-context,
    or each of the network's stages as well."""

    @model_validator(mode="after")
    def _check(self):
        if self.gradient == "truncated" and not self.mini_context:
            raise ValueError("gradient: truncated needs mini_context; the authors train with 3")
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class ModelConfig:
    """The dual-branch network."""

    channels: Annotated[tuple[Positive, ...], Field(min_length=2)] = (8, 16, 32, 64)
    """Channels of each stage, fine to coarse; the published model has 32, 64, 128, 256, 512."""
    context: ContextConfig = ContextConfig()
    """Processing of the context set."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of activations and products; parameters and the mean over the context set
    are float32 in either case. Accelerators make products of float32 as JAX's
    `jax_default_matmul_precision` says, by default with fewer bits."""

    @property
    def size_multiple(self) -> int:
        """Every side of an image must be a multiple of this."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True, kw_only=True, config=_RULES)
class VolumeConfig:
    """How an image of any size, and its prompts, become the network's input."""

    grid: tuple[Positive, Positive, Positive] = (32, 32, 32)
    """Working grid in voxels; every volume is resized to it as a whole."""
    crop: bool = True
    """Cut off margins of one value, such as padding, from every image before anything else; a
    context image keeps what its prompts lie in."""
    percentiles: tuple[Amount, Amount] = (0.5, 99.5)
    """Percentiles (0 to 100) that intensities are clipped to before scaling to [0, 1]; of what
    `crop` leaves."""
    prompt_halo: Share = 0.0
    """Width of the Gaussian halo around prompts, as a share of what all prompts of the context set
    cover together along each axis; 0: no halo, as published. Masks of the whole structure have
    none."""
    cache_gb: Amount = 2.0
    """Memory in GB, of each process that makes episodes, for cases that are ready on the working
    grid; 0: every case is read each time."""

    @model_validator(mode="after")
    def _check(self):
        _check_percentiles(self.percentiles)
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class AssumptionConfig:
    """What is taken for granted of images whose files do not say it."""

    assume_orientation: Orientation | None = None
    """Where the axes run of images that do not say it, such as RAS: to the right, to the front,
    up; None: as most readers of the format take them, with a remark."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class ReadingConfig(AssumptionConfig):
    """How files of images are read."""

    max_memory_gb: Spacing | None = None
    """Memory that the process may take in all, in GB of 10^9 bytes; None: what is needed, but to
    read an image no more than half of the machine's memory."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class InferenceConfig(ReadingConfig):
    """How a trained network segments images of any size; a `Segmenter` takes these settings."""

    fine: bool | None = None
    """Look a second time, at the target's own resolution, in tiles around what was found in the
    whole; None: if the network was trained on such views (`episode.close_share`) and
    `fine_worth` says so."""
    fine_worth: Amount = 1.5
    """With `fine` left open, a second look is taken where a voxel of the working grid holds at
    least this many of the target's along an axis."""
    fine_margin: Amount = 0.25
    """Tiles reach this far beyond what was found, as a share of its extent."""
    fine_overlap: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Share of a tile's side in which neighbouring tiles overlap and fade into each other."""
    fine_tiles: Positive = 32
    """Most tiles for one structure; where more would be needed, they cover coarser voxels."""
    fine_agreement: Share = 0.7
    """Dice with the first look below which a tile is not taken: a second look moves borders, and
    one that overturns what was found shows that the network does not know so close a view."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class PreparationConfig(AssumptionConfig):
    """What `wsicl convert` does to every case, once; recorded in the store, so that it can be
    undone. A store of cases as they were needs none of it."""

    ras: bool = False
    """Axes are permuted and mirrored to RAS+ order: to the right, to the front, up."""
    crop: bool = False
    """Only the box is kept in which a channel, without its margins of one value, or a label is."""
    spacing_mm: tuple[Spacing, Spacing, Spacing] | None = None
    """Volumes are resampled to about this voxel spacing in mm, so that a whole number of voxels
    covers them."""
    grid: tuple[Positive, Positive, Positive] | None = None
    """Volumes are resized as a whole to this number of voxels; with `ras`, training at an equal
    `volume.grid` has nothing left to do."""
    percentiles: tuple[Amount, Amount] | None = None
    """Intensities are clipped to these percentiles (0 to 100) of what `crop` leaves, and scaled to
    [0, 1]."""
    replace_nonfinite: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Voxels that are NaN or infinite become this; without it their cases are left out."""

    @model_validator(mode="after")
    def _check(self):
        if self.spacing_mm and self.grid:
            raise ValueError("spacing_mm and grid cannot both be; give one of them")
        _check_percentiles(self.percentiles or (0.0, 100.0))
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class KindsConfig:
    """Relative frequency of each kind of structure in a synthetic anatomy."""

    organ: Amount = 4.0
    """A solid with a wavy surface."""
    nested: Amount = 1.0
    """A solid within another structure, which surrounds it."""
    lobes: Amount = 1.0
    """Two to four neighbours that share one region, each with its own label."""
    tube: Amount = 1.0
    """A curved tube that may branch."""
    shell: Amount = 1.0
    """The wall of a hollow organ."""
    lesions: Amount = 1.0
    """Small blobs within another structure, others in each subject; one label."""
    pair: Amount = 1.0
    """Two solids that mirror each other, with two labels or with one."""

    @model_validator(mode="after")
    def _check(self):
        if not any(getattr(self, kind.name) for kind in fields(self)):
            raise ValueError("at least one kind needs a frequency above 0")
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class ScannerConfig:
    """Probability of each effect of the scanner, drawn anew for every synthetic subject."""

    invert: Share = 0.05
    """Bright becomes dark."""
    bias: Share = 0.6
    """Intensities are multiplied by a smooth field."""
    blur: Share = 0.8
    """Gaussian blur of 0.3 to 1.2 voxels."""
    thick_slices: Share = 0.15
    """Slices of 2 to 4 voxels along one axis, resampled to voxels again."""
    gaussian: Share = 0.6
    """Gaussian noise."""
    rician: Share = 0.2
    """Rician noise, as in magnitudes of MR."""
    speckle: Share = 0.1
    """Noise that is multiplied, as in ultrasound."""
    cut: Share = 0.1
    """The field of view ends within the volume: image and label are empty beyond."""
    strength: Amount = 1.0
    """Factor on the strength of bias, blur and noise."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class PriorConfig:
    """A store whose cases serve as anatomies of synthetic cohorts."""

    store: LocalPath
    """Path or URL of the store. All its cases are used: give one without the cases that you
    evaluate on."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Relative frequency of its cohorts."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class SynthConfig:
    """Synthetic cohorts: one random anatomy each, and subjects that deform it."""

    structures: tuple[Positive, Annotated[Positive, Field(le=200)]] = (5, 18)
    """Fewest and most labels of an anatomy, as far as there is room."""
    kinds: KindsConfig = KindsConfig()
    """How often each kind of structure is drawn."""
    radius: tuple[Share, Share] = (0.12, 0.45)
    """Smallest and largest mean radius of organs, as a share of half the volume."""
    distractors: tuple[Count, Annotated[Count, Field(le=40)]] = (2, 8)
    """Fewest and most structures without a label."""
    body: Share = 0.75
    """Probability that a body ends within the volume; otherwise tissue fills it."""
    deformation: tuple[Amount, Amount] = (0.04, 0.04)
    """Least and greatest typical displacement between the subjects of a cohort, as a share of half
    the volume; drawn for each cohort, and one number may stand for two alike."""
    contrast: tuple[Amount, Amount] = (0.03, 0.03)
    """Least and greatest standard deviation of a structure's intensity over the subjects of a
    cohort; all intensities lie about in [0, 1]. One number may stand for two alike."""
    levels: tuple[Count, Count] = (0, 0)
    """Fewest and most levels of intensity that the tissues of an anatomy share, but for a little;
    0: each tissue has its own, and most structures differ from what surrounds them."""
    alike: Share = 0.0
    """Probability that the lobes of one region, or the two of a pair with two labels, look the
    same, so that their place alone tells them apart."""
    territories: Share = 0.0
    """Probability that what fills the body, with its structures without a label, is divided into 2
    to 6 more labels, whose borders cannot be seen."""
    texture: Amount = 0.05
    """Largest standard deviation of the texture of a tissue."""
    scanner: ScannerConfig = ScannerConfig()
    """Effects of the scanner."""
    smallest_share: Share = 0.001
    """Share of the working grid below which a structure is not asked for in training."""
    priors: tuple[PriorConfig, ...] = ()
    """Stores whose label maps serve as anatomies; empty: shapes alone."""
    shapes_weight: Amount = 0.0
    """Relative frequency of anatomies of shapes, beside the `weight` of each prior."""
    prior_image: Share = 0.0
    """Probability that the subjects of a prior's case keep the intensities of its image, deformed
    as the labels are; otherwise they are painted anew."""
    prior_close: Share = 0.0
    """Probability that a cohort shows a part of its case, 0.35 to 0.9 of each side, around a
    voxel of one of its labels."""
    prior_drop: Share = 0.1
    """Probability that a label of the prior becomes a structure without a label."""
    prior_merge: Share = 0.1
    """Probability that a label of the prior is united with another one."""

    @model_validator(mode="before")
    @classmethod
    def _one_for_two(cls, arguments: Any) -> Any:
        return _in_place_of_lists(arguments, ("deformation", "contrast"), length=2)

    @model_validator(mode="after")
    def _check(self):
        limits = ("structures", "radius", "distractors", "deformation", "contrast", "levels")
        for name in limits:
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is ({low}, {high}); give the smaller number first")
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class DatasetConfig:
    """One source of episodes."""

    store: LocalPath = SYNTHETIC
    """Path of a store made by `wsicl convert`, or `synthetic` for the built-in generator."""
    weight: Amount = 1.0
    """Relative frequency of its episodes in training; 0: none, it is there for evaluation alone."""
    labels: tuple[Positive, ...] = ()
    """Label values that training may show; empty: all."""
    channels: tuple[str, ...] = ()
    """Names of the channels (modalities) that are shown, in training and evaluation; empty: all."""
    structures: dict[str, tuple[Positive, ...]] = field(default_factory=dict)
    """Structure name to the label values that it unites: the tasks of evaluation, and of training
    if `episode.structures` is `named`; empty: every label by its name."""
    structure_weights: dict[str, Amount] = field(default_factory=dict)
    """Relative frequency of these structures in training, the others have 1; 0: never."""
    min_voxels: Positive = 1
    """Voxels, in the store, below which a case does not count as having a label."""
    subject_pattern: str = ""
    """Regular expression whose first group, or else the whole match, in a case's name is its
    subject; empty: what the store says. Cases of one subject are never parted."""

    @model_validator(mode="after")
    def _check(self):
        try:
            re.compile(self.subject_pattern)
        except re.error as error:
            raise ValueError(
                f"subject_pattern {self.subject_pattern!r} is no regular expression: {error}"
            ) from None
        if self.store == SYNTHETIC:
            usual = DatasetConfig(store="", weight=self.weight)
            names = [name.name for name in fields(self) if name.name != "store"]
            if given := [n for n in names if getattr(self, n) != getattr(usual, n)]:
                raise ValueError(
                    f"{', '.join(given)} can be set for stores alone; `synth` describes synthetic "
                    "cohorts"
                )
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class EpisodeConfig:
    """What one episode of training shows."""

    contexts: tuple[Positive, Positive] = (4, 4)
    """Fewest and most context images; the number is drawn once per step."""
    usual_contexts: Count = 0
    """Context images of the steps whose number is not drawn, at most the above; 0: it always is."""
    usual_share: Share = 0.5
    """Share of the steps that have `usual_contexts`; the published second stage: 3 in half."""
    context_multiple: Positive = 1
    """Context sets are filled to a multiple of this with images of weight 0, which change no
    result, so that fewer sizes are compiled."""
    structures: Literal["random", "named"] = "random"
    """What is asked for: `random` unions of labels, the published way, or the structures that the
    data set names, by its `structure_weights`."""
    sampling: Literal["dataset", "structure"] = "dataset"
    """`dataset`: data sets are drawn by weight, then one of their structures. `structure`: the
    structures of all data sets alike, times the weights, so that data sets of many are shown
    more; a synthetic data set counts as one structure."""
    max_labels: Positive = 5
    """Most labels that are united into one random structure."""
    min_voxels: Positive = 8
    """Voxels on the working grid below which a structure is not shown: nobody could see it."""
    own_context_share: Share = 0.0
    """Share of the episodes of segmentation whose first context image is the target itself, as in
    interactive use."""
    absent_share: Share = 0.0
    """Share of the episodes of segmentation whose target is of another anatomy, a synthetic one of
    shapes, so that the answer is an empty mask: a network that does not look cannot know."""
    close_share: Share = 0.0
    """Share of the episodes that are seen from close by, at most at the cases' own resolution, as
    the second look of inference sees a target. Cases are then read on their own grid."""
    tasks: dict[Task, Amount] = field(default_factory=lambda: {"segmentation": 1.0})
    """Relative frequency of each task. Of image-to-image tasks, context images come with what
    they should become in the place of prompts."""
    shuffled_share: Share = 0.0
    """Share of the episodes whose context images exchange their prompts at random; after
    `shuffled_from` of the steps."""
    shuffled_from: Share = 0.5
    """Share of the run's steps in which no prompts are exchanged."""
    validation_share: Share = 0.1
    """Share of each store's subjects that is kept for validation."""
    held_out_share: Share = 0.0
    """Share of each store's subjects that is kept out of training and validation."""

    @model_validator(mode="after")
    def _check(self):
        kept = self.validation_share + self.held_out_share
        if kept > 1 + 1e-9:
            raise ValueError(
                f"validation_share and held_out_share are {kept:g} together; at most 1"
            )
        if not sum(self.tasks.values()) > 0:
            raise ValueError("at least one task needs a frequency above 0")
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class PromptConfig:
    """Prompts on the context images in training."""

    kinds: dict[PromptKind, Amount] = field(default_factory=lambda: {"box": 1.0})
    """Relative frequency of each kind of prompt."""
    mixing: Literal["episode", "image", "prompt"] = "episode"
    """What has one kind: all of an episode, each context image, or each prompt by itself."""
    count: tuple[Positive, Positive] = (1, 5)
    """Fewest and most prompts on each context image; drawn once per episode. An image has at most
    one `box3d` and one `mask`."""
    jitter: Amount = 0.0
    """Standard deviation of a person's error as a share of the structure's or box's size; 0: all
    prompts are exact."""

    @model_validator(mode="after")
    def _check(self):
        if not sum(self.kinds.values()) > 0:
            raise ValueError("at least one kind needs a frequency above 0")
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class AugmentConfig:
    """Random changes of an episode, each drawn once for all its images, as often as published.
    docs/how-to/augment.md shows them."""

    flip: Share = 0.1
    """Probability of mirroring, for each axis."""
    turn: Share = 0.1
    """Probability of a turn by 1 to 3 quarters, for each plane; by 2 if its sides differ."""
    turn_each: Share = 0.25
    """Probability that each image is turned by itself, in every plane; synthetic cohorts only."""
    elastic: Share = 0.05
    """Probability of a smooth deformation, one for the whole group."""
    elastic_displacement: Annotated[float, Field(gt=0, le=0.1)] = 0.1
    """Largest displacement as a share of each side; the field cannot fold up to 0.1."""
    subsample: Share = 0.15
    """Probability that images lose planes of one axis, which are interpolated again."""
    subsample_factor: tuple[Positive, Positive] = (2, 4)
    """Fewest and most planes of which one is kept."""
    resize_mask: Share = 0.05
    """Probability of dilating or eroding the masks by one voxel, either with half of it."""
    edge_mask: Share = 0.05
    """Probability of replacing the masks by their Sobel edges."""
    invert_mask: Share = 0.05
    """Probability of exchanging structure and background; with mask prompts only."""
    gin: Share = 0.05
    """Probability that images pass a random convolution network, drawn once per step."""
    gin_blend: tuple[Share, Share] = (0.7, 1.0)
    """Smallest and largest share of that network's output in the changed image."""
    invert_image: Share = 0.05
    """Probability of turning bright into dark."""
    scale: Share = 0.2
    """Probability of multiplying the intensities by one factor."""
    largest_scale: Share = 0.1
    """Largest deviation of that factor from 1."""
    shift: Share = 0.2
    """Probability of adding one constant to the intensities."""
    largest_shift: Amount = 0.2
    """Largest magnitude of that constant, for intensities in [0, 1]."""
    noise: Share = 0.1
    """Probability of adding Gaussian noise, new for each image."""
    noise_sd: Amount = 0.02
    """Its standard deviation, for intensities in [0, 1]."""

    def only(self, **probabilities: float) -> "AugmentConfig":
        """These changes alone, at the same amounts; without any, nothing is changed."""
        return replace(self, **dict.fromkeys(AUGMENTATIONS, 0.0) | probabilities)


INTENSITY_AUGMENTATIONS = ("gin", "invert_image", "scale", "shift", "noise")
"""The settings of `AugmentConfig` that are probabilities of changes of intensities alone."""

AUGMENTATIONS = ("flip", "turn", "turn_each", "elastic", "subsample", "resize_mask", "edge_mask")
AUGMENTATIONS += ("invert_mask", *INTENSITY_AUGMENTATIONS)
"""The settings of `AugmentConfig` that are probabilities."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class TrainConfig:
    """Optimisation."""

    weights: LocalPath = ""
    """Network whose weights the run begins with: a run, a checkpoint, a file of weights, or the
    name of one that comes with this package; empty: weights are drawn."""
    beginning: Literal["random", "prompt_mean"] = "random"
    """How weights are drawn: `prompt_mean` begins with a network that answers with the mean of the
    context prompts, and learns what to change."""
    steps: Positive = 2000
    """Optimiser steps of the whole run."""
    batch: Positive = 4
    """Episodes per step, over all devices."""
    optimizer: Literal["adam", "muon"] = "adam"
    """`muon` moves each convolution's kernel by its gradient made orthogonal, as large as Adam's
    updates are, and biases by NAdam."""
    learning_rate: Amount = 1e-3
    """Peak learning rate."""
    weight_decay: Amount = 0.0
    """Share of each parameter, in learning rates, that a step takes away beside the gradient."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Course of the learning rate after the warm-up; cosine ends at 0."""
    warmup_steps: Count = 100
    """Steps over which the learning rate rises linearly from 0."""
    clip_norm: Amount = 0.25
    """Gradients of a larger global norm are scaled down to it; 0: no clipping."""
    loss: Literal["smooth_l3_l1", "l1", "dice_ce"] = "smooth_l3_l1"
    """Training loss; `smooth_l3_l1` is the published one."""
    loss_weight: Amount = 50.0
    """Factor on the loss."""
    loss_beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Error at which `smooth_l3_l1` turns from cubic to linear."""
    log_every: Positive = 20
    """Steps between entries of the log."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: Positive = 2
    """Newest checkpoints that are kept."""
    keep_best: Count = 1
    """Checkpoints of the highest validation Dice that are kept besides."""
    max_skipped: Positive = 10
    """Updates in a row that may be skipped for a loss or gradient that is not finite; one more
    ends the run."""
    evaluate_every: Count = 0
    """Steps between evaluations on validation cases; 0: only at the end."""
    workers: Count = 0
    """Processes that make episodes ahead of time; 0: threads of the training process."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class ParallelConfig:
    """The devices of all processes as a mesh of three axes; changes no result."""

    data: Shards = -1
    """Devices over which the episodes of a step are spread; -1: all that the others leave."""
    context: Shards = 1
    """Devices over which the context set of an episode is spread."""
    space: Shards = 1
    """Devices over which every volume is cut along its first axis, if too large for one."""
    shard_parameters: bool = False
    """Parameters and optimiser state are spread over `data` as well, instead of repeated."""

    @model_validator(mode="after")
    def _check(self):
        sizes = (self.data, self.context, self.space)
        if 0 in sizes or sizes.count(-1) > 1:
            raise ValueError("data, context and space are 1 or more each; one of them may be -1")
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class InteractiveConfig:
    """Interactive rounds: prompts on the target itself, each put where the last mask was wrong."""

    kinds: tuple[InteractiveKind, ...] = ()
    """Kinds of prompts, each a session of its own; empty: no interactive sessions."""
    rounds: Positive = 5
    """Prompts on the target, one in each round."""
    contexts: Count = 0
    """Context images of other subjects beside the target, with the kind and the largest number of
    prompts that is evaluated; 0: the target alone."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class EvaluationConfig:
    """What is measured, by `wsicl eval`, by `wsicl sweep` and on the way of training."""

    kinds: tuple[EvaluatedKind, ...] = ("box",)
    """Kinds of prompts, each reported by itself; `mixed` takes points, boxes and scribbles in
    turn."""
    part: Literal["validation", "held_out"] = "validation"
    """Which subjects of a store are targets; contexts are always of its training part."""
    contexts: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4,)
    """Numbers of context images, of other subjects; smaller sets are the first of larger ones."""
    fewer_contexts: bool = False
    """A data set with too few subjects for the largest of `contexts` is evaluated with those that
    it has enough for; otherwise what needs more is left out."""
    looks: bool = False
    """Measure also how much a network looks at its target: its masks on a constant and on a
    shuffled target against those on the true one, with the most prompts and contexts."""
    prompts: Annotated[tuple[Positive, ...], Field(min_length=1)] = (3,)
    """Numbers of prompts on each context image; the first of them serve for smaller numbers."""
    jitter: Amount = 0.0
    """Error of points, scribbles and boxes, as `prompts.jitter`; masks are exact here."""
    targets: Count = 0
    """Most target cases per structure; 0: all."""
    tolerance_mm: Amount = 2.0
    """Distance up to which two surfaces agree, for the surface Dice."""
    interactive: InteractiveConfig = InteractiveConfig()
    """Interactive rounds."""
    restoration: tuple[RestorationTask, ...] = ()
    """Image-to-image tasks that are measured as well, by PSNR and SSIM."""
    synthetic_structures: Positive = 16
    """Unseen structures when the data set is synthetic, each with one cohort of its own."""
    synthetic_targets: Positive = 4
    """Targets per unseen synthetic structure."""

    @model_validator(mode="before")
    @classmethod
    def _one_for_several(cls, arguments: Any) -> Any:
        return _in_place_of_lists(arguments, ("contexts", "prompts"), length=1)

    @model_validator(mode="after")
    def _check(self):
        if not (self.kinds or self.interactive.kinds or self.restoration):
            raise ValueError("nothing is evaluated; give kinds, interactive.kinds or restoration")
        return self

    @property
    def most_contexts(self) -> int:
        """Context images that an episode of evaluation needs."""
        return max(*self.contexts, self.interactive.contexts if self.interactive.kinds else 0)

    @property
    def context_kinds(self) -> tuple[EvaluatedKind, ...]:
        """Kinds of prompts that the context images need."""
        beside = self.interactive.kinds if self.interactive.contexts else ()
        return tuple(dict.fromkeys((*self.kinds, *beside)))

    @property
    def most_prompts(self) -> int:
        """Prompts that a context image needs."""
        return max(self.prompts)


@dataclass(frozen=True, kw_only=True, config=_RULES)
class SweepConfig:
    """A grid of evaluations: checkpoints x data sets x kinds x prompts x context sizes."""

    output: LocalPath = "sweeps/sweep"
    """Directory that the sweep writes: episode lists and a file of scores for each cell."""
    checkpoints: dict[str, LocalPath] = field(default_factory=dict)
    """Name of each model, and its run or checkpoint; `wsicl episodes` can do without."""
    baselines: tuple[BaselineName, ...] = ()
    """Models beside them that need no network; on the working grid of the first checkpoint."""
    data: tuple[DatasetConfig, ...] = ()
    """Data sets whose episodes are planned by this sweep."""
    episodes: tuple[LocalPath, ...] = ()
    """Episode lists that were written before, by `wsicl episodes` or another sweep."""
    unseen: bool = False
    """The data sets are for what no checkpoint has seen: one that a checkpoint was trained on, or
    that the network it began from was, is refused."""
    seed: Annotated[Count, Field(lt=2**32)] = 0
    """Seed of what is planned: split of data that no checkpoint knows, contexts and prompts."""
    episode: EpisodeConfig = EpisodeConfig()
    """Split of data that no checkpoint knows; the rest is of training alone."""
    synth: SynthConfig = SynthConfig()
    """Synthetic cohorts, where a data set is `synthetic`."""
    synthetic_grid: tuple[Positive, Positive, Positive] = (32, 32, 32)
    """Voxels of synthetic cohorts; and of the baselines' working grid without a checkpoint."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured."""

    @model_validator(mode="after")
    def _check(self):
        if taken := sorted(set(self.checkpoints) & set(get_args(BaselineName))):
            raise ValueError(f"a checkpoint is called {taken[0]!r}, as a baseline is; rename it")
        if self.baselines and not self.evaluation.kinds:
            raise ValueError("baselines are scored in context alone; give evaluation.kinds")
        if not self.data and not self.episodes:
            raise ValueError("nothing to evaluate on; give data, or lists of episodes")
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class ExperimentConfig:
    """A whole experiment."""

    run: LocalPath = "runs/experiment"
    """Directory that the run writes: configuration, log, checkpoints."""
    seed: Annotated[Count, Field(lt=2**32)] = 0
    """Seed of initialisation, episodes and validation split."""
    data: Annotated[tuple[DatasetConfig, ...], Field(min_length=1)] = (DatasetConfig(),)
    """Data sets; a single store's path, or `synthetic`, may stand for a list."""
    volume: VolumeConfig = VolumeConfig()
    """Working grid and intensities."""
    synth: SynthConfig = SynthConfig()
    """Synthetic cohorts, where a data set is `synthetic`."""
    episode: EpisodeConfig = EpisodeConfig()
    """Episodes of training."""
    prompts: PromptConfig = PromptConfig()
    """Prompts of training."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation in training."""
    model: ModelConfig = ModelConfig()
    """Network."""
    train: TrainConfig = TrainConfig()
    """Optimisation."""
    parallel: ParallelConfig = ParallelConfig()
    """Devices."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation."""

    @model_validator(mode="before")
    @classmethod
    def _short_data(cls, arguments: Any) -> Any:
        settings = arguments.kwargs if hasattr(arguments, "kwargs") else arguments
        if settings and isinstance(settings.get("data"), str):
            settings["data"] = [{"store": settings["data"]}]
        return arguments

    @model_validator(mode="after")
    def _check(self):
        multiple = self.model.size_multiple
        if any(side % multiple for side in self.volume.grid):
            raise ValueError(
                f"volume.grid {self.volume.grid} is no multiple of {multiple}, as "
                f"{len(self.model.channels)} stages of model.channels need"
            )
        for name, (low, high) in {
            "episode.contexts": self.episode.contexts,
            "prompts.count": self.prompts.count,
            "augment.subsample_factor": self.augment.subsample_factor,
            "augment.gin_blend": self.augment.gin_blend,
        }.items():
            if low > high:
                raise ValueError(f"{name} is ({low}, {high}); give the smaller number first")
        if self.episode.usual_contexts > self.episode.contexts[1]:
            raise ValueError(
                f"episode.usual_contexts = {self.episode.usual_contexts} is more than "
                f"episode.contexts {self.episode.contexts} allows"
            )
        if self.model.context.gradient == "truncated" and self.episode.context_multiple != 1:
            raise ValueError(
                "model.context.gradient = truncated would be drawn from images of weight 0 too: "
                "set episode.context_multiple to 1"
            )
        if self.model.context.gradient == "truncated" and self.parallel.context != 1:
            raise ValueError(
                "model.context.gradient = truncated takes its gradient from one mini-context, so "
                "there is nothing to spread: set parallel.context to 1"
            )
        if not any(dataset.weight for dataset in self.data):
            raise ValueError("every data set has weight 0; one needs more")
        restored = [task for task, share in self.episode.tasks.items() if share]
        if restored != ["segmentation"] and self.train.loss == "dice_ce":
            raise ValueError(
                "train.loss = dice_ce is for masks, but episode.tasks have images to restore: set "
                "it to l1 or smooth_l3_l1"
            )
        changed = [name for name in INTENSITY_AUGMENTATIONS if getattr(self.augment, name)]
        if restored != ["segmentation"] and changed:
            raise ValueError(
                f"augment.{changed[0]} changes what the network sees but not what it should "
                f"become, as episode.tasks with images need: set {', '.join(changed)} to 0"
            )
        for number, dataset in enumerate(self.data):
            if dataset.structure_weights and self.episode.structures != "named":
                raise ValueError(
                    f"data.{number}.structure_weights are of named structures: set "
                    "episode.structures to named, or leave them out"
                )
        if self.evaluation.part == "held_out" and not self.episode.held_out_share:
            raise ValueError(
                "evaluation.part = held_out, but episode.held_out_share is 0: nothing is held out"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class AblationConfig:
    """Training runs that differ in a few settings, for `wsicl ablate`."""

    base: LocalPath = ""
    """YAML file of the experiment that every cell starts from, seen from the ablation's file."""
    output: LocalPath = ""
    """Directory of the cells: each is the run OUTPUT/NAME."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Settings in which all cells differ from `base` alike, such as `train.steps: 500`."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = field(default_factory=dict)
    """Setting to its values, such as `episode.contexts: [[2, 2], [4, 4]]`; every combination is
    a cell."""
    cells: tuple[dict[str, Any], ...] = ()
    """Further cells, each by its settings and their values, and a `name` if it should have one."""
    seeds: tuple[Annotated[Count, Field(lt=2**32)], ...] = ()
    """Every cell is run with each of these; empty: with the seed of `base`."""
    slurm: dict[str, Any] = field(default_factory=dict)
    """What each cell asks of Slurm, in the words of submitit; `time_min` is needed."""

    @model_validator(mode="after")
    def _check(self):
        if missing := [name for name in ("base", "output") if not getattr(self, name)]:
            raise ValueError(f"{' and '.join(missing)} must be given in the ablation's file")
        return self


def preparation_from_dict(settings: Mapping[str, Any]) -> PreparationConfig:
    """A preparation from plain values. Raises `ConfigError` as `load_config` does."""
    return _validated(PreparationConfig, settings)


def inference_config(**settings: Any) -> InferenceConfig:
    """Settings of a segmenter. Raises `ConfigError` as `load_config` does."""
    return _validated(InferenceConfig, settings)


def reading_config(**settings: Any) -> ReadingConfig:
    """How files of images are read. Raises `ConfigError` as `load_config` does."""
    return _validated(ReadingConfig, settings)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment from YAML, with dotted overrides such as `train.steps=100`.

    Raises:
        ConfigError: the file is missing or no YAML mapping; a key is there twice, unknown (what
            may have been meant is named), ill-typed or out of range; `inherits` goes deeper than
            once.
    """
    return config_from_dict(_settings(ExperimentConfig, path, overrides))


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Read a sweep from YAML, as `load_config` reads an experiment. Raises `ConfigError`."""
    return _validated(SweepConfig, _settings(SweepConfig, path, overrides))


def load_ablation(path: str | Path, overrides: Sequence[str] = ()) -> AblationConfig:
    """Read an ablation from YAML; `base` becomes a path as seen from here.

    Overrides of the ablation itself, such as `output=runs/other`, change it; all others are
    settings that every cell gets. Raises `ConfigError` as `load_config` does.
    """
    names = [own.name for own in fields(AblationConfig)]
    own = [text for text in overrides if re.split(r"[.=]", text)[0] in names]
    ablation = _validated(AblationConfig, _settings(AblationConfig, path, own))
    common = dict(ablation.overrides)
    for override in overrides:
        if override not in own:
            key, value = _parsed(override)
            common[".".join(key)] = value
    return replace(ablation, base=str(Path(path).parent / ablation.base), overrides=common)


def _settings(kind: type, path: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    settings = read_settings(Path(path))
    parent = settings.pop("inherits", None)
    if parent is not None:
        if not isinstance(parent, str):
            raise ConfigError(f"{path}: inherits is {reprlib.repr(parent)}; expected a file's name")
        home = os.path.expanduser(parent)  # noqa: PTH111 - leaves ~UNKNOWN
        base = read_settings(Path(path).parent / home)
        if "inherits" in base:
            raise ConfigError(f"{path} inherits {parent}, which inherits again; one level only")
        settings = _merged(kind, base, settings)
    for override in overrides:
        _apply_override(settings, override)
    return settings


def config_from_dict(settings: Mapping[str, Any]) -> ExperimentConfig:
    """An experiment from nested settings. Raises `ConfigError` as `load_config` does."""
    return _validated(ExperimentConfig, settings)


def override_config(
    config: ExperimentConfig,
    overrides: Sequence[str],
    sections: Collection[str] | None = None,
) -> ExperimentConfig:
    """The experiment with dotted overrides, such as `evaluation.contexts=8`.

    With `sections`, only settings of these may be changed.

    Raises:
        ConfigError: as `load_config`, or an override is of another section.
    """
    settings = config_to_dict(config)
    for override in overrides:
        _apply_override(settings, override)
        section = override.partition("=")[0].split(".")[0]
        if sections is not None and section not in sections:
            raise ConfigError(
                f"override {override!r}: only settings of {', '.join(sections)} may be changed here"
            )
    return config_from_dict(settings)


def config_to_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested plain values: the inverse of `config_from_dict`."""
    return _plain(asdict(config))


def _validated(kind: type, settings: Mapping[str, Any]) -> Any:
    try:
        return TypeAdapter(kind).validate_python(dict(settings))
    except ValidationError as error:
        problems = error.errors()
        # A list with a bad entry is reported as too short as well.
        causes = [p for p in problems if not any(_lies_below(q, p) for q in problems)]
        raise ConfigError("; ".join(_explain(kind, problem) for problem in causes[:3])) from None


def _lies_below(problem: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    deep, shallow = problem["loc"], other["loc"]
    return len(deep) > len(shallow) and deep[: len(shallow)] == shallow


def _explain(kind: type, problem: Mapping[str, Any]) -> str:
    where = [part for part in problem["loc"] if not str(part).startswith("function-")]
    key = ".".join(map(str, where))
    shown = repr(key) if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]!r}..."
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown setting {shown}; {_hint(kind, where)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key and key not in message else message
    given = reprlib.repr(problem["input"])
    return f"{shown[1:-1]} = {given} does not fit: {message[0].lower()}{message[1:]}"


def _hint(kind: type, where: Sequence[Any]) -> str:
    """What may have been meant by an unknown setting: of its section, or of another one."""
    *section, name = map(str, where)
    prefix = ".".join([*section, ""])
    known = [own.name for own in fields(_section_at(kind, where[:-1]))]
    said = hint(name, known, prefix)
    if said.startswith("nearest"):
        return said
    if elsewhere := [key for key in _all_settings(kind) if key.rpartition(".")[2] == name]:
        return f"there is {', '.join(map(repr, elsewhere))}"
    return said


def _all_settings(kind: type, prefix: str = "") -> Iterator[str]:
    for own in fields(kind):
        yield f"{prefix}{own.name}"
        if section := _section_in(own.type):
            number = "" if section is own.type else "0."
            yield from _all_settings(section, f"{prefix}{own.name}.{number}")


def _section_at(kind: type, path: Sequence[Any]) -> type:
    for part in path:
        if not isinstance(part, int):
            kind = _section_in(next(f.type for f in fields(kind) if f.name == part))
    return kind


def _section_in(kind: Any) -> type | None:
    """The section that a setting is, or a list of which it is; None: it is a plain value."""
    while not is_dataclass(kind):
        if not (parts := get_args(kind)):
            return None
        kind = parts[0]
    return kind


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a YAML file gives, not checked for what they are; {} if it is empty.

    Raises:
        ConfigError: the file is missing, cannot be read, or is no mapping in YAML.
    """
    try:
        settings = parse_yaml(read_file(path))
    except FileNotFoundError:
        raise ConfigError(f"no configuration at {path}; examples are in configs/") from None
    except (OSError, DocumentError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {reason(error)}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds a {type(settings).__name__}; expected `key: value` lines")
    return settings


def _merged(kind: type, base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**base, **top}
    for section in fields(kind):
        both = base.get(section.name), top.get(section.name)
        if is_dataclass(section.type) and all(isinstance(one, dict) for one in both):
            merged[section.name] = _merged(section.type, *both)
    return merged


def _parsed(override: str) -> tuple[list[str], Any]:
    key, equals, text = override.partition("=")
    path = key.split(".")
    if not equals or not all(path):
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    try:
        return path, parse_yaml(text)
    except DocumentError as error:
        raise ConfigError(
            f"value of override {reprlib.repr(override)} is not valid YAML: {error}"
        ) from None


def _apply_override(settings: dict[str, Any], override: str) -> None:
    path, value = _parsed(override)
    if path[0] == "data" and len(path) > 1:
        data = settings.setdefault("data", SYNTHETIC)
        settings["data"] = [{"store": data}] if isinstance(data, str) else data
    node: Any = settings
    for part, following in zip(path, [*path[1:], None], strict=True):
        if isinstance(node, list):
            if not part.isdecimal() or len(part) > 9 or int(part) >= len(node):
                raise ConfigError(
                    f"override {override!r}: {part!r} is no position in a list of {len(node)}"
                )
            part = int(part)
        elif not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {part!r} lies below a single value")
        if following is None:
            node[part] = value
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        else:
            node = node[part]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
