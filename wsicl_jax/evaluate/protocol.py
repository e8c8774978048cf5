"""Trials with fixed prompts on cases that training never saw, and their scores.

A trial is one target with its context set and one structure. Which cases and prompts it
has follows from the run's seed alone, so that two networks are scored on the same trials.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float

from wsicl_jax.config import (
    SYNTHETIC,
    DatasetConfig,
    EvaluationConfig,
    ExperimentConfig,
    PromptKind,
)
from wsicl_jax.data.episodes import Episode, draw_prompts, episode
from wsicl_jax.data.sources import (
    SMALLEST_STRUCTURE,
    UNSEEN,
    Group,
    group_of,
    prepared_case,
    split,
    synthetic_subjects,
)
from wsicl_jax.data.store import Store
from wsicl_jax.errors import DataError
from wsicl_jax.geometry import WorkingGrid
from wsicl_jax.metrics import dice
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.progress import track
from wsicl_jax.prompts import Prompt

_TARGETS_AT_ONCE = 4
_CONTEXTS, _PROMPTS = 5, 6
"""Streams of random numbers: a trial's contexts, and its prompts; apart from training's."""

Hint = Literal["own", "other", "none"]
"""Prompts of the structure asked for, of another one, or an empty prompt channel."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One target, its contexts, and the structure to find."""

    dataset: str
    structure: str
    target: str
    """Name of the target's case."""
    group: Group
    """Target first, then contexts, on the working grid, with the structure's masks."""
    other_masks: list[Bool[np.ndarray, "x y z"]] | None
    """Masks of another structure in the same subjects; None if there is no other."""
    truth: Bool[np.ndarray, "X Y Z"]
    """The structure on the target's own grid."""
    restore: Callable[[Float[np.ndarray, "x y z"]], Float[np.ndarray, "X Y Z"]]
    """From the working grid to the target's own."""
    seed: tuple[int, ...]
    """Seed of its prompts."""

    def episode(self, kind: PromptKind, count: int, hint: Hint = "own") -> Episode:
        """The trial as the network sees it, with `count` prompts of one kind on each context.

        Raises:
            DataError: prompts of another structure are asked for and there is none.
        """
        group = self.group
        if hint == "other":
            if self.other_masks is None:
                raise DataError(f"{self.dataset} has no other structure than {self.structure!r}")
            group = group._replace(masks=self.other_masks)
        shown = episode(group, kind, count, np.random.default_rng(self.seed))
        if hint == "none":
            shown = shown._replace(context_prompts=np.zeros_like(shown.context_prompts))
        return shown

    def prompts(self, kind: PromptKind, count: int) -> list[Sequence[Prompt]]:
        """The prompts of each context, as `episode` paints them."""
        return draw_prompts(self.group, kind, count, np.random.default_rng(self.seed))


class Score(NamedTuple):
    """Dice of one trial."""

    dataset: str
    structure: str
    kind: PromptKind
    target: str
    dice: float


def trials(config: ExperimentConfig) -> Iterator[Trial]:
    """The trials of every data set of the experiment, one structure after another.

    Raises:
        DataError: a store is missing, or has too few cases of a structure.
    """
    for dataset in config.data:
        if dataset.store == SYNTHETIC:
            yield from _synthetic_trials(config)
        else:
            yield from _store_trials(config, dataset)


def evaluate(model: DualBranch, found: Sequence[Trial], settings: EvaluationConfig) -> list[Score]:
    """Score every trial with every configured kind of prompt."""
    return [
        Score(trial.dataset, trial.structure, kind, trial.target, value)
        for kind in settings.kinds
        for trial, value in zip(
            found,
            dice_of(model, found, kind=kind, count=settings.prompts, label=f"evaluating {kind}"),
            strict=True,
        )
    ]


def dice_of(
    model: DualBranch,
    found: Sequence[Trial],
    *,
    kind: PromptKind,
    count: int,
    contexts: int | None = None,
    hint: Hint = "own",
    label: str = "evaluating",
) -> list[float]:
    """Dice of each trial on its target's own grid.

    With `contexts`, only that many of each trial's contexts count: the others have weight
    0, so that one compilation serves all context sizes.
    """
    shown = [trial.episode(kind, count, hint) for trial in found]
    maps = predict(model, shown, contexts=contexts, label=label)
    return [
        dice(trial.restore(values) > 0.5, trial.truth)
        for trial, values in zip(found, maps, strict=True)
    ]


def predict(
    model: DualBranch,
    episodes: Sequence[Episode],
    *,
    contexts: int | None = None,
    label: str = "predicting",
) -> list[Float[np.ndarray, "x y z"]]:
    """The network's output for each episode, on the working grid."""
    graph, parameters = nnx.split(model, nnx.Param)
    maps: list[np.ndarray] = []
    with track(len(episodes), label) as bar:
        for first in range(0, len(episodes), _TARGETS_AT_ONCE):
            part = list(episodes[first : first + _TARGETS_AT_ONCE])
            filled = part + part[-1:] * (_TARGETS_AT_ONCE - len(part))
            batch = Episode(*map(np.stack, zip(*filled, strict=True)))
            weights = np.ones(batch.context_images.shape[:2], np.float32)
            if contexts is not None:
                weights[:, contexts:] = 0
            inputs = (batch.target, batch.context_images, batch.context_prompts, weights)
            output = _forward(graph, parameters, *inputs)
            maps.extend(np.asarray(output)[: len(part), ..., 0])
            bar.advance(len(part))
    return maps


# One function for all calls, so that each network and shape is compiled once.
@functools.partial(jax.jit, static_argnums=0)
def _forward(graph, parameters, *inputs):
    return nnx.merge(graph, parameters)(*inputs)


def _synthetic_trials(config: ExperimentConfig) -> Iterator[Trial]:
    settings = config.evaluation
    for number in range(settings.synthetic_structures):
        count = settings.contexts + settings.synthetic_targets
        seed = (config.seed, UNSEEN, number)
        subjects, labels = synthetic_subjects(seed, config.volume, count, structures=2)
        rng = np.random.default_rng((config.seed, _CONTEXTS, number))
        group, other = (group_of(subjects, [int(k)]) for k in rng.choice(labels, 2, False))
        for target in range(settings.contexts, count):
            picked = [target, *range(settings.contexts)]
            yield Trial(
                SYNTHETIC,
                f"unseen {number + 1}",
                f"subject {target + 1}",
                Group([group.images[i] for i in picked], [group.masks[i] for i in picked]),
                [other.masks[i] for i in picked],
                group.masks[target],
                lambda values: values,
                (config.seed, _PROMPTS, number, target),
            )


def _store_trials(config: ExperimentConfig, dataset: DatasetConfig) -> Iterator[Trial]:
    settings, volume = config.evaluation, config.volume
    store = Store.open(dataset.store)
    training, validation = split(store, config.episode.validation_share, config.seed)
    structures = dict(dataset.structures) or {
        name: (value,) for value, name in store.label_names.items()
    }
    cases = {name: store.case(name) for name in store.cases}
    for number, (structure, labels) in enumerate(structures.items()):
        unknown = sorted(set(labels) - set(store.label_names))
        if unknown:
            raise DataError(
                f"structure {structure!r} names labels {unknown} that {store.path} lacks; it has "
                f"{sorted(store.label_names)}"
            )
        others = [name for name in structures if not set(structures[name]) & set(labels)]
        voxels = {
            name: sum(case.voxel_counts.get(label, 0) for label in labels)
            for name, case in cases.items()
        }
        shown = [n for n in training if voxels[n] >= SMALLEST_STRUCTURE]
        targets = [n for n in validation if voxels[n]]
        if len(shown) < settings.contexts or not targets:
            raise DataError(
                f"{structure!r} of {store.path} is in {len(shown)} training and {len(targets)} "
                f"validation cases; {settings.contexts} and 1 are needed"
            )
        for position, target in enumerate(targets[: settings.targets or None]):
            rng = np.random.default_rng((config.seed, _CONTEXTS, number, position))
            picked = [target]
            picked += [shown[i] for i in rng.choice(len(shown), settings.contexts, replace=False)]
            subjects = [prepared_case(store, name, 0, volume) for name in picked]
            case = cases[target]
            yield Trial(
                store.name,
                structure,
                target,
                group_of(subjects, labels),
                group_of(subjects, structures[others[0]]).masks if others else None,
                np.isin(store.read_label(target), labels),
                WorkingGrid.of(case.shape, case.affine, volume.grid).restore,
                (config.seed, _PROMPTS, number, position),
            )
