"""What a network has seen: the data sets that it was trained on, those whose cases painted its
synthetic cohorts, and what the network that it began from had seen.
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
    """Whether its images were shown, or its cases served as anatomies of synthetic cohorts."""
    subjects: int
    cases: tuple[str, ...]
    """Hashes of the content of the cases that were shown, sorted; synthetic cohorts have none."""


@dataclass(frozen=True)
class Seen:
    """All data that a network has seen."""

    data_sets: tuple[SeenDataSet, ...] = ()
    unknown: tuple[str, ...] = ()
    """Networks that it began from, or itself, of which nobody knows what they have seen."""

    def __add__(self, other: "Seen") -> "Seen":
        """What has been seen by either; a data set of both is there once, with all its cases."""
        found: dict[tuple[str, str], SeenDataSet] = {}
        for one in (*self.data_sets, *other.data_sets):
            key = one.name, one.use
            if key in found:
                cases = tuple(sorted({*found[key].cases, *one.cases}))
                subjects = max(found[key].subjects, one.subjects)
                one = SeenDataSet(one.name, one.use, subjects, cases)
            found[key] = one
        unknown = tuple(dict.fromkeys((*self.unknown, *other.unknown)))
        return Seen(tuple(found[key] for key in sorted(found)), unknown)

    @property
    def cases(self) -> set[str]:
        """Hashes of the content of all cases."""
        return {case for one in self.data_sets for case in one.cases}

    def of(self, name: str, cases: Iterable[str]) -> SeenDataSet | None:
        """The data set of this name, or one that has any of these cases, if it was seen."""
        wanted = set(cases)
        for one in self.data_sets:
            if one.name != SYNTHETIC and (one.name == name or not wanted.isdisjoint(one.cases)):
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
            raise ValueError(f"what it has seen is damaged: {error.errors()[0]['msg']}") from None


_SEEN = TypeAdapter(Seen)


def seen_as_priors(settings: SynthConfig) -> Seen:
    """The stores whose cases serve as anatomies, with all their cases.

    Raises:
        DataError: a store cannot be read.
    """
    found = Seen()
    for prior in settings.priors:
        store = open_prior(prior)
        cases = store.catalogue.values()
        subjects = len({case.subject for case in cases})
        digests = tuple(sorted(case.digest for case in cases))
        found += Seen((SeenDataSet(store.name, "prior", subjects, digests),))
    return found
