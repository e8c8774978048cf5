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
from jaxtyping import Bool, Float, Integer

from wsicl_jax.cluster import is_leader
from wsicl_jax.config import (
    SYNTHETIC,
    EvaluationConfig,
    ExperimentConfig,
    PromptKind,
    SynthConfig,
    VolumeConfig,
)
from wsicl_jax.data.datasets import DataSet, open_datasets
from wsicl_jax.data.episodes import Episode, draw_prompts, episode
from wsicl_jax.data.sources import (
    Group,
    Subject,
    group_of,
    is_shown,
    prepared_case,
    synthetic_subjects,
)
from wsicl_jax.data.store import Store
from wsicl_jax.errors import DataError
from wsicl_jax.geometry import WorkingGrid
from wsicl_jax.metrics import dice
from wsicl_jax.model.dual_branch import CUT, DualBranch
from wsicl_jax.progress import track
from wsicl_jax.prompts import Prompt
from wsicl_jax.streams import Stream

_VOXELS_AT_ONCE = 4 * 32**3
"""Targets run together up to this many voxels of the working grid, to bound memory."""

PromptsOf = Literal["structure", "other structure", "nothing"]
"""Whose prompts the contexts carry: the structure asked for, another one, or none at all."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One target, its contexts, and the structure to find; arrays are read when asked for."""

    dataset: str
    structure: str
    target: str
    """Name of the target's case."""
    labels: tuple[int, ...]
    """Labels that the structure unites."""
    other_labels: tuple[int, ...] | None
    """Labels of another structure of the data set; None if there is no other."""
    seed: tuple[int, ...]
    """Seed of its prompts."""
    subjects: Callable[[], Sequence[Subject]]
    """Reads the target, then its contexts, on the working grid."""
    own_label: Callable[[], Integer[np.ndarray, "X Y Z"]]
    """Reads the target's label map on its own grid."""
    restore: Callable[[Float[np.ndarray, "x y z"]], Float[np.ndarray, "X Y Z"]]
    """From the working grid to the target's own."""

    def group(self, of: PromptsOf = "structure") -> Group:
        """Target first, then contexts, with the masks of the structure or of another one.

        Raises:
            DataError: another structure is asked for and there is none.
        """
        labels = self.other_labels if of == "other structure" else self.labels
        if labels is None:
            raise DataError(f"{self.dataset} has no other structure than {self.structure!r}")
        return group_of(self.subjects(), labels)

    def truth(self) -> Bool[np.ndarray, "X Y Z"]:
        """The structure on the target's own grid."""
        return np.isin(self.own_label(), self.labels)

    def prompts(self, kind: PromptKind, count: int) -> list[Sequence[Prompt]]:
        """The prompts of each context, as `episode` paints them."""
        return draw_prompts(self.group(), kind, count, np.random.default_rng(self.seed))

    def episode(self, kind: PromptKind, count: int, of: PromptsOf = "structure") -> Episode:
        """The trial as the network sees it, with `count` prompts of one kind on each context."""
        shown = episode(self.group(of), kind, count, np.random.default_rng(self.seed))
        if of == "nothing":
            shown = shown._replace(context_prompts=np.zeros_like(shown.context_prompts))
        return shown


class Score(NamedTuple):
    """Dice of one trial."""

    dataset: str
    structure: str
    kind: PromptKind
    target: str
    dice: float


class Trials(NamedTuple):
    """What can be scored, and what cannot."""

    trials: list[Trial]
    left_out: dict[str, str]
    """Structures that too few cases have, each with the reason."""


def plan_trials(config: ExperimentConfig, datasets: Sequence[DataSet] | None = None) -> Trials:
    """The trials of every data set of the experiment, one structure after another.

    Without `datasets`, those of the configuration are opened and split by its seed. A label that
    is in too few cases is left out; a structure that the configuration names must be there.

    Raises:
        DataError: a store is missing, two have the same name, or a structure that is named
            has too few cases.
    """
    planned = Trials([], {})
    for dataset in open_datasets(config) if datasets is None else datasets:
        found = _store_trials(config, dataset) if dataset.store else _synthetic_trials(config)
        planned.trials.extend(found.trials)
        planned.left_out.update(found.left_out)
    return planned


def evaluate(model: DualBranch, trials: Sequence[Trial], settings: EvaluationConfig) -> list[Score]:
    """Score every trial with every configured kind of prompt."""
    return [
        Score(trial.dataset, trial.structure, kind, trial.target, value)
        for kind in settings.kinds
        for trial, value in zip(
            trials,
            dice_of(
                model, trials, kind=kind, count=settings.prompts, description=f"evaluating {kind}"
            ),
            strict=True,
        )
    ]


def dice_of(
    model: DualBranch,
    trials: Sequence[Trial],
    *,
    kind: PromptKind,
    count: int,
    contexts: int | None = None,
    of: PromptsOf = "structure",
    description: str = "evaluating",
) -> list[float]:
    """Dice of each trial on its target's own grid.

    With `contexts`, only that many of each trial's contexts count: the others have weight
    0, so that one compilation serves all context sizes.
    """
    values: list[float] = []
    with track(len(trials), description, show=is_leader()) as bar:
        for part in _parts(trials):
            shown = [trial.episode(kind, count, of) for trial in part]
            for trial, output in zip(part, outputs(model, shown, contexts), strict=True):
                values.append(dice(trial.restore(output) > CUT, trial.truth()))
            bar.advance(len(part))
    return values


def outputs(
    model: DualBranch, episodes: Sequence[Episode], contexts: int | None = None
) -> Float[np.ndarray, "episode x y z"]:
    """The network's output for a batch of episodes, of which the first `contexts` count."""
    graph, parameters = nnx.split(model, nnx.Param)
    batch = Episode(*map(np.stack, zip(*episodes, strict=True)))
    weights = batch.context_weights
    if contexts is not None:
        weights[:, contexts:] = 0
    inputs = (batch.target, batch.context_images, batch.context_prompts, weights)
    return np.asarray(_forward(graph, parameters, *inputs))[..., 0]


# One function for all calls, so that each network and shape is compiled once.
@functools.partial(jax.jit, static_argnums=0)
def _forward(graph, parameters, *inputs):
    return nnx.merge(graph, parameters)(*inputs)


def _parts(trials: Sequence[Trial]) -> Iterator[Sequence[Trial]]:
    if trials:
        at_once = max(1, _VOXELS_AT_ONCE // trials[0].subjects()[0][0].size)
        for first in range(0, len(trials), at_once):
            yield trials[first : first + at_once]


def _synthetic_trials(config: ExperimentConfig) -> Trials:
    settings = config.evaluation
    trials = []
    for number in range(settings.synthetic_structures):
        count = settings.contexts + settings.synthetic_targets
        seed = (config.seed, Stream.UNSEEN_COHORT, number)
        cohort = _Cohort(seed, config.volume, config.synth, config.episode.min_voxels, count)
        _, labels = _drawn(cohort)
        rng = np.random.default_rng((config.seed, Stream.TRIAL_CONTEXTS, number))
        structure, other = (int(label) for label in rng.choice(labels, 2, replace=False))
        for target in range(settings.contexts, count):
            picked = (target, *range(settings.contexts))
            trials.append(
                Trial(
                    SYNTHETIC,
                    f"unseen {number + 1}",
                    f"subject {target + 1}",
                    (structure,),
                    (other,),
                    (config.seed, Stream.TRIAL_PROMPTS, number, target),
                    functools.partial(_cohort_subjects, cohort, picked),
                    functools.partial(_cohort_label, cohort, target),
                    _as_it_is,
                )
            )
    return Trials(trials, {})


class _Cohort(NamedTuple):
    seed: tuple[int, ...]
    volume: VolumeConfig
    synth: SynthConfig
    min_voxels: int
    count: int


# The trials of a cohort follow each other, so the newest cohort serves them all.
@functools.lru_cache(maxsize=1)
def _drawn(cohort: _Cohort) -> tuple[list[Subject], Integer[np.ndarray, "label"]]:
    seed, volume, synth, min_voxels, count = cohort
    return synthetic_subjects(
        seed, volume, count, structures=2, min_voxels=min_voxels, settings=synth
    )


def _cohort_subjects(cohort: _Cohort, picked: Sequence[int]) -> list[Subject]:
    subjects, _ = _drawn(cohort)
    return [subjects[i] for i in picked]


def _cohort_label(cohort: _Cohort, target: int) -> np.ndarray:
    return _drawn(cohort)[0][target][1]


def _as_it_is(values: np.ndarray) -> np.ndarray:
    return values


def _store_trials(config: ExperimentConfig, dataset: DataSet) -> Trials:
    settings, store = config.evaluation, dataset.store
    structures, several = dataset.structures, len(store.channel_names) > 1
    planned = Trials([], {})
    for number, (structure, labels) in enumerate(structures.items()):
        shown = dataset.having(labels, "train")
        targets = dataset.having(labels, settings.part)
        subjects = len(dataset.subjects_of(shown))
        if subjects < settings.contexts or not targets:
            reason = (
                f"in the cases of {subjects} training subjects and in {len(targets)} "
                f"{settings.part.replace('_', '-')} cases; {settings.contexts} and 1 are needed"
            )
            if dataset.settings.structures:
                raise DataError(f"{structure!r} of {store.path} is {reason}")
            planned.left_out[f"{store.name}/{structure}"] = reason
            continue
        others = [other for other in structures.values() if not set(other) & set(labels)]
        for channel in dataset.channels:
            for position, target in enumerate(targets[: settings.targets or None]):
                drawn = (config.seed, Stream.TRIAL_CONTEXTS, number, position)
                planned.trials.append(
                    Trial(
                        f"{store.name}, {store.channel_names[channel]}" if several else store.name,
                        structure,
                        target,
                        tuple(labels),
                        others[0] if others else None,
                        (config.seed, Stream.TRIAL_PROMPTS, number, position),
                        functools.partial(
                            _store_subjects, dataset, target, shown, drawn, channel, labels, config
                        ),
                        functools.partial(store.read_label, target),
                        functools.partial(_restore, store, target, config.volume),
                    )
                )
    return planned


def _store_subjects(
    dataset: DataSet,
    target: str,
    shown: Sequence[str],
    drawn: tuple[int, ...],
    channel: int,
    labels: Sequence[int],
    config: ExperimentConfig,
) -> list[Subject]:
    """The target and the first cases in a drawn order, of a subject each, that show the structure.

    The order is drawn when it is asked for: many cases make many trials.
    """
    store, volume, least = dataset.store, config.volume, config.episode.min_voxels
    found, used = [prepared_case(store, target, channel, volume)], set()
    for i in np.random.default_rng(drawn).permutation(len(shown)):
        name = shown[i]
        if len(found) > config.evaluation.contexts:
            return found
        if dataset.subjects[name] in used:
            continue
        subject = prepared_case(store, name, channel, volume)
        if is_shown(np.isin(subject[1], labels), least):
            found.append(subject)
            used.add(dataset.subjects[name])
    if len(found) > config.evaluation.contexts:
        return found
    raise DataError(
        f"{store.path}: labels {list(labels)} have {least} voxels at {volume.grid} in the training "
        f"cases of only {len(found) - 1} subjects; lower evaluation.contexts or use a larger "
        "volume.grid"
    )


def _restore(store: Store, target: str, volume: VolumeConfig, values: np.ndarray) -> np.ndarray:
    case = store.case(target)
    return WorkingGrid.of(case.shape, case.affine, volume.grid).restore(values)
