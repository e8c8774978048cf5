"""All settings of an evaluation, and one call that scores any of them."""

from collections.abc import Sequence
from typing import NamedTuple

from wsicl_jax.config import EvaluationConfig
from wsicl_jax.evaluate.baselines import Baseline, score_baseline
from wsicl_jax.evaluate.episode_list import EpisodeList
from wsicl_jax.evaluate.planning import Planned
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.protocols.in_context import score_in_context
from wsicl_jax.evaluate.protocols.interactive import score_interactive
from wsicl_jax.evaluate.protocols.restoration import score_restoration
from wsicl_jax.evaluate.protocols.target_dependence import score_target_dependence
from wsicl_jax.evaluate.records import Protocol, Score
from wsicl_jax.model.losses import Loss
from wsicl_jax.prompts import ONCE_PER_IMAGE


class ProtocolSetting(NamedTuple):
    """A protocol with its kind of prompt and their number: one cell for each model and data set."""

    protocol: Protocol
    kind: str
    """Kind of prompt, or task of restoration."""
    prompts: int
    """On each context image."""

    @property
    def name(self) -> str:
        """A name for files."""
        prefix = "" if self.protocol == "in_context" else f"{self.protocol}-"
        counted = self.protocol in ("in_context", "target_dependence")
        return f"{prefix}{self.kind}" + (f"-{self.prompts}" if counted else "")


def settings_of(config: EvaluationConfig) -> list[ProtocolSetting]:
    """All settings of an evaluation; every size of the context set belongs to each."""
    settings = []
    for kind in dict.fromkeys(config.kinds):
        counts = (1,) if kind in ONCE_PER_IMAGE else sorted(set(config.prompts))
        settings += [ProtocolSetting("in_context", kind, count) for count in counts]
        if config.target_dependence:
            settings.append(ProtocolSetting("target_dependence", kind, counts[-1]))
    most = config.most_prompts if config.interactive.contexts else 0
    settings += [
        ProtocolSetting("interactive", k, most) for k in dict.fromkeys(config.interactive.kinds)
    ]
    return settings + [
        ProtocolSetting("restoration", t, 0) for t in dict.fromkeys(config.restoration)
    ]


def sizes_of(episodes: EpisodeList, config: EvaluationConfig) -> list[int]:
    """The sizes of the context set that are scored on a list, ascending.

    With `fewer_contexts`, those that the list has enough contexts for.
    """
    sizes = sorted(set(config.contexts))
    if config.fewer_contexts:
        return [size for size in sizes if size <= episodes.contexts] or sizes[:1]
    return sizes


def check_list(episodes: EpisodeList, config: EvaluationConfig) -> None:
    """Raises `DataError` if a list lacks contexts, prompts or a kind that an evaluation needs."""
    for setting in settings_of(config):
        most = sizes_of(episodes, config)[-1]
        if setting.protocol == "restoration":
            episodes.check(most)
        elif setting.protocol != "interactive":
            episodes.check(most, setting.kind, setting.prompts)
        elif config.interactive.contexts:
            episodes.check(config.interactive.contexts, setting.kind, setting.prompts)


def score(
    setting: ProtocolSetting,
    network: Predictor | Baseline,
    planned: Planned,
    config: EvaluationConfig,
    model: str,
    loss: Loss | None = None,
) -> list[Score]:
    """The scores of one model on one data set at one setting.

    With `loss`, scores in context and of restoration have it.

    Raises:
        DataError: the list of episodes lacks what the setting needs, or a case cannot be read.
    """
    sizes = sizes_of(planned.episodes, config)
    if setting.protocol == "restoration":
        return score_restoration(
            network, *planned, model=model, task=setting.kind, sizes=sizes, loss=loss
        )
    prompted = {"model": model, "kind": setting.kind, "prompts": setting.prompts}
    if setting.protocol == "target_dependence":
        return score_target_dependence(network, *planned, **prompted, contexts=sizes[-1])
    if setting.protocol == "interactive":
        return score_interactive(
            network,
            *planned,
            **prompted,
            rounds=config.interactive.rounds,
            contexts=config.interactive.contexts,
            negative=config.interactive.negative,
            enforce=config.interactive.enforce_prompts,
            tolerance_mm=config.tolerance_mm,
        )
    prompted |= {"sizes": sizes, "tolerance_mm": config.tolerance_mm}
    if isinstance(network, Baseline):
        return score_baseline(network, *planned, **prompted)
    return score_in_context(network, *planned, **prompted, loss=loss)


def evaluate(
    network: Predictor,
    planned: Sequence[Planned],
    config: EvaluationConfig,
    model: str = "",
    loss: Loss | None = None,
) -> list[Score]:
    """All settings on all data sets, whose lists have their prompts; with `loss` as `score`."""
    return [
        one
        for setting in settings_of(config)
        for data in planned
        for one in score(setting, network, data, config, model, loss)
    ]
