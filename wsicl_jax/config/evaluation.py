"""Settings of evaluation and sweeps."""

from dataclasses import field
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from wsicl_jax.config.data import DatasetConfig
from wsicl_jax.config.episodes import EpisodeConfig
from wsicl_jax.config.fields import (
    RULES,
    Amount,
    BaselineName,
    Count,
    EvaluatedKind,
    InteractiveKind,
    LocalPath,
    Positive,
    RestorationTask,
    Seed,
    numbers_as_lists,
)
from wsicl_jax.config.synthesis import SynthConfig


@dataclass(frozen=True, kw_only=True, config=RULES)
class InteractiveConfig:
    """Interactive segmentation: in each round a prompt on the target corrects the last mask."""

    kinds: tuple[InteractiveKind, ...] = ()
    """Kinds of prompts, each in its own session; empty: no interactive sessions."""
    rounds: Positive = 5
    """Rounds of a session, with one prompt each."""
    negative: bool = False
    """Whether points and scribbles also correct what was segmented in excess, as negative
    prompts."""
    enforce_prompts: bool = True
    """As `inference.enforce_prompts`."""
    contexts: Count = 0
    """Context images of other subjects next to the target. They have prompts of the session's
    kind, as many as the largest of `evaluation.prompts`. 0: the target alone."""


@dataclass(frozen=True, kw_only=True, config=RULES)
class EvaluationConfig:
    """What `wsicl eval`, `wsicl sweep` and the evaluations during training measure."""

    kinds: tuple[EvaluatedKind, ...] = ("box",)
    """Kinds of prompts, each reported on its own; `mixed` alternates points, boxes and
    scribbles."""
    part: Literal["validation", "held_out"] = "validation"
    """Part of a store's subjects that are targets; context images are from the training part."""
    contexts: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4,)
    """Numbers of context images; a smaller context set is the beginning of a larger one."""
    fewer_contexts: bool = False
    """If a data set has too few subjects for the largest of `contexts`, evaluate it at the smaller
    numbers; otherwise what needs more is skipped."""
    target_dependence: bool = False
    """Also measure how much predictions depend on the target: compare masks for a constant and
    for a shuffled target with those for the true one, at the most prompts and contexts."""
    prompts: Annotated[tuple[Positive, ...], Field(min_length=1)] = (3,)
    """Numbers of prompts on each context image; a smaller number uses the first prompts of a
    larger one."""
    jitter: Amount = 0.0
    """Standard deviation of a person's error, as `prompts.jitter`; for points, scribbles and
    boxes."""
    targets: Count = 0
    """Most target cases per structure; 0: all."""
    tolerance_mm: Amount = 2.0
    """Tolerance of the surface Dice in mm."""
    interactive: InteractiveConfig = InteractiveConfig()
    """Interactive segmentation."""
    restoration: tuple[RestorationTask, ...] = ()
    """Image-to-image tasks to measure as well, by PSNR and SSIM."""
    synthetic_structures: Positive = 16
    """Structures of a synthetic data set, each in a new cohort."""
    synthetic_targets: Positive = 4
    """Targets per synthetic structure."""

    @model_validator(mode="before")
    @classmethod
    def _one_for_several(cls, arguments: Any) -> Any:
        return numbers_as_lists(arguments, ("contexts", "prompts"), length=1)

    @model_validator(mode="after")
    def _check(self):
        if not (self.kinds or self.interactive.kinds or self.restoration):
            raise ValueError("nothing is evaluated; give kinds, interactive.kinds or restoration")
        return self

    @property
    def most_contexts(self) -> int:
        """Most context images of an episode."""
        return max(*self.contexts, self.interactive.contexts if self.interactive.kinds else 0)

    @property
    def context_kinds(self) -> tuple[EvaluatedKind, ...]:
        """Kinds of prompts on the context images."""
        interactive = self.interactive.kinds if self.interactive.contexts else ()
        return tuple(dict.fromkeys((*self.kinds, *interactive)))

    @property
    def most_prompts(self) -> int:
        """Most prompts on a context image."""
        return max(self.prompts)


@dataclass(frozen=True, kw_only=True, config=RULES)
class SweepConfig:
    """A grid of evaluations: models x data sets x kinds of prompts x their number x context
    sizes."""

    output: LocalPath = "sweeps/sweep"
    """Directory or URL of the sweep: episode lists and a file of scores for each cell."""
    checkpoints: dict[str, LocalPath] = field(default_factory=dict)
    """Name of each network to its run, checkpoint or file, also by URL; `wsicl episodes` needs
    none."""
    baselines: tuple[BaselineName, ...] = ()
    """Baselines to evaluate as well, on the working grid of the first checkpoint."""
    data: tuple[DatasetConfig, ...] = ()
    """Data sets for which this sweep makes episode lists."""
    episodes: tuple[LocalPath, ...] = ()
    """Files of existing episode lists, of `wsicl episodes` or another sweep."""
    unseen: bool = False
    """Refuse data sets that any checkpoint, or the network that it started from, was trained
    on."""
    seed: Seed = 0
    """Seed of context sets, prompts, and the split of data sets that no checkpoint has split."""
    episode: EpisodeConfig = EpisodeConfig()
    """Split of data sets that no checkpoint has split; the other settings have no effect."""
    synth: SynthConfig = SynthConfig()
    """Synthetic cohorts, where a data set is `synthetic`."""
    synthetic_grid: tuple[Positive, Positive, Positive] = (32, 32, 32)
    """Grid of synthetic cohorts in voxels; without a checkpoint also the baselines' working
    grid."""
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
