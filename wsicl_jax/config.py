"""The experiment as typed, frozen dataclasses: each setting named, typed and defaulted once.

A YAML file under `configs/` gives the settings that differ from the defaults; it may
name one other file as `inherits`. `section.key=value` on the command line comes last.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from wsicl_jax.errors import ConfigError

SYNTHETIC = "synthetic"

# Strict, so that `true` or 2.0 is no number of steps.
Positive = Annotated[int, Field(ge=1, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Shards = Annotated[int, Field(ge=-1, strict=True)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PromptKind = Literal["box", "point", "mask"]

_RULES = ConfigDict(extra="forbid", use_attribute_docstrings=True)


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
    """How an image of any size becomes the network's input."""

    grid: tuple[Positive, Positive, Positive] = (32, 32, 32)
    """Working grid in voxels; every volume is resized to it as a whole."""
    percentiles: tuple[Amount, Amount] = (0.5, 99.5)
    """Percentiles (0 to 100) that intensities are clipped to before scaling to [0, 1]."""

    @model_validator(mode="after")
    def _check(self):
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError("percentiles must satisfy 0 <= low < high <= 100")
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class DatasetConfig:
    """One source of episodes."""

    store: str = SYNTHETIC
    """Path of a store made by `wsicl convert`, or `synthetic` for the built-in generator."""
    weight: Amount = 1.0
    """Relative frequency of its episodes in training."""
    structures: dict[str, tuple[Positive, ...]] = field(default_factory=dict)
    """Evaluation tasks: structure name to the label values that it unites; empty: every label."""


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
    max_labels: Positive = 5
    """Most labels that are united into one structure."""
    validation_share: Share = 0.1
    """Share of each store's cases that is kept for validation."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class PromptConfig:
    """Prompts on the context images in training."""

    kinds: dict[PromptKind, Amount] = field(default_factory=lambda: {"box": 1.0})
    """Relative frequency of each kind of prompt; one kind per episode."""
    count: tuple[Positive, Positive] = (1, 5)
    """Fewest and most boxes or points on each context image; drawn once per episode."""

    @model_validator(mode="after")
    def _check(self):
        if not sum(self.kinds.values()) > 0:
            raise ValueError("at least one kind needs a frequency above 0")
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class AugmentConfig:
    """Random changes, drawn once per episode and applied alike to all its images."""

    flip: Share = 0.1
    """Probability of mirroring, for each axis."""
    shift: Share = 0.2
    """Probability of adding a constant of up to +-0.2 to the intensities."""
    scale: Share = 0.2
    """Probability of multiplying the intensities by up to +-10 %."""
    noise: Share = 0.1
    """Probability of adding Gaussian noise of standard deviation 0.02."""
    invert_image: Share = 0.05
    """Probability of turning bright into dark."""
    invert_mask: Share = 0.05
    """Probability of exchanging structure and background; with mask prompts only."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class TrainConfig:
    """Optimisation."""

    steps: Positive = 2000
    """Optimiser steps of the whole run."""
    batch: Positive = 4
    """Episodes per step, over all devices."""
    learning_rate: Amount = 1e-3
    """Peak learning rate of Adam."""
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
class EvaluationConfig:
    """What `wsicl eval` measures, and training on its way."""

    kinds: Annotated[tuple[PromptKind, ...], Field(min_length=1)] = ("box",)
    """Kinds of prompts, each reported by itself."""
    contexts: Positive = 4
    """Context images per target, drawn from the training cases."""
    prompts: Positive = 3
    """Boxes or points on each context image."""
    targets: Count = 0
    """Most validation cases per structure; 0: all."""
    synthetic_structures: Positive = 16
    """Unseen structures when the data set is synthetic, each with one cohort of its own."""
    synthetic_targets: Positive = 4
    """Targets per unseen synthetic structure."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class ExperimentConfig:
    """A whole experiment."""

    run: str = "runs/experiment"
    """Directory that the run writes: configuration, log, checkpoints."""
    seed: Annotated[Count, Field(lt=2**32)] = 0
    """Seed of initialisation, episodes and validation split."""
    data: Annotated[tuple[DatasetConfig, ...], Field(min_length=1)] = (DatasetConfig(),)
    """Data sets; a single store's path, or `synthetic`, may stand for a list."""
    volume: VolumeConfig = VolumeConfig()
    """Working grid and intensities."""
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
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment from YAML, with dotted overrides such as `train.steps=100`.

    Raises:
        ConfigError: the file is missing or no YAML mapping; a key is unknown (the nearest
            valid one is named), ill-typed or out of range; `inherits` goes deeper than once.
    """
    settings = _read_yaml(Path(path))
    parent = settings.pop("inherits", None)
    if parent is not None:
        base = _read_yaml(Path(path).parent / str(parent))
        if "inherits" in base:
            raise ConfigError(f"{path} inherits {parent}, which inherits again; one level only")
        settings = _merged(base, settings)
    for override in overrides:
        _apply_override(settings, override)
    return config_from_dict(settings)


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
                f"override {override!r} changes what was trained; only {', '.join(sections)} "
                "may be changed here"
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
    if problem["type"] == "unexpected_keyword_argument":
        known = _keys_at(kind, where[:-1])
        prefix = ".".join(map(str, where[:-1]))
        nearest = difflib.get_close_matches(str(where[-1]), known, n=1, cutoff=0.0)[0]
        return f"unknown setting {key!r}; nearest is {f'{prefix}.{nearest}'.lstrip('.')!r}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key and key not in message else message
    return f"{key} = {problem['input']!r} does not fit: {message[0].lower()}{message[1:]}"


def _keys_at(kind: type, path: Sequence[Any]) -> list[str]:
    for part in path:
        if isinstance(part, int):
            continue
        kind = next(f.type for f in fields(kind) if f.name == part)
        while not is_dataclass(kind):
            kind = get_args(kind)[0]
    return [f.name for f in fields(kind)]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"no configuration at {path}; examples are in configs/") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read as YAML: {reason}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds a {type(settings).__name__}; expected `key: value` lines")
    return settings


def _merged(base: Any, top: Any) -> Any:
    if isinstance(base, dict) and isinstance(top, dict):
        return {k: _merged(base.get(k), top.get(k, base.get(k))) for k in base | top}
    return top


def _apply_override(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.split(".")
    if not equals or not all(path):
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"value of override {override!r} is not valid YAML") from None
    if path[0] == "data" and len(path) > 1:
        data = settings.setdefault("data", SYNTHETIC)
        settings["data"] = [{"store": data}] if isinstance(data, str) else data
    node: Any = settings
    for part, following in zip(path, [*path[1:], None], strict=True):
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
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
