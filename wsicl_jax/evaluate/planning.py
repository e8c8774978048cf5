"""Episode lists, planned from the catalogues of stores and a seed.

Targets are cases that no model was trained on. Prompts are drawn on every case's own grid.
"""

import itertools
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from wsicl_jax.config import (
    SYNTHETIC,
    DatasetConfig,
    EvaluationConfig,
    ExperimentConfig,
    PromptKind,
    SynthConfig,
)
from wsicl_jax.data.datasets import DataSet, open_datasets
from wsicl_jax.data.random_streams import RandomStream
from wsicl_jax.data.store import Store
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.errors import DataError
from wsicl_jax.evaluate.case_sources import (
    Cases,
    CohortCases,
    Cohorts,
    StoreCases,
    cohort_of,
    structure_mask,
)
from wsicl_jax.evaluate.episode_list import (
    CasePrompts,
    EpisodeList,
    ListedEpisode,
    Structure,
    encoded,
)
from wsicl_jax.geometry.axes import Shape3
from wsicl_jax.prompts import ONCE_PER_IMAGE, draw
from wsicl_jax.terminal.progress import track

Marking = Literal["structure", "other structure"]
"""The structure that the prompts mark: that of the episode, or another one."""

_MIXED: tuple[PromptKind, ...] = ("point", "box", "scribble")
_KINDS: tuple[PromptKind, ...] = ("point", "box", "scribble", "box3d", "mask2d")
"""Kinds that are drawn at random; a mask prompt is the structure itself."""


class Planned(NamedTuple):
    """An episode list with its cases."""

    episodes: EpisodeList
    cases: Cases


class Plan(NamedTuple):
    """The planned lists, and the structures without episodes."""

    planned: list[Planned]
    skipped: dict[str, str]
    """Structures that too few cases have, each with the reason."""


def plan_experiment(config: ExperimentConfig, datasets: Sequence[DataSet] | None = None) -> Plan:
    """The episode lists of an experiment's data sets, by its `evaluation` settings.

    Without `datasets`, those of the configuration are opened and split by its seed.

    Raises:
        DataError: as `plan`, or as opening the data sets does.
    """
    return plan(
        open_datasets(config) if datasets is None else datasets,
        config.evaluation,
        seed=config.seed,
        synth=config.synth,
        cohort_grid=config.volume.grid,
        min_voxels=config.episode.min_voxels,
    )


def plan(
    datasets: Sequence[DataSet],
    evaluation: EvaluationConfig,
    *,
    seed: int,
    synth: SynthConfig,
    cohort_grid: Shape3,
    min_voxels: int,
    marking: Marking = "structure",
) -> Plan:
    """A list for every data set, one structure after another, from the catalogues alone.

    The lists have no prompts: `with_prompts` draws them, which reads the label maps. Targets are
    cases of the part `evaluation.part`. Contexts are training cases of other subjects, in a random
    order. Synthetic cohorts are on `cohort_grid`; their structures have `min_voxels` there or
    more. A label with too few cases is skipped, but an error if the data set names it in
    `structures`. With `fewer_contexts`, a data set with few subjects gets fewer contexts.

    Raises:
        DataError: a named structure has too few cases, or there is no other one to mark.
    """
    result = Plan([], {})
    for dataset in datasets:
        settings = _limited_to_subjects(evaluation, dataset)
        if dataset.store is None:
            count = settings.most_contexts + settings.synthetic_targets
            origin = (seed, RandomStream.UNSEEN_COHORT)
            cohorts = Cohorts(origin, cohort_grid, synth, min_voxels, count)
            cases: Cases = CohortCases(cohorts)
            structures, episodes = _synthetic_episodes(cohorts, settings, seed, marking)
            about = cohorts.to_json()
        else:
            cases = StoreCases(dataset)
            structures, episodes, skipped = _store_episodes(dataset, settings, seed, marking)
            result.skipped.update(skipped)
            about = {}
        if not episodes:
            continue
        names = {name for e in episodes for name in (e.target, *e.contexts)}
        listed = EpisodeList(
            data_set=cases.name,
            store=SYNTHETIC if dataset.store is None else dataset.settings.store,
            cases={name: cases.digest(name) for name in sorted(names)},
            structures={
                name: Structure(labels=labels, marked=marked, prompts={})
                for name, (labels, marked) in structures.items()
            },
            episodes=tuple(episodes),
            contexts=settings.most_contexts,
            prompts=settings.most_prompts,
            kinds=settings.context_kinds,
            seed=seed,
            part=settings.part,
            jitter=settings.jitter,
            cohorts=about,
        )
        result.planned.append(Planned(listed, cases))
    return result


def _limited_to_subjects(settings: EvaluationConfig, dataset: DataSet) -> EvaluationConfig:
    """With `fewer_contexts`, without context sizes above the number of training subjects."""
    if not settings.fewer_contexts or dataset.store is None:
        return settings
    subjects = len(dataset.subjects_of(dataset.cases("train")))
    sizes = [size for size in settings.contexts if size <= subjects]
    return replace(settings, contexts=tuple(sizes or [min(settings.contexts)]))


def cases_of(listed: EpisodeList) -> Cases:
    """The cases of an episode list, as they were when it was written.

    Raises:
        DataError: the store is missing, lacks a case or channel, or a case has changed.
    """
    if listed.store == SYNTHETIC:
        cases: Cases = CohortCases(Cohorts.from_json(listed.cohorts))
    else:
        store = Store.open(listed.store)
        dataset = DataSet(DatasetConfig(store=listed.store), store, {}, {})
        if unknown := {e.channel for e in listed.episodes} - set(store.channel_names):
            raise DataError(
                f"the episode list of {listed.data_set} has channels that {listed.store} lacks: "
                f"{sorted(unknown)}; plan the list again"
            )
        if missing := sorted(set(listed.cases) - set(store.catalogue)):
            raise DataError(
                f"the episode list of {listed.data_set} has {len(missing)} cases that "
                f"{listed.store} lacks, such as {missing[0]!r}; plan the list again"
            )
        cases = StoreCases(dataset)
    changed = [name for name, digest in listed.cases.items() if cases.digest(name) != digest]
    if changed:
        raise DataError(
            f"{listed.store} has changed since the episode list of {listed.data_set} was written: "
            f"{len(changed)} cases differ, such as {changed[0]!r}; plan the list again"
        )
    return cases


_Labels = tuple[tuple[int, ...], tuple[int, ...]]
"""Labels of a structure, and those that its prompts mark."""


def _store_episodes(
    dataset: DataSet, settings: EvaluationConfig, seed: int, marking: Marking
) -> tuple[dict[str, _Labels], list[ListedEpisode], dict[str, str]]:
    store, part = dataset.store, settings.part
    structures: dict[str, _Labels] = {}
    episodes: list[ListedEpisode] = []
    skipped: dict[str, str] = {}
    several = len(dataset.channels) > 1
    for number, (structure, labels) in enumerate(dataset.structures.items()):
        marked, context_cases = labels, dataset.having(labels, "train")
        if marking == "other structure":
            marked = _other(dataset.structures.values(), labels, dataset.name, structure)
            marked_cases = set(dataset.having(marked, "train"))
            context_cases = [case for case in context_cases if case in marked_cases]
        targets = dataset.having(labels, part)
        subjects = len(dataset.subjects_of(context_cases))
        if subjects < settings.most_contexts or not targets:
            reason = (
                f"in the cases of {subjects} training subjects and in {len(targets)} "
                f"{part.replace('_', '-')} cases; {settings.most_contexts} and 1 are needed"
            )
            if dataset.settings.structures:
                raise DataError(f"{structure!r} of {store.path} is {reason}")
            skipped[f"{store.name}/{structure}"] = reason
            continue
        structures[structure] = labels, marked
        for channel in dataset.channels:
            channel_name = store.channel_names[channel]
            for position, target in enumerate(targets[: settings.targets or None]):
                rng = np.random.default_rng((seed, RandomStream.TRIAL_CONTEXTS, number, position))
                contexts = _contexts(dataset, context_cases, settings.most_contexts, rng)
                name = f"{structure}/{target}" + (f"/{channel_name}" if several else "")
                subject = dataset.subjects[target]
                episodes.append(
                    ListedEpisode(
                        name=name,
                        structure=structure,
                        channel=channel_name,
                        target=target,
                        subject=subject,
                        contexts=contexts,
                    )
                )
    return structures, episodes, skipped


def _other(
    structures: Iterable[tuple[int, ...]], labels: tuple[int, ...], data_set: str, name: str
) -> tuple[int, ...]:
    for other in structures:
        if not set(other) & set(labels):
            return other
    raise DataError(f"{data_set} has no other structure than {name!r}")


def _contexts(
    dataset: DataSet, cases: Sequence[str], count: int, rng: np.random.Generator
) -> tuple[str, ...]:
    """Random cases of `count` subjects, one each; `cases` has that many subjects or more."""
    by_subject: dict[str, str] = {}
    while len(by_subject) < count:
        case = cases[rng.integers(len(cases))]
        by_subject.setdefault(dataset.subjects[case], case)
    return tuple(by_subject.values())


def _synthetic_episodes(
    cohorts: Cohorts, settings: EvaluationConfig, seed: int, marking: Marking
) -> tuple[dict[str, _Labels], list[ListedEpisode]]:
    structures: dict[str, _Labels] = {}
    episodes = []
    for number in range(settings.synthetic_structures):
        _, labels = cohort_of(cohorts, number)
        rng = np.random.default_rng((seed, RandomStream.TRIAL_CONTEXTS, number))
        label, other = (int(value) for value in rng.choice(labels, 2, replace=False))
        structure = f"unseen {number + 1}"
        structures[structure] = (label,), (other if marking == "other structure" else label,)
        names = [f"cohort {number + 1}/subject {i + 1}" for i in range(cohorts.subjects)]
        episodes += [
            ListedEpisode(
                name=f"{structure}/{target}",
                structure=structure,
                channel=SYNTHETIC,
                target=target,
                # Subjects of a cohort are not independent, but cohorts are.
                subject=f"cohort {number + 1}",
                contexts=tuple(names[: settings.most_contexts]),
            )
            for target in names[settings.most_contexts :]
        ]
    return structures, episodes


def with_prompts(planned: Planned) -> Planned:
    """The list with the prompts of every context case, drawn on its own grid.

    Raises:
        DataError: a case cannot be read.
    """
    listed, cases = planned
    context_cases: dict[str, dict[str, None]] = {name: {} for name in listed.structures}
    for episode in listed.episodes:
        context_cases[episode.structure].update(dict.fromkeys(episode.contexts))
    structures = {}
    total = sum(map(len, context_cases.values()))
    with track(total, f"prompts of {listed.data_set}", show=is_leader()) as bar:
        for number, (name, structure) in enumerate(listed.structures.items()):
            prompts = {}
            for case in context_cases[name]:
                key = (listed.seed, RandomStream.TRIAL_PROMPTS, number, zlib.crc32(case.encode()))
                prompts[case] = _draw(planned, case, structure.marked, key)
                bar.advance()
            structures[name] = replace(structure, prompts=prompts)
    return Planned(replace(listed, structures=structures), cases)


def _draw(
    planned: Planned, case: str, labels: tuple[int, ...], key: tuple[int, ...]
) -> CasePrompts:
    listed, cases = planned
    drawn_kinds = {*listed.kinds, *(_MIXED if "mixed" in listed.kinds else ())}
    kinds = [(place, kind) for place, kind in enumerate(_KINDS) if kind in drawn_kinds]
    structure = structure_mask(cases, case, labels) if kinds else np.zeros((1, 1, 1), bool)
    drawn = {}
    for place, kind in kinds:
        # A random stream for each kind, so that other requested kinds change nothing.
        rng = np.random.default_rng((*key, 1 + place))
        count = 1 if kind in ONCE_PER_IMAGE else listed.prompts
        jitter = 0.0 if kind == "mask2d" else listed.jitter
        drawn[kind] = draw(kind, structure, count, rng, jitter=jitter)
    mixed: list[PromptKind] = []
    if "mixed" in listed.kinds:
        rng = np.random.default_rng((*key, 1 + len(_KINDS)))
        turn = itertools.cycle([_MIXED[i] for i in rng.permutation(len(_MIXED))])
        mixed = list(itertools.islice(turn, listed.prompts))
    return encoded(drawn, mixed)
