"""Checkpoints through Orbax: of a run in training, and of a network alone.

A checkpoint is a directory of named items: `parameters`, `metadata` (JSON: what it is,
its configuration) and, of a run, `optimizer`. A run keeps its checkpoints by step under
`checkpoints/`. All processes of a run save and restore together; Orbax has each write
its share.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx

from wsicl_jax.config import ExperimentConfig, config_from_dict
from wsicl_jax.errors import CheckpointError, ConfigError
from wsicl_jax.model.dual_branch import DualBranch

FORMAT = 1
"""Version of the layout; a newer one is refused."""

PARAMETERS, OPTIMIZER, METADATA = "parameters", "optimizer", "metadata"
_STEPS = "checkpoints"


class RunCheckpoints:
    """The checkpoints of one run, newest kept; a context manager that waits for the last write."""

    def __init__(self, run: Path, *, keep: int):
        self._manager = ocp.CheckpointManager(
            (run / _STEPS).absolute(),
            item_names=(PARAMETERS, OPTIMIZER, METADATA),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
        )

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, step: int, parameters: Any, optimizer: Any, metadata: Mapping[str, Any]) -> None:
        """Save in the background; the arrays may be changed as soon as this returns."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                parameters=ocp.args.StandardSave(parameters),
                optimizer=ocp.args.StandardSave(optimizer),
                metadata=ocp.args.JsonSave({"format": FORMAT, **metadata}),
            ),
        )

    def restore(
        self, step: int, parameters: Any, optimizer: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Parameters, optimiser state and metadata, placed like the trees given.

        Raises:
            CheckpointError: it does not fit those trees, or is damaged.
        """
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    parameters=ocp.args.StandardRestore(_abstract(parameters)),
                    optimizer=ocp.args.StandardRestore(_abstract(optimizer)),
                    metadata=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise CheckpointError(f"checkpoint of step {step}: {_reason(error)}") from error
        _check_format(f"checkpoint of step {step}", restored[METADATA])
        return restored[PARAMETERS], restored[OPTIMIZER], restored[METADATA]


def save_model(path: str | Path, model: DualBranch, metadata: Mapping[str, Any]) -> None:
    """Write a network alone as a checkpoint directory that `load_model` reads.

    Raises:
        CheckpointError: `path` exists already.
    """
    path = Path(path).absolute()
    if path.exists():
        raise CheckpointError(f"{path} exists already; give a new directory or remove it")
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(
            path,
            ocp.args.Composite(
                parameters=ocp.args.StandardSave(nnx.state(model, nnx.Param)),
                metadata=ocp.args.JsonSave({"format": FORMAT, **metadata}),
            ),
        )


def load_model(path: str | Path) -> DualBranch:
    """The network of a checkpoint: an imported one, a run (its newest), or one step of a run.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or its parameters do not fit.
    """
    checkpoint = find_checkpoint(path)
    config = experiment_config(read_metadata(checkpoint)).model
    graph, wanted = nnx.split(DualBranch.abstract(config), nnx.Param)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), wanted)
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            parameters = checkpointer.restore(
                checkpoint / PARAMETERS, args=ocp.args.StandardRestore(wanted)
            )
    except Exception as error:  # Orbax and TensorStore raise many kinds
        raise CheckpointError(f"{path}: {_reason(error)}") from error
    return nnx.merge(graph, parameters)


def newest_step(run: Path) -> int | None:
    """The step of a run's newest whole checkpoint; None if it has none."""
    return max((int(d.name) for d in _whole_steps(run / _STEPS)), default=None)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint directory that a path means: itself, or the newest step of a run.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}: there is no such file or directory")
    if (path / METADATA).is_dir():
        return path
    whole = _whole_steps(path / _STEPS) or _whole_steps(path)
    if whole:
        return max(whole, key=lambda d: int(d.name))
    raise CheckpointError(
        f"no checkpoint in {path}; expected a run's directory, one of its checkpoints, or "
        "what `wsicl import` wrote"
    )


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        CheckpointError: it is missing, damaged, or of a newer format.
    """
    checkpoint = find_checkpoint(path)
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            metadata = checkpointer.restore(checkpoint / METADATA)
    except Exception as error:
        raise CheckpointError(f"{checkpoint}: metadata unreadable: {_reason(error)}") from error
    _check_format(str(checkpoint), metadata)
    return metadata


def experiment_config(metadata: Mapping[str, Any]) -> ExperimentConfig:
    """The configuration that a checkpoint was made with, from its metadata.

    Raises:
        CheckpointError: the metadata has none, or one that this version does not know.
    """
    try:
        return config_from_dict(metadata["config"])
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"the checkpoint's configuration cannot be used: {error}") from error


def _whole_steps(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return [d for d in directory.iterdir() if d.name.isdigit() and (d / METADATA).is_dir()]


def _check_format(name: str, metadata: Mapping[str, Any]) -> None:
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{name} has format {metadata.get('format')}; this version reads {FORMAT}"
        )


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
