"""The data that a network has seen: the data sets of its training, the priors of its synthetic
cohorts, and all data that the network of its initial weights had seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from wsicl_jax.config import SYNTHETIC, SynthConfig
from wsicl_jax.data.synthesis.prior import open_prior


@dataclass(frozen=True)
class SeenDataSet:
    """A data set that a network has seen."""

    name: str
    use: Literal["training", "prior"]
    """Its images were training data, or its cases were anatomies of synthetic cohorts."""
    subjects: int
    cases: tuple[str, ...]
    """Hashes of the content of the seen cases, sorted; synthetic cohorts have none."""


@dataclass(frozen=True)
class Seen:
    """All data that a network has seen."""

    data_sets: tuple[SeenDataSet, ...] = ()
    unknown: tuple[str, ...] = ()
    """Networks, itself or those of its initial weights, whose training data is unknown."""

    def __add__(self, other: "Seen") -> "Seen":
        """The union of both; a data set of both appears once, with all its cases."""
        union: dict[tuple[str, str], SeenDataSet] = {}
        for one in (*self.data_sets, *other.data_sets):
            key = one.name, one.use
            if key in union:
                cases = tuple(sorted({*union[key].cases, *one.cases}))
                subjects = max(union[key].subjects, one.subjects)
                one = SeenDataSet(one.name, one.use, subjects, cases)
            union[key] = one
        unknown = tuple(dict.fromkeys((*self.unknown, *other.unknown)))
        return Seen(tuple(union[key] for key in sorted(union)), unknown)

    @property
    def cases(self) -> set[str]:
        """Hashes of the content of all cases."""
        return {case for one in self.data_sets for case in one.cases}

    def of(self, name: str, cases: Iterable[str]) -> SeenDataSet | None:
        """The seen data set of this name, or with any of these cases; None without one."""
        digests = set(cases)
        for one in self.data_sets:
            if one.name != SYNTHETIC and (one.name == name or not digests.isdisjoint(one.cases)):
                return one
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain values: the inverse of `from_json`."""
        return _SEEN.dump_python(self, mode="json")

    @classmethod
    def from_json(cls, content: Any) -> "Seen":
        """From plain values. Raises `ValueError`."""
        try:
            return _SEEN.validate_python(content)
        except ValidationError as error:
            raise ValueError(
                f"the list of seen data is damaged: {error.errors()[0]['msg']}"
            ) from None


_SEEN = TypeAdapter(Seen)


def seen_as_priors(settings: SynthConfig) -> Seen:
    """The stores of `synth.priors`, with all their cases.

    Raises:
        DataError: a store cannot be read.
    """
    seen = Seen()
    for prior in settings.priors:
        store = open_prior(prior.store)
        cases = store.catalogue.values()
        subjects = len({case.subject for case in cases})
        digests = tuple(sorted(case.digest for case in cases))
        seen += Seen((SeenDataSet(store.name, "prior", subjects, digests),))
    return seen
