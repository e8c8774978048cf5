"""Models that share figures and tables, with the settings at which each was scored."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsicl_jax.prompts import ONCE_PER_IMAGE
from wsicl_jax.report.results import Results, Setting
from wsicl_jax.report.wording import TIMES, counted

KINDS = ("box", "point", "scribble", "mixed", "box3d", "mask2d", "mask")
"""Kinds of prompts in the order of figures and tables; dense ICL, the reference, comes last."""

DENSE = "mask"
"""The kind of dense ICL."""


@dataclass(frozen=True)
class ModelGroup:
    """One model, or several without a common kind of prompt (one for boxes, one for points).

    Kinds are compared within a group, models between groups.
    """

    models: tuple[str, ...]
    settings: tuple[Setting, ...]

    @property
    def name(self) -> str:
        """Names of its models."""
        return " and ".join(self.models)

    @property
    def data_sets(self) -> tuple[str, ...]:
        """Data sets with scores of the group."""
        return tuple(dict.fromkeys(s.data_set for s in self.settings))

    def kinds(self, data_set: str | None = None) -> list[str]:
        """Kinds with in-context scores, of one data set or of any."""
        return ordered_kinds(
            s.kind
            for s in self.settings
            if s.protocol == "in_context" and data_set in (None, s.data_set)
        )

    def of(self, data_set: str, kind: str) -> list[Setting]:
        """The in-context settings of a kind, by prompts and contexts."""
        of_kind = (
            s
            for s in self.settings
            if (s.protocol, s.data_set, s.kind) == ("in_context", data_set, kind)
        )
        return sorted(of_kind, key=lambda s: (s.prompts, s.contexts))

    def main(self, data_set: str) -> dict[str, Setting]:
        """The main setting of each kind: the most contexts, and the most prompts with them.

        The number of contexts is the largest one that most kinds have, so that kinds are compared
        with the same context sets. A kind without it has its own largest one.
        """
        per_kind = {kind: self.of(data_set, kind) for kind in self.kinds(data_set)}
        sizes = [{s.contexts for s in settings} for settings in per_kind.values()]
        if not sizes:
            return {}
        common = max(set().union(*sizes), key=lambda size: (sum(size in s for s in sizes), size))
        return {
            kind: max(settings, key=lambda s: (s.contexts == common, s.contexts, s.prompts))
            for kind, settings in per_kind.items()
        }


def model_groups(results: Results) -> list[ModelGroup]:
    """One group of all models if no kind was scored with two of them, else a group for each."""
    order = {name: place for place, name in enumerate(results.data_sets)}
    settings = [s for s in results.rows if s.protocol != "restoration"]
    settings.sort(key=lambda s: order[s.data_set])
    models = [m for m in results.models if any(s.model == m for s in settings)]
    if not models:
        return []
    models_of: dict[tuple[str, str], set[str]] = {}
    for setting in settings:
        models_of.setdefault((setting.protocol, setting.kind), set()).add(setting.model)
    if all(len(of_kind) == 1 for of_kind in models_of.values()):
        return [ModelGroup(tuple(models), tuple(settings))]
    return [ModelGroup((m,), tuple(s for s in settings if s.model == m)) for m in models]


def main_kind(kinds: Sequence[str]) -> str:
    """The kind of headlines: boxes, else the first kind."""
    return "box" if "box" in kinds else kinds[0]


def ordered_kinds(kinds: Iterable[str]) -> list[str]:
    """Kinds in the order of figures; unknown ones come before dense ICL."""
    rank = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(dict.fromkeys(kinds), key=lambda kind: rank.get(kind, len(KINDS) - 1.5))


def with_curves(groups: Sequence[ModelGroup]) -> list[ModelGroup]:
    """Groups with several settings on a data set, which give curves; all groups if none has.

    The others are single results, such as those of external masks.
    """
    several = [g for g in groups if len(g.settings) > len(g.data_sets)]
    return several or list(groups)


def setting_words(setting: Setting) -> str:
    """Contexts and prompts for a sentence."""
    images = counted(setting.contexts, "context image")
    if setting.protocol == "interactive":
        return f"round {setting.round}" + (f" with {images}" if setting.contexts else "")
    if setting.kind in ONCE_PER_IMAGE:
        return images
    return f"{images} {TIMES} {counted(setting.prompts, 'prompt')}"
