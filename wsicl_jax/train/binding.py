"""Binding a run to its data, which must be the same when it is resumed or evaluated.

The manifest in the run's directory records the data (`data/manifest.py`), and each checkpoint
records the digest of the manifest.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import jax

from wsicl_jax.config import ExperimentConfig
from wsicl_jax.data.datasets import DataSet, open_datasets, without_collections
from wsicl_jax.data.manifest import (
    MANIFEST,
    Changes,
    Manifest,
    bound,
    compare,
    manifest_of,
    read_manifest,
    write_manifest,
)
from wsicl_jax.data.seen import Seen
from wsicl_jax.distributed.broadcast import agree, broadcast_from_leader
from wsicl_jax.errors import DataError
from wsicl_jax.storage.checkpoints import STEPS, read_metadata
from wsicl_jax.storage.lock import Lock, locked
from wsicl_jax.storage.object_path import Place
from wsicl_jax.train.run_directory import (
    LOCK,
    run_directory,
    shared_settings,
    steps_done,
    write_config,
)
from wsicl_jax.weights.networks import SEEN, StoredNetwork, find_network

DATA = "data"
"""Key of the manifest's digest in the metadata of a checkpoint."""


class RunStart(NamedTuple):
    """The step and the data from which a run starts or continues."""

    done: int
    """The step that it continues from; 0: the start."""
    manifest: Manifest
    """The data that it is bound to."""
    changes: Changes
    """Accepted changes since the manifest before."""
    datasets: list[DataSet]
    """The data sets of the configuration, with the split of the manifest."""
    lock: Lock | None = None
    """The lock on the run's directory, in the leading process."""

    @property
    def is_bound_anew(self) -> bool:
        """Whether the manifest differs from the one in the run's directory."""
        return not self.done or bool(self.changes.texts)


def find_start(
    config: ExperimentConfig,
    datasets: Sequence[DataSet],
    *,
    resume: bool,
    accept_data_changes: bool = False,
) -> RunStart:
    """Where a run of this configuration would start or continue; writes nothing.

    A resumed run is bound to the data that it was started with. Changes must be accepted, and are
    then part of a new manifest.

    Raises:
        ConfigError, CheckpointError: as `steps_done`; `train.initial_weights` names no network.
        DataError: the data sets have changed; or the manifest of the run, or of
            `train.initial_weights`, is missing, damaged, or not that of the checkpoint.
    """
    run = run_directory(config)
    done = steps_done(run, config, resume=resume)
    if not done:
        inherited = (
            seen_by(find_network(config.train.initial_weights))
            if config.train.initial_weights
            else Seen()
        )
        manifest = manifest_of(config, datasets, inherited=inherited)
        return RunStart(done, manifest, Changes(), list(datasets))
    before = read_manifest(run)
    _check_manifest(run, before, read_metadata(run / STEPS / str(done)))
    datasets = [bound(dataset, before) for dataset in datasets]
    now = manifest_of(config, datasets, before)
    changes = compare(before, now)
    if not changes.texts:
        return RunStart(done, before, changes, datasets)
    if not accept_data_changes:
        raise DataError(
            f"the data of {run} have changed since it started: {changes}. Restore the stores, or "
            "continue with --resume --accept-data-changes: cases keep their part of the split"
        )
    return RunStart(done, now, changes, datasets)


@contextmanager
def open_run(
    config: ExperimentConfig, *, resume: bool = False, accept_data_changes: bool = False
) -> Iterator[RunStart]:
    """The leader's `find_start` for all processes of a run, with the run's directory locked.

    Collective: all processes of the run call it.

    Raises:
        ConfigError: the processes were started with different settings.
        LockedError: another living process trains in that directory.
        WsiclError: as `find_start`; or this process reads other data than the leader.
    """
    options = {"--resume": resume, "--accept-data-changes": accept_data_changes}
    agree(shared_settings(config) | options)
    run = run_directory(config)
    with ExitStack() as held:
        locks = []
        broadcast_from_leader(
            lambda: locks.append(held.enter_context(locked(run / LOCK, f"the run {run}")))
        )
        with without_collections():
            start = _shared_start(config, resume=resume, accept_data_changes=accept_data_changes)
        yield start._replace(lock=locks[0] if locks else None)


def _shared_start(config: ExperimentConfig, *, resume: bool, accept_data_changes: bool) -> RunStart:
    datasets = open_datasets(config)
    found: list[RunStart] = []

    def start_as_json() -> tuple[int, dict[str, Any], Changes]:
        start = find_start(config, datasets, resume=resume, accept_data_changes=accept_data_changes)
        found.append(start)
        alone = jax.process_count() == 1
        return start.done, {} if alone else start.manifest.to_json(), start.changes

    done, content, (texts, *counts) = broadcast_from_leader(start_as_json)
    if found:  # the leader itself
        return found[0]
    manifest = Manifest.from_json(content)
    datasets = [bound(dataset, manifest) for dataset in datasets]
    if others := compare(manifest, manifest_of(config, datasets)).texts:
        raise DataError(
            f"this process reads other data than process 0: {'; '.join(others)}; give all hosts "
            "the same stores"
        )
    return RunStart(done, manifest, Changes(tuple(texts), *counts), datasets)


def write_start(config: ExperimentConfig, start: RunStart) -> None:
    """Write the configuration and, if new, the manifest to the run's directory."""
    run = run_directory(config)
    write_config(run, config)
    if start.is_bound_anew:
        write_manifest(run, start.manifest)


def datasets_of_checkpoint(
    checkpoint: Place, metadata: Mapping[str, Any], config: ExperimentConfig
) -> list[DataSet]:
    """The data sets of a configuration, with the split that a checkpoint was trained with.

    Data sets unknown to its run are split by the seed. A warning names changes since; training
    cases stay training cases.

    Raises:
        DataError: a store is missing, or the manifest of the run is damaged.
    """
    datasets = open_datasets(config)
    manifest = manifest_of_checkpoint(checkpoint, metadata)
    if manifest is None:
        return datasets
    datasets = [bound(dataset, manifest) for dataset in datasets]
    now = manifest_of(config, datasets)
    known, present = ({d.name for d in m.data_sets} for m in (manifest, now))
    if changes := str(compare(manifest.only(present), now.only(known))):
        run = checkpoint.parent.parent
        warnings.warn(f"the data have changed since {run} was trained: {changes}", stacklevel=2)
    return datasets


def manifest_of_checkpoint(checkpoint: Place, metadata: Mapping[str, Any]) -> Manifest | None:
    """The data that a checkpoint was trained on; None, with a warning, if unknown.

    Raises:
        DataError: the manifest of the run is damaged, or of another run.
    """
    if DATA not in metadata:
        return None  # an imported network
    run = checkpoint.parent.parent
    if checkpoint.parent.name != STEPS or not (run / MANIFEST).is_file():
        warnings.warn(
            f"{run / MANIFEST}, the split that {checkpoint} was trained with, is missing: the "
            "data are split by the seed, and if they changed, targets may be training cases",
            stacklevel=2,
        )
        return None
    manifest = read_manifest(run)
    _check_manifest(run, manifest, metadata)
    return manifest


def seen_by(stored: StoredNetwork) -> Seen:
    """The data that a network, and the networks that it started from, were trained on.

    Networks without a record are in `unknown`.

    Raises:
        DataError: the manifest of its run is damaged, or of another run.
    """
    if SEEN in stored.metadata:
        return Seen.from_json(stored.metadata[SEEN])
    if manifest := manifest_of_checkpoint(stored.path, stored.metadata):
        return manifest.seen
    path = stored.path
    return Seen(unknown=(path.name if path.is_file() else "/".join(path.parts[-3:]),))


def _check_manifest(run: Place, manifest: Manifest, metadata: Mapping[str, Any]) -> None:
    if metadata.get(DATA) not in (manifest.digest, *manifest.previous):
        raise DataError(
            f"{run / MANIFEST} is not the one that the checkpoint of step {metadata.get('step')} "
            "was saved with; restore that one, or start another run"
        )
