"""Checkpoints in Orbax: finding, validating and reading them.

A checkpoint is a directory of named items: `parameters`, `metadata` (JSON: configuration,
counters, the fingerprints of its arrays) and, in a run, `optimizer` and, with `train.ema`, `ema`:
the averaged parameters. A run keeps its checkpoints
by step under `checkpoints/`; `train/run_checkpoints.py` writes these.

In an object store a checkpoint has the same files. Its metadata are written last, so that those
without are incomplete. Orbax reads disks alone: it gets a temporary copy of an item.
"""

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

import wsicl_jax
from wsicl_jax.errors import CheckpointError, UnreachableError, reason
from wsicl_jax.storage.atomic import why_full
from wsicl_jax.storage.digests import has_valid_digest, with_digest
from wsicl_jax.storage.documents import parse_json, read_file
from wsicl_jax.storage.fingerprints import (
    differing,
    fingerprint_arrays,
    fingerprint_on_host,
    name_list,
)
from wsicl_jax.storage.object_path import ObjectPath, Place, place_of
from wsicl_jax.storage.transfer import on_disk

Tree = TypeVar("Tree")

FORMAT = 2
"""Version of the layout; others are refused."""

ITEMS = PARAMETERS, OPTIMIZER, EMA, METADATA = "parameters", "optimizer", "ema", "metadata"

STEPS = "checkpoints"
"""Directory of the checkpoints in a run."""

FINGERPRINTS = "fingerprints"
"""Key of the arrays' fingerprints in the metadata."""

_UNFINISHED = ".orbax-checkpoint-tmp"
"""Suffix of a checkpoint that Orbax is writing."""


def remove_unfinished(directory: Path, name: str = "") -> None:
    """Remove incompletely written checkpoints: those of this name, by default all."""
    for unfinished in directory.glob(f"*{_UNFINISHED}*"):
        if not name or unfinished.name.startswith(f"{name}{_UNFINISHED}"):
            shutil.rmtree(unfinished, ignore_errors=True)


def find_checkpoint(path: str | Place) -> Place:
    """The checkpoint that a path names: itself, or the newest valid one of a run.

    Newer checkpoints of the run with damaged weights are skipped with a warning.

    Raises:
        CheckpointError: there is no checkpoint, or all are damaged.
    """
    path = place_of(path).absolute()
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}: there is no such file or directory")
    if (path / METADATA).is_dir() or (path / PARAMETERS).is_dir():
        return path
    steps = step_directories(path / STEPS) or step_directories(path)
    if steps:
        return newest_valid(steps, weights_only=True)
    raise CheckpointError(
        f"no checkpoint in {path}; expected a run's directory, one of its checkpoints, or "
        "what `wsicl import` wrote"
    )


def step_directories(directory: Place) -> list[Place]:
    """The checkpoints in a directory, newest first, valid or not."""
    if isinstance(directory, ObjectPath):
        ends = (key.partition("/") for key in directory.keys_below())
        steps = [directory / name for name, _, rest in ends if rest == f"{METADATA}/{METADATA}"]
    elif directory.is_dir():
        steps = [d for d in directory.iterdir() if d.is_dir()]
    else:
        return []
    steps = [d for d in steps if d.name.isdigit()]
    return sorted(steps, key=lambda d: int(d.name), reverse=True)


def newest_valid(steps: Sequence[Place], *, weights_only: bool = False) -> Place:
    """The first of these checkpoints without `damage`; a warning names skipped ones.

    Raises:
        CheckpointError: none is valid.
    """
    reasons = []
    for checkpoint in steps:
        reason = damage(checkpoint, weights_only=weights_only)
        if reason is None:
            return checkpoint
        reasons.append(reason)
        warnings.warn(f"checkpoint {checkpoint} is skipped: {reason}", stacklevel=2)
    raise CheckpointError(
        f"no checkpoint in {steps[0].parent} can be used; the newest: {reasons[0]}; restore "
        "the files, or start in another directory"
    )


def weights_item(metadata: Mapping[str, Any]) -> str:
    """The item with the weights of the network: the averaged ones, if there are."""
    return EMA if EMA in metadata[FINGERPRINTS] else PARAMETERS


def damage(checkpoint: Place, *, weights_only: bool = False) -> str | None:
    """Why a checkpoint's metadata or arrays are damaged; None if valid.

    Reads all arrays, or those of the network's weights, in this process alone.

    Raises:
        UnreachableError: the object store of the checkpoint cannot be read.
    """
    try:
        metadata = _valid_metadata(checkpoint)
        expected = metadata[FINGERPRINTS]
        for item in [weights_item(metadata)] if weights_only else expected:
            with on_disk(checkpoint / item) as directory:
                arrays = _read_on_host(directory, expected[item])
                fingerprints = {name: fingerprint_on_host(array) for name, array in arrays}
            if wrong := differing(fingerprints, expected[item]):
                return f"damaged: other values than were saved in {name_list(wrong)}"
    except UnreachableError:
        raise  # the checkpoint may be whole
    except CheckpointError as error:
        return str(error)
    except Exception as error:  # Orbax and TensorStore raise many kinds
        return f"damaged: {reason_of(error)}"
    return None


def read_metadata(path: str | Place) -> dict[str, Any]:
    """The metadata of a checkpoint.

    Raises:
        CheckpointError: it is missing, damaged, or of another format.
    """
    checkpoint = find_checkpoint(path)
    try:
        return _valid_metadata(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error


def composite(trees: Mapping[str, Any], metadata: Mapping[str, Any]) -> ocp.args.Composite:
    """Arguments for Orbax: trees of arrays by item, and metadata with their fingerprints.

    Collective: all processes that hold shards of the arrays call it.
    """
    arrays = {item: arrays_by_name(tree) for item, tree in trees.items()}
    content = {
        **metadata,
        "format": FORMAT,
        "version": wsicl_jax.__version__,
        FINGERPRINTS: {item: fingerprint_arrays(named) for item, named in arrays.items()},
    }
    # As it will be read: JSON turns tuples into lists.
    content = with_digest(json.loads(json.dumps(content)))
    saved = {item: ocp.args.StandardSave(named) for item, named in arrays.items()}
    return ocp.args.Composite(**saved, metadata=ocp.args.JsonSave(content))


def restore_arrays(checkpoint: Place, item: str, like: Tree, metadata: Mapping[str, Any]) -> Tree:
    """Read the tree of an item, with the shapes, dtypes and shardings of `like`.

    Collective: all processes call it.

    Raises:
        CheckpointError: it does not fit `like`, or is damaged.
    """
    shapes = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        for name, x in arrays_by_name(like).items()
    }
    try:
        with (
            on_disk(checkpoint / item) as directory,
            ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer,
        ):
            named = checkpointer.restore(directory, args=ocp.args.StandardRestore(shapes))
    except UnreachableError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds
        raise CheckpointError(
            f"{checkpoint}: damaged, or of another network: {item}: {reason_of(error)}"
        ) from error
    if wrong := differing(fingerprint_arrays(named), metadata[FINGERPRINTS][item]):
        raise CheckpointError(
            f"{checkpoint}: damaged: other values than were saved in {name_list(wrong)}"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [named[name] for name in shapes])


def reason_of(error: BaseException) -> str:
    """An error's message on one line of bearable length."""
    if full := why_full(error):
        return full  # without the names of the many files that were being written
    # Orbax names the position in the array; the cause names the problem.
    of_orbax = "TensorStore details" in str(error)
    return reason(error.__cause__ if of_orbax and error.__cause__ else error)


def _valid_metadata(checkpoint: Place) -> dict[str, Any]:
    try:
        metadata = parse_json(read_file(checkpoint / METADATA / METADATA), nan=True)
    except UnreachableError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"damaged: metadata unreadable: {reason_of(error)}") from error
    if isinstance(metadata, dict) and metadata.get("format", FORMAT) != FORMAT:
        raise CheckpointError(
            f"has format {metadata['format']}, or is damaged; this version reads {FORMAT}"
        )
    if not has_valid_digest(metadata):
        raise CheckpointError("damaged: the metadata have changed since they were saved")
    return metadata


def arrays_by_name(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their dotted path."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in named}


def _read_on_host(path: Path, names: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    # Not as NumPy arrays: for these Orbax reads fewer of the files that a restore needs.
    kind = ocp.ArrayRestoreArgs(sharding=one_device())
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        # One at a time: this needs little memory, and when a read fails TensorStore prints a
        # traceback for each other pending read.
        for name in names:
            one = ocp.args.PyTreeRestore({name: 0}, {name: kind}, partial_restore=True)
            yield name, np.asarray(checkpointer.restore(path, args=one)[name])


def one_device() -> jax.sharding.Sharding:
    """The sharding of arrays on the first device of this process."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
