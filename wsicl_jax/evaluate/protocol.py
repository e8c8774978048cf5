"""Which protocols an evaluation has, and one call that scores any of them.

In context: images of other subjects with prompts. Interactive: prompts on the target itself, in
rounds. Restoration: image to image. Looking: targets without content.
"""

from collections.abc import Sequence
from typing import NamedTuple

from wsicl_jax.config import EvaluationConfig
from wsicl_jax.evaluate.baselines import Baseline, score_baseline
from wsicl_jax.evaluate.episode_list import EpisodeList
from wsicl_jax.evaluate.in_context import score_in_context
from wsicl_jax.evaluate.interactive import score_interactive
from wsicl_jax.evaluate.planning import Planned
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.records import Protocol, Score
from wsicl_jax.evaluate.restoration import score_restoration
from wsicl_jax.evaluate.target_dependence import score_looking
from wsicl_jax.prompts import ONCE_PER_IMAGE


class Setting(NamedTuple):
    """A protocol with its kind of prompt and their number: one cell for each model and data set."""

    protocol: Protocol
    kind: str
    """Kind of prompt, or task of restoration."""
    prompts: int
    """On each context image."""

    @property
    def name(self) -> str:
        """A name for files."""
        if self.protocol == "in_context":
            return f"{self.kind}-{self.prompts}"
        if self.protocol == "looking":
            return f"looking-{self.kind}-{self.prompts}"
        return f"{self.protocol}-{self.kind}"


def settings_of(config: EvaluationConfig) -> list[Setting]:
    """All settings of an evaluation; every size of the context set belongs to each."""
    settings = []
    for kind in dict.fromkeys(config.kinds):
        counts = (1,) if kind in ONCE_PER_IMAGE else sorted(set(config.prompts))
        settings += [Setting("in_context", kind, count) for count in counts]
        if config.looks:
            settings.append(Setting("looking", kind, counts[-1]))
    most = config.most_prompts if config.interactive.contexts else 0
    interactive = dict.fromkeys(config.interactive.kinds)
    settings += [Setting("interactive", kind, most) for kind in interactive]
    tasks = dict.fromkeys(config.restoration)
    return settings + [Setting("restoration", task, 0) for task in tasks]


def sizes_of(episodes: EpisodeList, config: EvaluationConfig) -> list[int]:
    """The sizes of the context set that are scored on a list, sorted: with `fewer_contexts`, those
    that it has."""
    sizes = sorted(set(config.contexts))
    if config.fewer_contexts:
        return [size for size in sizes if size <= episodes.contexts] or sizes[:1]
    return sizes


def check_list(episodes: EpisodeList, config: EvaluationConfig) -> None:
    """Raises `DataError` if a list lacks contexts, prompts or a kind that an evaluation needs."""
    for setting in settings_of(config):
        most = sizes_of(episodes, config)[-1]
        if setting.protocol in ("in_context", "looking"):
            episodes.check(most, setting.kind, setting.prompts)
        elif setting.protocol == "restoration":
            episodes.check(most)
        elif config.interactive.contexts:
            episodes.check(config.interactive.contexts, setting.kind, setting.prompts)


def score(
    setting: Setting,
    network: Predictor | Baseline,
    planned: Planned,
    config: EvaluationConfig,
    model: str,
) -> list[Score]:
    """The scores of one model on one data set at one setting.

    Raises:
        DataError: the list of episodes lacks what the setting needs, or a case cannot be read.
    """
    episodes, cases = planned
    sizes = sizes_of(episodes, config)
    if setting.protocol == "looking":
        return score_looking(
            network,
            episodes,
            cases,
            model=model,
            kind=setting.kind,
            prompts=setting.prompts,
            contexts=sizes[-1],
        )
    if setting.protocol == "interactive":
        return score_interactive(
            network,
            episodes,
            cases,
            model=model,
            kind=setting.kind,
            rounds=config.interactive.rounds,
            contexts=config.interactive.contexts,
            prompts=setting.prompts,
            tolerance_mm=config.tolerance_mm,
        )
    if setting.protocol == "restoration":
        return score_restoration(
            network, episodes, cases, model=model, task=setting.kind, sizes=sizes
        )
    in_context = score_baseline if isinstance(network, Baseline) else score_in_context
    return in_context(
        network,
        episodes,
        cases,
        model=model,
        kind=setting.kind,
        prompts=setting.prompts,
        sizes=sizes,
        tolerance_mm=config.tolerance_mm,
    )


def evaluate(
    network: Predictor, planned: Sequence[Planned], config: EvaluationConfig, model: str = ""
) -> list[Score]:
    """All settings on all data sets, whose lists have their prompts."""
    return [
        one
        for setting in settings_of(config)
        for data in planned
        for one in score(setting, network, data, config, model)
    ]
