"""Settings of evaluation and sweeps."""

from dataclasses import field
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Field,
    model_validator,
)
from pydantic.dataclasses import dataclass

from wsicl_jax.config.data import DatasetConfig
from wsicl_jax.config.episodes import EpisodeConfig
from wsicl_jax.config.fields import (
    _RULES,
    Amount,
    BaselineName,
    Count,
    EvaluatedKind,
    InteractiveKind,
    LocalPath,
    Positive,
    RestorationTask,
    _in_place_of_lists,
)
from wsicl_jax.config.synthesis import SynthConfig


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
