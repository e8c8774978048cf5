"""Which targets of a batch are finished, and with which settings: for a batch that goes on.

A hidden directory beside the results has a record of each target. It is written before the files
appear, and the label map appears last: where both are, the target is finished.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsicl_jax.errors import DataError
from wsicl_jax.inference.batch.targets import Target
from wsicl_jax.inference.inputs.context_set import ContextSet
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.inputs.images import as_path
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.digests import digest_of

RECORDS = ".predict"
"""The directory of records, in that of the results."""


class Finished:
    """The records of the results in one directory.

    `settings` are those that results depend on, in JSON, each by what people call it.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]):
        self.directory = output / RECORDS
        self._settings = json.loads(json.dumps(dict(settings)))

    def has(self, target: Target) -> bool:
        """Whether a target is finished, with these settings and as its files are now.

        Raises:
            DataError: it was finished with other settings.
        """
        record = read_record(target)
        if record is None or not target.output.exists():
            return False
        before = record["settings"]
        other = [name for name, value in self._settings.items() if before.get(name) != value]
        if other:
            raise DataError(
                f"{target.output} was made with another {', '.join(other)}; go on with the same, "
                "give another directory, or allow overwriting"
            )
        return record["target"] == _state_of(target)

    def begin(self, target: Target) -> None:
        """Write down that the files of a target are about to appear.

        Raises:
            OSError: the record cannot be written.
        """
        self.directory.mkdir(exist_ok=True)
        record = {"target": _state_of(target), "settings": self._settings}
        write_whole(_record_of(target), json.dumps(record, indent=1).encode())


def read_record(target: Target) -> dict[str, Any] | None:
    """The record of a target; None if there is none, or it cannot be read."""
    try:
        record = json.loads(_record_of(target).read_bytes())
        return record if {"target", "settings"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def context_digest(context: ContextSet) -> str:
    """Hash of all that a context set shows: what its files hold, wherever they lie."""
    shown = {
        name: [_shown(example) for example in examples]
        for name, examples in context.structures.items()
    }
    return digest_of([shown, context.values])


def _shown(example: Example) -> list[Any]:
    content = [_content(given) for given in (example.image, example.mask, *example.markups)]
    marked = (example.points, example.points_mm, example.scribbles, example.scribbles_mm)
    marked += (example.boxes, example.boxes_mm, example.prompts, example.markup_axes)
    return [*content, repr(example.labels), repr(marked)]


def _content(given: Any) -> str:
    path = as_path(given)
    digest = hashlib.blake2b(digest_size=16)
    if path is None:
        image = getattr(given, "image", None)
        digest.update(b"" if image is None else image.tobytes())
        return digest.hexdigest()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "blake2b").digest())
    return digest.hexdigest()


def _state_of(target: Target) -> list[Any]:
    """What tells whether a target is still the same, without reading it."""
    states = (file.stat() for file in target.files)
    return [target.channel, *([state.st_size, state.st_mtime_ns] for state in states)]


def _record_of(target: Target) -> Path:
    return target.output.parent / RECORDS / f"{target.output.name}.json"
