"""The manifest of a run: every case of its data with content, subject and part.

A run writes its manifest when it starts. A training case stays one, whatever happens to the
stores.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from wsicl_jax.config import SYNTHETIC, ExperimentConfig
from wsicl_jax.data.datasets import DataSet
from wsicl_jax.data.seen import Seen, SeenDataSet, seen_as_priors
from wsicl_jax.data.split import Part
from wsicl_jax.data.synthesis.prior import priors_fingerprint
from wsicl_jax.errors import DataError, reason
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.digests import CHECKSUM, digest_of, has_valid_digest, with_digest
from wsicl_jax.storage.documents import checked, parse_json, read_file
from wsicl_jax.storage.object_path import Place

MANIFEST = "data.json"
"""The manifest in the directory of a run."""

_FORMAT = 1

_MAX_BYTES = 2**30
"""A case takes about 200 bytes."""

_EXAMPLES = 3
"""Cases that a message names at most."""

_PRIORITY: tuple[Part, ...] = ("train", "validation", "held_out")
"""If a subject has several parts, the first one counts: training data never becomes a target."""


@dataclass(frozen=True)
class CaseRecord:
    """A case in a manifest."""

    subject: str
    part: Part
    digest: str
    """Hash of its content."""


@dataclass(frozen=True)
class DataSetRecord:
    """A data set in a manifest."""

    name: str
    store: str
    """Its location, which is not compared."""
    trained_on: bool
    """Whether its weight is above 0."""
    channels: tuple[str, ...]
    labels: dict[int, str]
    prior: int
    """For synthetic cohorts, a number that changes with the cases of their priors; else 0."""
    cases: dict[str, CaseRecord]
    former: dict[str, CaseRecord]
    """Earlier cases, now missing with the user's consent."""

    @property
    def known(self) -> dict[str, CaseRecord]:
        """All present and former cases."""
        return self.former | self.cases


@dataclass(frozen=True)
class Manifest:
    """All data of a run."""

    data_sets: tuple[DataSetRecord, ...]
    previous: tuple[str, ...] = ()
    """Digests of the manifests that this one replaced, the oldest first."""
    besides: Seen = field(default_factory=Seen)
    """Other data that the network has seen: priors of synthetic cohorts, and all data of the
    network of its initial weights."""

    @property
    def digest(self) -> str:
        """Hash of its content."""
        return digest_of(self.to_json())

    def of(self, name: str) -> DataSetRecord | None:
        """The data set of this name; None without one."""
        return next((record for record in self.data_sets if record.name == name), None)

    def only(self, names: Iterable[str]) -> "Manifest":
        """The manifest with only these data sets."""
        kept = set(names)
        return replace(self, data_sets=tuple(d for d in self.data_sets if d.name in kept))

    @property
    def seen(self) -> Seen:
        """All data that a network of this run has seen."""
        training = []
        for record in self.data_sets:
            if record.trained_on:
                cases = [case for case in record.known.values() if case.part == "train"]
                subjects = len({case.subject for case in cases})
                digests = tuple(sorted({case.digest for case in cases}))
                training.append(SeenDataSet(record.name, "training", subjects, digests))
        return Seen(tuple(training)) + self.besides

    def to_json(self) -> dict[str, Any]:
        """Plain values: the inverse of `from_json`."""
        content = _MANIFESTS.dump_python(self, mode="json")
        if self.besides == Seen():
            del content["besides"]  # so that older manifests keep their digest
        return {"format": _FORMAT, **content}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Manifest":
        """A manifest from plain values. Raises `ValueError`."""
        if content.get("format") != _FORMAT:
            raise ValueError(f"it has format {content.get('format')}; expected {_FORMAT}")
        return checked(_MANIFESTS, {k: v for k, v in content.items() if k != "format"})


_MANIFESTS = TypeAdapter(Manifest)


class Changes(NamedTuple):
    """The differences of two manifests, except their splits."""

    texts: tuple[str, ...] = ()
    """A sentence for each data set that differs; none: nothing does."""
    changed: int = 0
    """Cases of other content or subject."""
    new: int = 0
    missing: int = 0

    def __str__(self) -> str:
        return "; ".join(self.texts)


def manifest_of(
    config: ExperimentConfig,
    datasets: Sequence[DataSet],
    before: Manifest | None = None,
    inherited: Seen = Seen(),  # noqa: B008 - frozen
) -> Manifest:
    """The manifest of opened data sets; with `before`, the one that comes in its place.

    `inherited` is what the network had seen whose weights the run begins with.

    Raises:
        DataError: a prior of synthetic cohorts cannot be read.
    """
    records = tuple(_record(config, dataset, before) for dataset in datasets)
    besides = inherited
    if any(record.trained_on and record.store == SYNTHETIC for record in records):
        besides += seen_as_priors(config.synth)
    if before is None:
        return Manifest(records, (), besides)
    return Manifest(records, (*before.previous, before.digest), before.besides + besides)


def bound(dataset: DataSet, manifest: Manifest) -> DataSet:
    """The data set with the split of a manifest.

    Cases keep their part. New cases of a known subject get its part, and renamed cases, recognized
    by their content, keep theirs. If this gives a subject several parts, training comes before
    validation. Other subjects keep the part that follows from the seed.
    """
    if dataset.store is None:
        return dataset
    record = manifest.of(dataset.name)
    known = record.known if record else {}
    of_subject: dict[str, set[Part]] = {}
    for case in known.values():
        of_subject.setdefault(case.subject, set()).add(case.part)
    of_content: dict[str, set[Part]] = {}
    for other in manifest.data_sets:
        for case in other.known.values():
            of_content.setdefault(case.digest, set()).add(case.part)
    claims: dict[str, set[Part]] = {}
    for name, subject in dataset.subjects.items():
        claim = claims.setdefault(subject, set())
        digest = dataset.store.catalogue[name].digest
        if name in known:
            claim.add(known[name].part)
        else:
            claim |= of_subject.get(subject, set())
        if name not in known or known[name].digest != digest:
            claim |= of_content.get(digest, set())
    parts = {
        name: next((p for p in _PRIORITY if p in claims[subject]), dataset.parts[name])
        for name, subject in dataset.subjects.items()
    }
    return replace(dataset, parts=parts)


def compare(before: Manifest, now: Manifest) -> Changes:
    """The changes of the data sets, whatever their location and split."""
    names = {d.name for d in before.data_sets}, {d.name for d in now.data_sets}
    texts = [f"data set {name!r} is missing" for name in sorted(names[0] - names[1])]
    texts += [f"data set {name!r} is new" for name in sorted(names[1] - names[0])]
    totals = [0, 0, 0]
    for record in now.data_sets:
        if known := before.of(record.name):
            changes, counts = _compare(known, record)
            totals = [a + b for a, b in zip(totals, counts, strict=True)]
            if changes:
                texts.append(f"{record.name!r}: {', '.join(changes)}")
    return Changes(tuple(texts), *totals)


def read_manifest(run: Place) -> Manifest:
    """The manifest of a run.

    Raises:
        DataError: it is missing or damaged.
    """
    path = run / MANIFEST
    try:
        content = parse_json(read_file(path, _MAX_BYTES))
        if not has_valid_digest(content):
            raise ValueError("its checksum does not fit")
        content.pop(CHECKSUM)
        return Manifest.from_json(content)
    except FileNotFoundError:
        fault = "is missing"
    except (OSError, ValueError) as error:
        fault = f"is damaged ({reason(error)})"
    raise DataError(
        f"{path} {fault}, so it is not known which cases {run} was trained on; bring the file "
        "back, or start another run"
    )


def write_manifest(run: Place, manifest: Manifest) -> None:
    """Write the manifest of a run; the replaced one is kept as `data.0001.json`, ..."""
    path = run / MANIFEST
    if manifest.previous:
        kept = path.with_name(MANIFEST.replace(".", f".{len(manifest.previous):04}."))
        write_whole(kept, path.read_bytes())
    write_whole(path, (_lines(with_digest(manifest.to_json())) + "\n").encode())


def _record(config: ExperimentConfig, dataset: DataSet, before: Manifest | None) -> DataSetRecord:
    name, trained_on = dataset.name, dataset.settings.weight > 0
    store = dataset.store
    if store is None:
        prior = priors_fingerprint(config.synth)
        return DataSetRecord(name, dataset.settings.store, trained_on, (), {}, prior, {}, {})
    cases = {
        case: CaseRecord(subject, dataset.parts[case], store.catalogue[case].digest)
        for case, subject in dataset.subjects.items()
    }
    earlier = before.of(name) if before else None
    former = {k: v for k, v in earlier.known.items() if k not in cases} if earlier else {}
    labels, channels = dict(store.label_names), tuple(store.channel_names)
    return DataSetRecord(name, store.path, trained_on, channels, labels, 0, cases, former)


def _compare(before: DataSetRecord, now: DataSetRecord) -> tuple[list[str], tuple[int, int, int]]:
    both = before.cases.keys() & now.cases.keys()
    other_content = {n for n in both if before.cases[n].digest != now.cases[n].digest}
    other_subject = {n for n in both if before.cases[n].subject != now.cases[n].subject}
    new, missing = now.cases.keys() - both, before.cases.keys() - both
    changes = [
        _counted(change, names)
        for change, names in {
            "changed": other_content,
            "of another subject": other_subject,
            "new": new,
            "missing": missing,
        }.items()
        if names
    ]
    if before.channels != now.channels:
        changes.append(f"channels were {list(before.channels)} and are {list(now.channels)}")
    for value in sorted(before.labels.keys() | now.labels.keys()):
        names = before.labels.get(value), now.labels.get(value)
        if names[0] != names[1]:
            was, is_now = (repr(name) if name is not None else "nothing" for name in names)
            changes.append(f"label {value} was {was} and is {is_now}")
    if before.prior != now.prior:
        changes.append("the cases of synth.priors have changed")
    return changes, (len(other_content | other_subject), len(new), len(missing))


def _counted(change: str, names: set[str]) -> str:
    first = ", ".join(sorted(names)[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")
    return f"{len(names)} {'case' if len(names) == 1 else 'cases'} {change} ({first})"


def _lines(value: Any, indent: str = "") -> str:
    """JSON with one line for each innermost list or mapping, such as a case."""
    parts = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list)) or not any(isinstance(p, (dict, list)) for p in parts):
        return json.dumps(value)
    inner = indent + " "
    if isinstance(value, dict):
        spread = [f"{json.dumps(key)}: {_lines(part, inner)}" for key, part in value.items()]
    else:
        spread = [_lines(part, inner) for part in value]
    ends = "{}" if isinstance(value, dict) else "[]"
    return f"{ends[0]}\n{inner}" + f",\n{inner}".join(spread) + f"\n{indent}{ends[1]}"
