"""Models that a reader sees together, with the settings in which each kind of prompt was scored."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsicl_jax.prompts import ONCE_PER_IMAGE
from wsicl_jax.report.results import Results, Setting
from wsicl_jax.report.wording import TIMES

KINDS = ("box", "point", "scribble", "mixed", "box3d", "mask2d", "mask")
"""Kinds of prompts in the order of figures and tables; dense ICL, the reference, comes last."""

DENSE = "mask"
"""The kind of dense ICL."""


@dataclass(frozen=True)
class ModelGroup:
    """One model, or several that have no kind of prompt in common (one for boxes, one for points).

    Kinds are compared within a line-up, models between line-ups.
    """

    models: tuple[str, ...]
    settings: tuple[Setting, ...]

    @property
    def name(self) -> str:
        """Names of its models."""
        return " and ".join(self.models)

    @property
    def data_sets(self) -> tuple[str, ...]:
        """Data sets with scores of it."""
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
        found = (s for s in self.settings if s.protocol == "in_context")
        chosen = [s for s in found if s.data_set == data_set and s.kind == kind]
        return sorted(chosen, key=lambda s: (s.prompts, s.contexts))

    def at(self, data_set: str, kind: str, contexts: int, prompts: int) -> Setting | None:
        """One of these settings, if it was measured."""
        there = self.of(data_set, kind)
        return next((s for s in there if (s.contexts, s.prompts) == (contexts, prompts)), None)

    def main(self, data_set: str) -> dict[str, Setting]:
        """The setting that represents each kind: the most contexts, and the most prompts there.

        The number of contexts is the largest one that most kinds have, so that all are compared
        with the same context sets; a kind without it is represented by its own largest.
        """
        per_kind = {kind: self.of(data_set, kind) for kind in self.kinds(data_set)}
        sizes = [{s.contexts for s in found} for found in per_kind.values()]
        if not sizes:
            return {}
        common = max(set().union(*sizes), key=lambda size: (sum(size in s for s in sizes), size))
        return {
            kind: max(found, key=lambda s: (s.contexts == common, s.contexts, s.prompts))
            for kind, found in per_kind.items()
        }


def model_groups(results: Results) -> list[ModelGroup]:
    """One line-up of all models if no kind was scored with two of them, else one for each."""
    asked: dict[tuple[str, str], set[str]] = {}
    for setting in results.rows:
        if setting.protocol != "restoration":
            asked.setdefault((setting.protocol, setting.kind), set()).add(setting.model)
    place = {name: i for i, name in enumerate(results.data_sets)}
    settings = [s for s in results.rows if s.protocol != "restoration"]
    settings.sort(key=lambda s: place[s.data_set])
    models = [m for m in results.models if any(s.model == m for s in settings)]
    if not models:
        return []
    if all(len(found) == 1 for found in asked.values()):
        return [ModelGroup(tuple(models), tuple(settings))]
    return [ModelGroup((m,), tuple(s for s in settings if s.model == m)) for m in models]


def main_kind(kinds: Sequence[str]) -> str:
    """The kind that headlines are about: boxes, else the first there is."""
    return "box" if "box" in kinds else kinds[0]


def ordered_kinds(kinds: Iterable[str]) -> list[str]:
    """Kinds in the order of figures; ones that nobody knows come before dense ICL."""
    rank = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(dict.fromkeys(kinds), key=lambda kind: rank.get(kind, len(KINDS) - 1.5))


def in_full(found: Sequence[ModelGroup]) -> list[ModelGroup]:
    """Those with more than one setting, which curves can be drawn of; all if none has more.

    The others are single results, such as those of masks that came from elsewhere.
    """
    many = [
        group
        for group in found
        if len(group.settings) > len(dict.fromkeys(s.data_set for s in group.settings))
    ]
    return many or list(found)


def setting_words(setting: Setting) -> str:
    """Contexts and prompts as a sentence has them."""
    images = f"{setting.contexts} context image" + ("s" if setting.contexts != 1 else "")
    if setting.protocol == "interactive":
        with_others = f" with {images}" if setting.contexts else ""
        return f"round {setting.round}{with_others}"
    if setting.kind in ONCE_PER_IMAGE:
        return images
    many = "s" if setting.prompts != 1 else ""
    return f"{images} {TIMES} {setting.prompts} prompt{many}"
